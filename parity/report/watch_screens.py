"""Where a watch is shown: in place on a terminal, one report after the other elsewhere, a line of JSON for machines."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType

from rich.console import Console
from rich.text import Text

from parity.records import Report
from parity.report import changes
from parity.report.json import document
from parity.report.text import render

Progress = Callable[[str], object]
_RULE = "-" * 80
_ROOM = 3  # lines below a report: how much more there is, and what is being done


class Lines:
    """Reports one after the other, each below what changed; nothing is ever left out."""

    def __init__(self, every: bool):
        self._every = every

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def busy(self) -> "nullcontext[Progress]":
        """Nothing is shown meanwhile."""
        return nullcontext(lambda _: None)

    def early(self, report: Report, seconds: float) -> None:
        """What is known so far, a few lines; the report that follows is whole without them."""
        self._write(*(line.plain for line in changes.early(report, seconds)))

    def report(self, report: Report, before: Report | None, seconds: float) -> None:
        """What changed, and the report."""
        found = (*changes.render(report, before, seconds), Text(""), *render(report, self._every))
        self._write(*(line.plain for line in found), _RULE)

    def failed(self, error: str, seconds: float) -> None:
        """One line."""
        self._write(changes.failed(error, seconds).plain, _RULE)

    def _write(self, *lines: str) -> None:
        sys.stdout.write("\n".join((*lines, "")))
        sys.stdout.flush()

    def idle(self) -> None:
        """Nothing to do."""


class JsonLines(Lines):
    """A document for each check, in a line of its own; what could not be compared goes to stderr."""

    def early(self, report: Report, seconds: float) -> None:
        """Nothing: a document is whole."""

    def report(self, report: Report, before: Report | None, seconds: float) -> None:
        """The whole report, whatever was before."""
        sys.stdout.write(json.dumps(document(report), allow_nan=False) + "\n")
        sys.stdout.flush()

    def failed(self, error: str, seconds: float) -> None:
        """One line."""
        sys.stderr.write(f"parity: {error}\n")


class Terminal:
    """The terminal while a watch goes on: as much as fits, what changed first; the last report stays there after it."""

    def __init__(self, every: bool, console: Console | None = None):
        # stdout by name: while a port runs, what it prints goes to stderr instead
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._every = every
        self._head: list[Text] = []
        self._last: Report | None = None
        self._drawn = self._console.size

    def __enter__(self) -> "Terminal":
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._console.show_cursor(True)
        self._console.set_alt_screen(False)
        for line in self._lines():
            self._console.print(line, soft_wrap=True)

    @contextmanager
    def busy(self) -> Iterator[Progress]:
        """A spinner below what is shown."""
        with self._console.status("starting") as status:
            yield status.update

    def early(self, report: Report, seconds: float) -> None:
        """What is known so far, in place of what was there; a watch that ends now still leaves the last report."""
        self._draw(list(changes.early(report, seconds)))

    def report(self, report: Report, before: Report | None, seconds: float) -> None:
        """What changed, and as much of the report as fits."""
        self._head, self._last = list(changes.render(report, before, seconds)), report
        self._draw()

    def failed(self, error: str, seconds: float) -> None:
        """One line above the report that was there."""
        self._head = [changes.failed(error, seconds)]
        self._draw()

    def idle(self) -> None:
        """Draw anew if the terminal has another size."""
        if self._console.size != self._drawn:
            self._draw()

    def _lines(self) -> list[Text]:
        found = list(self._head)
        if self._last is not None:
            found += [Text(""), *render(self._last, self._every, self._console.width)]
        return found

    def _draw(self, lines: list[Text] | None = None) -> None:
        self._drawn = self._console.size
        width, room = self._drawn.width, max(1, self._drawn.height - _ROOM)
        rows = [
            row
            for line in lines or self._lines()
            for part in line.split("\n")
            for row in part.wrap(self._console, width)
        ]
        self._console.clear()
        for row in rows[:room]:
            self._console.print(row, no_wrap=True, overflow="crop", crop=True)
        if len(rows) > room:
            self._console.print(Text(f"{len(rows) - room} lines more, shown when you end the watch with Ctrl-C", "dim"))


def screen(is_json: bool, every: bool) -> Lines | Terminal:
    """The one for where the output goes."""
    if is_json:
        return JsonLines(every)
    return Terminal(every) if sys.stdout.isatty() else Lines(every)
