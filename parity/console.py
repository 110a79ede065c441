"""Where words go: the report to stdout or a file, whole or not at all; progress to stderr."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from parity.errors import ParityError

if TYPE_CHECKING:
    from rich.text import Text

    from parity.generation_records import Watcher


def columns() -> int | None:
    """How wide the terminal is that the report goes to, None if it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def put(text: str, output: Path | None) -> None:
    """Text as it is: to stdout, or to a file."""
    if output is None:
        sys.stdout.write(text)
    else:
        _replace(output, text)


def show(lines: "Iterable[Text]", output: Path | None) -> None:
    """Styled lines: to the terminal, or plainly to a file."""
    if output is not None:
        _replace(output, "".join(f"{line.plain}\n" for line in lines))
        return
    from rich.console import Console

    terminal = Console(highlight=False)
    for line in lines:
        terminal.print(line, soft_wrap=True)


def append(text: str, output: Path) -> None:
    """Text after what a file holds already."""
    try:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ParityError(f"cannot write {output}: {error.strerror}", "Free some space, or mend its rights.") from error


def writable(path: Path) -> None:
    """Find out before the work is done, not after."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ParityError(f"cannot write {path}", "Give a file in a directory that exists and is writable.")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; what is no file, a device or a pipe, is written to and left in its place."""
    name = None
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            name = file.name
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
        name = None
    except OSError as error:
        raise ParityError(f"cannot write {path}: {error.strerror}", "Give another file, or free some space.") from error
    finally:  # of whatever it came to, an interruption included
        if name is not None:
            with suppress(OSError):
                Path(name).unlink()


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A spinner with the present step on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(step)


@contextmanager
def watching(streamed: bool) -> "Iterator[Watcher]":
    """Somebody to tell of a generation: text on the terminal as it comes if `streamed`, else the spinner on stderr."""
    if streamed and sys.stdout.isatty():
        from parity.report.generation_live import Screen

        with Screen() as screen:
            yield screen
        return
    from parity.generation_records import Phrases

    with spinner() as progress:
        yield Phrases(progress)


_Say = Callable[[str], object]
_Step = Callable[[int, int, str], object]
_EVERY = 30.0  # seconds between lines where progress cannot be drawn


@contextmanager
def phrases() -> Iterator[tuple[_Say, _Step]]:
    """The spinner for what goes through no blocks."""
    with spinner() as progress:
        yield progress, lambda *_: None


@contextmanager
def blocks() -> Iterator[tuple[_Say, _Step]]:
    """What to tell the present step, and the blocks done, of how many, and words about them: a bar on stderr.

    Off a terminal there is a line now and then instead.
    """
    if not sys.stderr.isatty():
        yield lambda _: None, _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"),
        TimeRemainingColumn(), TextColumn("{task.fields[worst]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None, worst="")

        def step(done: int, total: int, worst: str) -> None:
            progress.update(task, completed=done, total=total, worst=worst, description="comparing")

        yield lambda phrase: progress.update(task, description=phrase), step


def _lines() -> _Step:
    """A line for a long run's log."""
    began = told = time.monotonic()

    def step(done: int, total: int, worst: str) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _EVERY and done:
            told = now
            left = (now - began) / done * (total - done)
            sys.stderr.write(f"parity: {done} of {total} blocks, about {left:.0f} s left; {worst}\n")

    return step
