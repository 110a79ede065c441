"""What every view of a gate says in the same words: the summary, and what there is to say of each case."""

from collections.abc import Iterator

from parity.gate_records import Gate, Result, Trial
from parity.report import plain, words

_WORDS = {"pass": "passes", "fail": "fails", "incomplete": "could not be compared"}
_MANY = {"pass": "pass", "fail": "fail", "incomplete": "could not be compared"}
TRIALS = {"seen": "seen", "blind": "NOT SEEN", "untested": "not tried"}


def headline(gate: Gate) -> str:
    """How many cases came to what, and why the gate says what it says beyond that."""
    if not gate.results and gate.since and not gate.lost:
        return f"nothing to check: nothing that {_many(len(gate.skipped))} made of changed since {gate.since}"
    counts = {word: sum(each.verdict == word for each in gate.results) for word in _WORDS}
    told = ", ".join(f"{count} {(_MANY if count > 1 else _WORDS)[word]}" for word, count in counts.items() if count)
    cases = "1 case" if len(gate.results) == 1 else f"{len(gate.results)} cases"
    more = [f"{len(gate.skipped)} left out, unchanged since {gate.since}"] if gate.skipped else []
    more += [f"{len(gate.lost)} of the baseline not checked any more"] if gate.lost else []
    unseen_faults = sum(trial.verdict != "seen" for trial in gate.trials)
    more += [f"{unseen_faults} of {len(gate.trials)} injected faults not seen"] if unseen_faults else []
    more += ["interrupted"] if gate.interrupted else []
    return "; ".join([f"{cases}: {told}" if gate.results else "no case was checked", *more])


def _many(cases: int) -> str:
    return "the case is" if cases == 1 else f"any of the {cases} cases is"


def circumstances(gate: Gate) -> str:
    """Time, processes, memory."""
    text = f"{gate.seconds:.1f} s, {gate.jobs} process{'es' * (gate.jobs > 1)} side by side"
    return text + (f", {gate.memory / 2**20:,.0f} MiB at most" if gate.memory else "")


def self_test(gate: Gate) -> str:
    """What the self-test came to, in a line; nothing if there was none."""
    if not gate.trials:
        return ""
    seen = sum(trial.verdict == "seen" for trial in gate.trials)
    cases = ", ".join(dict.fromkeys(trial.case.name for trial in gate.trials))
    return f"self-test on {cases}: {seen} of {len(gate.trials)} injected faults seen"


def unseen(trial: Trial) -> str:
    """Why a fault that was not seen stops the gate."""
    where = f"{trial.case.name}, stage {trial.stage}"
    if trial.verdict == "blind":
        return f"{where}: {trial.fault}, and the stage passes all the same: this gate is blind in {trial.stage}"
    return f"{where}: the self-test proves nothing: {trial.problem}"


def stages(result: Result) -> str:
    """The stages that ran, those that failed in capitals."""
    ran = result.report.stages if result.report else ()
    told = (each.name.upper() if each.verdict == "fail" else each.name for each in ran if each.verdict != "not_run")
    return " ".join(told)


def places(result: Result) -> tuple[str, str]:
    """How many boundaries were compared, and how many of them are exact."""
    found = [] if result.report is None else [each for each in result.report.boundaries if each.kind != "tap"]
    compared = [each for each in found if each.verdict != "not_compared"]
    exact = sum(each.verdict == "exact" for each in compared)
    return (str(len(compared)), str(exact)) if result.report else ("", "")


def says(result: Result) -> Iterator[str]:
    """What there is to say of a case that does not pass: the problem, the findings, what it lost."""
    if result.report is None:
        yield result.problem
        return
    if result.report.verdict == "incomplete":
        yield from plain.missing(result.report)
    for finding in result.report.findings:
        source = finding.port_source
        why = "".join(f"; it {explanation.text}" for explanation in finding.explanations[:1])
        yield finding.title + why + (f" ({source.file}:{source.line})" if source else "")
    if result.report.verdict == "fail" and not result.report.findings:
        yield words.headline(result.report)
    yield from (each.text for each in result.lost)


def problems(gate: Gate) -> Iterator[str]:
    """What is wrong with the gate as a whole, a sentence each."""
    yield from (each.text for each in gate.lost)
    yield from (unseen(trial) for trial in gate.trials if trial.verdict != "seen")
    if gate.problem:
        yield gate.problem
