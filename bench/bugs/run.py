"""Everything judged, in as many processes as asked for."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bench.bugs.baseline import Plain, debug
from bench.bugs.judge import Alarm, Outcome, SeveralOutcome, judge, judge_benign, judge_several
from bench.bugs.mutant import Benign, Mutant, Several

Case = TypeVar("Case")
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


def run(
    mutants: Sequence[Mutant], several: Sequence[Several], benign: Sequence[Benign], jobs: int, baseline: bool
) -> Results:
    """Judge all cases."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes when they start
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    context = multiprocessing.get_context("spawn")
    with Progress(*columns, console=console) as progress:

        def each(label: str, judging: Callable[[Case], Result], cases: Sequence[Case]) -> tuple[Result, ...]:
            task = progress.add_task(label, total=len(cases))
            found: list[Result] = []
            for start in range(0, len(cases), jobs * CASES_PER_PROCESS):
                with ProcessPoolExecutor(jobs, mp_context=context) as pool:
                    batch = cases[start : start + jobs * CASES_PER_PROCESS]
                    futures = [pool.submit(judging, case) for case in batch]
                    for _ in as_completed(futures):
                        progress.advance(task)
                    found += [future.result() for future in futures]
            return tuple(found)

        return Results(
            outcomes=each("bugs", judge, mutants),
            several=each("several bugs at once", judge_several, several),
            alarms=each("equivalent rewrites", judge_benign, benign),
            plain=each("baseline", debug, mutants) if baseline else (),
            plain_benign=each("baseline, rewrites", debug, benign) if baseline else (),
        )
