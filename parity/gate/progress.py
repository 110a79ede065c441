"""Progress of a gate, on stderr: the cases that run with what each is doing, or a line per case that is over."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID


class Watcher(Protocol):
    """Somebody to tell."""

    def expect(self, jobs: int) -> None:
        """So many more jobs are to come."""

    def begins(self, name: str, phrase: str) -> None:
        """A job begins, or goes on to something else."""

    def over(self, name: str, word: str, seconds: float) -> None:
        """A job is over, and came to `word`."""


class Lines:
    """A line for each job that is over."""

    def __init__(self) -> None:
        self._all = self._done = 0

    def expect(self, jobs: int) -> None:
        """So many more jobs are to come."""
        self._all += jobs

    def begins(self, name: str, phrase: str) -> None:
        """Of no interest in a log."""

    def over(self, name: str, word: str, seconds: float) -> None:
        """Say so."""
        self._done += 1
        sys.stderr.write(f"parity: {self._done} of {self._all}: {name}: {word}, {seconds:.1f} s\n")
        sys.stderr.flush()


class Bars:
    """A bar for all jobs, and a row for each that runs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._whole = self.progress.add_task("gate", total=0)
        self._rows: dict[str, TaskID] = {}
        self._all = 0

    def expect(self, jobs: int) -> None:
        """So many more jobs are to come."""
        self._all += jobs
        self.progress.update(self._whole, total=self._all)

    def begins(self, name: str, phrase: str) -> None:
        """Draw its row."""
        if name not in self._rows:
            self._rows[name] = self.progress.add_task("", total=1)
        self.progress.update(self._rows[name], description=f"  {name}: {phrase}")

    def over(self, name: str, word: str, seconds: float) -> None:
        """Take its row away."""
        self.progress.advance(self._whole)
        if name in self._rows:
            self.progress.remove_task(self._rows.pop(name))


@contextmanager
def watching() -> Iterator[Watcher]:
    """Rows on a terminal, lines off it."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = Bars()
    with bars.progress:
        yield bars
