"""The gate as a whole: cases, what changed, processes, the self-test, the baseline, one result."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from parity import console
from parity.gate import baseline as baselines
from parity.gate import changed
from parity.gate.baseline import Baseline, Cover
from parity.gate.child import Checked, Job
from parity.gate.progress import Watcher
from parity.gate.workers import Ended, Limits, Pool
from parity.gate_records import Case, Gate, Lost, Result, Trial, Wanted

_LIBRARIES = ("torch", "transformers")
_WORDS = {"seen": "the fault is seen", "blind": "the fault is NOT seen", "untested": "no fault could be tried"}


@dataclass(frozen=True)
class Plan:
    """What a gate does.

    whole: all cases of the project are there, so that one of the baseline that is not is missed. root: the project's
    directory, from which cases are run. baseline: its file, and whether it has to be there. update: write it.
    self_test: of the first case that passes, or of every one.
    """

    cases: tuple[Case, ...]
    wanted: Wanted
    limits: Limits
    root: Path
    whole: bool = True
    since: str = ""
    baseline: Path | None = None
    needs_baseline: bool = False
    update: bool = False
    self_test: bool = False
    self_test_all: bool = False


def run(plan: Plan, watcher: Watcher) -> Gate:
    """Check everything that is to be checked.

    Raises:
        ParityError: bad input; says what to do next. What is wrong with one case is that case's result.
    """
    began = time.perf_counter()
    frozen = _frozen(plan)
    chosen, skipped, notes = _chosen(plan, frozen)
    done = _Done(plan, chosen, watcher)
    interrupted = False
    if chosen:
        try:
            done.go()
        except KeyboardInterrupt:
            interrupted = True
    results = tuple(done.result(case) for case in chosen)
    held = frozen if frozen is not None and not plan.update else None
    gate = Gate(
        results=tuple(_held_against(held, each, done.machines) for each in results),
        trials=tuple(done.trials),
        lost=_gone(plan, held),
        skipped=tuple(skipped),
        since=plan.since,
        notes=(*notes, *_notes(plan, held, done)),
        problem=_unproved(plan, done, interrupted),
        seconds=time.perf_counter() - began,
        memory=done.memory,
        jobs=plan.limits.jobs,
        interrupted=interrupted,
        options=plan.wanted.options,
    )
    return replace(gate, notes=(*gate.notes, _update(plan, frozen, gate, done))) if plan.update else gate


def _frozen(plan: Plan) -> Baseline | None:
    """The baseline, None if there is none and none is asked for."""
    if plan.baseline is None:
        return None
    if plan.update:
        console.writable(plan.baseline)
        if plan.whole and not plan.since:  # nothing of what it holds stays
            return None
    if not plan.baseline.exists() and not plan.needs_baseline:
        return None
    return baselines.read(plan.baseline)


def _chosen(plan: Plan, frozen: Baseline | None) -> tuple[list[Case], list[Case], list[str]]:
    """The cases to check, those left out, and what is to be said of it."""
    if not plan.since:
        return list(plan.cases), [], []
    change = changed.since(plan.since, plan.root, plan.baseline)
    other = baselines.other_versions(frozen, _installed()) if frozen is not None else ()
    whole = change.whole or (f"other versions are installed: {', '.join(other)}" if other else "")
    if whole:
        return list(plan.cases), [], [f"everything is checked: {whole}"]
    chosen = [case for case in plan.cases if changed.touched(case, change, plan.root)]
    return chosen, [case for case in plan.cases if case not in chosen], []


def _installed() -> dict[str, str]:
    """Versions of the libraries that a report hangs on, found without importing them."""
    return {name: version(name) for name in _LIBRARIES}


class _Done:
    """What has come back so far."""

    def __init__(self, plan: Plan, cases: Sequence[Case], watcher: Watcher):
        self.trials: list[Trial] = []
        self.machines: dict[Case, str] = {}
        self.memory = 0
        self._plan = plan
        self._cases = cases
        self._watcher = watcher
        self._results: dict[Case, Result] = {}
        self._tried: set[Case] = set()

    def go(self) -> None:
        """Run everything, and ask for the self-test of a case as soon as it may be."""
        pool = Pool(self._plan.limits, self._watcher.begins)
        self._watcher.expect(len(self._cases))
        for case in self._cases:
            pool.add(self._job(case))
        with pool:
            for each in pool.ended():
                self.memory = pool.memory
                self._watcher.over(each.job.name, self._kept(each), each.seconds)
                for job in self._next():
                    self._watcher.expect(1)
                    pool.add(job, first=True)

    def result(self, case: Case) -> Result:
        """What a case came to."""
        return self._results.get(case) or Result(case, problem="it was interrupted before it was over. Run it again.")

    @property
    def results(self) -> tuple[Result, ...]:
        """Those of the cases that are over."""
        return tuple(self._results.values())

    @property
    def passed(self) -> list[Case]:
        """The cases whose reports pass."""
        return [case for case in self._cases if case in self._results and self._results[case].verdict == "pass"]

    def _job(self, case: Case, stage: str = "") -> Job:
        threads = max(1, (os.cpu_count() or 1) // self._plan.limits.jobs)
        return Job(case, self._plan.wanted, self._plan.root, threads, stage, dict(os.environ))

    def _kept(self, ended: Ended) -> str:
        """Keep what a job came to; in words."""
        case = ended.job.case
        if ended.job.stage:
            made = ended.value or Trial(case, ended.job.stage, "a fault", problem=ended.problem)
            self.trials.append(replace(made, seconds=ended.seconds))
            return _WORDS[made.verdict]
        checked: Checked | None = ended.value
        report = checked.report if checked else None
        self._results[case] = Result(case, report, ended.problem, ended.seconds, ended.memory)
        if checked:
            self.machines[case] = checked.machine
        return self._results[case].verdict if report else "could not be compared"

    def _next(self) -> Iterator[Job]:
        """Self-tests that may begin by now."""
        for case in self._ripe():
            result = self._results[case]
            if case not in self._tried and result.report is not None:
                self._tried.add(case)
                stages = [stage.name for stage in result.report.stages if stage.verdict == "pass"]
                yield from (self._job(case, stage) for stage in reversed(stages))

    def _ripe(self) -> list[Case]:
        """The cases to try faults on: every one that passes, or the first in order that does, once that is known."""
        if self._plan.self_test_all:
            return self.passed
        for case in self._cases if self._plan.self_test else ():
            if case not in self._results or self._results[case].verdict == "pass":
                return [case] if case in self._results else []
        return []


def _unproved(plan: Plan, done: _Done, interrupted: bool) -> str:
    """Why the self-test that was asked for proves nothing."""
    asked = plan.self_test or plan.self_test_all
    if asked and not interrupted and not done.trials and done.results:
        return "no self-test: no case passes, and only one that does can show that a fault is seen"
    return ""


def _held_against(frozen: Baseline | None, result: Result, machines: Mapping[Case, str]) -> Result:
    """A result with what it lost against the baseline."""
    before = None if frozen is None else frozen.cases.get(result.case.name)
    if before is None or result.report is None:
        return result
    return replace(result, lost=baselines.lost(before, result.report, machines[result.case]))


def _gone(plan: Plan, frozen: Baseline | None) -> tuple[Lost, ...]:
    if frozen is None or not plan.whole:
        return ()
    names = {case.name for case in plan.cases}
    return tuple(
        Lost("case", f"{name} is in the baseline, and is not checked any more")
        for name in sorted(frozen.cases)
        if name not in names
    )


def _notes(plan: Plan, frozen: Baseline | None, done: _Done) -> Iterator[str]:
    """What the comparison with the baseline could not say."""
    if frozen is None:
        if plan.whole and not plan.update and done.machines:
            yield "there is no baseline, so that cover may shrink unseen; parity gate --update-baseline writes one"
        return
    fresh = {case: _cover(done, case) for case in done.machines}
    new = [case.name for case in fresh if case.name not in frozen.cases]
    if new:
        yield f"not in the baseline yet: {', '.join(new)}; parity gate --update-baseline adds what is new"
    pairs = [(case, frozen.cases[case.name], now) for case, now in fresh.items() if case.name in frozen.cases]
    apart = dict.fromkeys(each for _, before, now in pairs for each in baselines.incomparable(before, now))
    if apart:
        yield f"exactness is not held against the baseline, which was made elsewhere: {'; '.join(apart)}"
    unknown = [case.name for case, before, now in pairs if baselines.unknown_now(before, now)]
    if unknown:
        yield f"blind spots are not held against the baseline, nobody audited here: {', '.join(unknown)}"


def _cover(done: _Done, case: Case) -> Cover:
    report = done.result(case).report
    assert report is not None
    return baselines.cover(report, done.machines[case])


def _update(plan: Plan, frozen: Baseline | None, gate: Gate, done: _Done) -> str:
    """Write the baseline, if everything passes; in words."""
    assert plan.baseline is not None
    if any(result.verdict != "pass" for result in gate.results) or gate.interrupted:
        return f"{plan.baseline.name} is left as it was: a baseline is made of cases that pass"
    if not gate.results:
        return f"{plan.baseline.name} is left as it was: nothing was checked"
    fresh: dict[Case, Cover] = {result.case: _cover(done, result.case) for result in gate.results}
    kept = [case.name for case in plan.cases] if plan.whole else None
    console.put(baselines.text(baselines.merged(frozen, fresh, kept)), plan.baseline)
    many = "1 case" if len(fresh) == 1 else f"{len(fresh)} cases"
    return f"{plan.baseline.name} holds what {many} cover{'s' if len(fresh) == 1 else ''} now"
