"""Text as it is generated, on a terminal: both sides beside each other, and below them what is being done."""

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from parity.generation_records import Prompt, Side, Watcher
from parity.report.beside import BETWEEN, beside, marked, visible, wrapped

_FEWEST = 2  # lines of each prompt's text that are shown, however many prompts there are


class Screen(Watcher):
    """What is on the terminal while a generation runs; gone when it has ended."""

    def __init__(self, console: Console | None = None):
        # stdout by name: while a port runs, what it prints goes to stderr instead
        console = console or Console(file=sys.stdout, highlight=False)
        self._live = Live(self, console=console, transient=True, refresh_per_second=12, redirect_stdout=False)
        self._spinner = Spinner("dots", "starting")
        self._prompts: Sequence[Prompt] = ()
        self._sides: Sequence[Side] = ()
        self._texts: dict[tuple[int, Side], str] = {}

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def progress(self, phrase: str) -> None:
        """What the spinner says."""
        self._spinner.update(text=phrase)

    def begin(self, prompts: Sequence[Prompt], sides: Sequence[Side]) -> None:
        """Room for the prompts' texts."""
        self._prompts, self._sides = prompts, sides
        self.progress("generating")

    def tokens(self, row: int, side: Side, text: str) -> None:
        """A text has grown."""
        self._texts[row, side] = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As much as fits, the ends of the texts first."""
        height = console.size.height - 2
        each = max(_FEWEST, height // max(1, len(self._prompts)) - 2)
        most = max(1, height // (each + 2))
        shown = sorted({row for row, _ in self._texts})[-most:]
        for row in shown:
            yield from self._block(row, options.max_width, each)
        yield self._spinner

    def _block(self, row: int, width: int, lines: int) -> list[Text]:
        """The prompt, and the ends of both texts below it."""
        prompt = self._prompts[row]
        head = Text(visible(prompt.text or f"prompt {row + 1}"), "dim", no_wrap=True, overflow="ellipsis")
        port, reference = (visible(self._texts.get((row, side), "")).rstrip("\n") for side in ("port", "reference"))
        if "reference" not in self._sides:
            return [head, *wrapped(Text(port), width)[-lines:]]
        ours, theirs = marked(port, reference)
        if port.startswith(reference) or reference.startswith(port):  # one side is a token ahead
            ours, theirs = Text(port), Text(reference)
        column = (width - len(BETWEEN)) // 2
        left, right = wrapped(ours, column), wrapped(theirs, column)
        first = max(0, max(len(left), len(right)) - lines)
        heads = beside([Text("port", "bold")], [Text("reference", "bold")], column)
        return [head, *heads, *beside(left[first:], right[first:], column)]
