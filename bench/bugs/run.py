"""Everything judged, in as many processes as asked for."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bench.bugs.baseline import Plain, debug
from bench.bugs.judge import Alarm, Outcome, SeveralOutcome, judge, judge_benign, judge_several
from bench.bugs.mutant import Benign, Mutant, Several


class Named(Protocol):
    """A case."""

    @property
    def key(self) -> str:
        """Port and name."""


Case = TypeVar("Case", bound=Named)
Result = TypeVar("Result")

# Processes are replaced after so many cases each: what a check leaves behind in one would add up over hundreds.
CASES_PER_PROCESS = 24


@dataclass(frozen=True)
class Results:
    """What came out, in the order of the catalogue. plain, plain_benign: the baseline's word on the same ports."""

    outcomes: tuple[Outcome, ...]
    several: tuple[SeveralOutcome, ...]
    alarms: tuple[Alarm, ...]
    plain: tuple[Plain, ...]
    plain_benign: tuple[Plain, ...]


class Notes:
    """What came out so far, on disk if a file is given, so that a run that was cut off goes on where it was."""

    def __init__(self, file: Path | None):
        self._file = file
        self._found: dict[tuple[str, str], Any] = {}
        if file is not None and file.exists():
            with file.open("rb") as stream:
                while stream.peek():
                    label, key, result = pickle.load(stream)
                    self._found[label, key] = result

    def get(self, label: str, key: str) -> Any:
        """What came of a case; None if it is yet to be judged."""
        return self._found.get((label, key))

    def put(self, label: str, key: str, result: object) -> None:
        """Note what came of a case."""
        self._found[label, key] = result
        if self._file is not None:
            with self._file.open("ab") as stream:
                pickle.dump((label, key, result), stream)


def _keyed(judging: Callable[[Case], Result], case: Case) -> tuple[str, Result]:
    return case.key, judging(case)


def run(
    mutants: Sequence[Mutant],
    several: Sequence[Several],
    benign: Sequence[Benign],
    jobs: int,
    baseline: bool,
    notes: Notes,
) -> Results:
    """Judge all cases that nothing is noted of."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes when they start
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    context = multiprocessing.get_context("spawn")
    with Progress(*columns, console=console) as progress:

        def each(label: str, judging: Callable[[Case], Result], cases: Sequence[Case]) -> tuple[Result, ...]:
            waiting = [case for case in cases if notes.get(label, case.key) is None]
            task = progress.add_task(label, total=len(cases), completed=len(cases) - len(waiting))
            with context.Pool(jobs, maxtasksperchild=CASES_PER_PROCESS) as pool:
                for key, result in pool.imap_unordered(partial(_keyed, judging), waiting):
                    notes.put(label, key, result)
                    progress.advance(task)
            return tuple(notes.get(label, case.key) for case in cases)

        return Results(
            outcomes=each("bugs", judge, mutants),
            several=each("several bugs at once", judge_several, several),
            alarms=each("equivalent rewrites", judge_benign, benign),
            plain=each("baseline", debug, mutants) if baseline else (),
            plain_benign=each("baseline, rewrites", debug, benign) if baseline else (),
        )
