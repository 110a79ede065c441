"""The results as tables: the same rows for the terminal and for docs/benchmark.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.bugs.judge import Outcome, SeveralOutcome
from bench.bugs.run import Results

NOT_RUN = "not run"


@dataclass(frozen=True)
class Sheet:
    """A table: its title, the heads of its columns, its rows."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheets(results: Results) -> tuple[Sheet, ...]:
    """All tables."""
    return (summary(results), per_cause(results), per_port(results))


def summary(results: Results) -> Sheet:
    """Parity beside the baseline, in all."""
    heads = ("", "detected", "place first", "line first", "cause first", "false alarms")
    rows = [("Parity", *_figures(results.outcomes), _alarms([alarm.complaint for alarm in results.alarms]))]
    if any(alarm.complaint_low is not None for alarm in results.alarms):
        low = [alarm.complaint_low for alarm in results.alarms if alarm.complaint_low is not None]
        rows.append(("Parity, bfloat16", "", "", "", "", _alarms(low)))
    else:
        rows.append(("Parity, bfloat16", "", "", "", "", NOT_RUN))
    if results.plain:
        rows.append(
            (
                "hooks and allclose",
                _share(plain.detected for plain in results.plain),
                _share(plain.localised for plain in results.plain),
                "",
                "",
                _share(plain.detected for plain in results.plain_benign),
            )
        )
    if results.several:
        rows.append(("Parity, several bugs at once", *_several(results.several), ""))
    return Sheet("Bugs found", heads, tuple(rows))


def per_cause(results: Results) -> Sheet:
    """One row per cause."""
    names = sorted({outcome.cause for outcome in results.outcomes})
    rows = [_row(f"`{name}`", [one for one in results.outcomes if one.cause == name]) for name in names]
    return Sheet("By cause", ("cause", *_COLUMNS), (*rows, _row("all", results.outcomes)))


def per_port(results: Results) -> Sheet:
    """One row per port."""
    names = dict.fromkeys(outcome.port for outcome in results.outcomes)
    rows = [_row(f"`{name}`", [one for one in results.outcomes if one.port == name]) for name in names]
    return Sheet("By port", ("port", *_COLUMNS), tuple(rows))


def misses(results: Results) -> list[str]:
    """Everything that went wrong, by name, with what was found instead."""
    lines = [_miss(outcome) for outcome in results.outcomes]
    lines += [_several_miss(outcome) for outcome in results.several]
    for alarm in results.alarms:
        if alarm.complaint:
            lines.append(f"{alarm.key}: false alarm: {alarm.complaint}")
        if alarm.complaint_low:
            lines.append(f"{alarm.key}: false alarm in bfloat16: {alarm.complaint_low}")
    return [line for line in lines if line]


_COLUMNS = ("bugs", "detected", "place first", "line first", "cause first")


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    counts = (
        sum(outcome.detected for outcome in outcomes),
        sum(outcome.localised for outcome in outcomes),
        sum(outcome.exact for outcome in outcomes),
        sum(outcome.explained for outcome in outcomes),
    )
    return (name, str(len(outcomes)), *map(str, counts))


def _figures(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    return (
        _share(outcome.detected for outcome in outcomes),
        _share(outcome.localised for outcome in outcomes),
        _share(outcome.exact for outcome in outcomes),
        _share(outcome.explained for outcome in outcomes),
    )


def _several(outcomes: Sequence[SeveralOutcome]) -> tuple[str, ...]:
    return (
        _share(outcome.detected for outcome in outcomes),
        _share(all(outcome.placed) for outcome in outcomes) + " all places",
        "",
        _share(all(outcome.explained) for outcome in outcomes) + " all causes",
    )


def _alarms(complaints: Sequence[str | None]) -> str:
    return _share(bool(complaint) for complaint in complaints)


def _share(right: Iterable[bool]) -> str:
    values = list(right)
    if not values:
        return NOT_RUN
    share = 100 * sum(values) / len(values)
    digits = 1 if 99.5 <= share < 100 else 0  # only all of them are 100 %
    return f"{sum(values)} of {len(values)}" + (f" ({share:.{digits}f} %)" if sum(values) else "")


def _miss(outcome: Outcome) -> str:
    if not outcome.detected:
        why = outcome.error or f"it is {outcome.cause}"
        return f"{outcome.key}: not detected; {why}"
    if not outcome.findings:
        return f"{outcome.key}: could not compare: {outcome.error}" if outcome.error else f"{outcome.key}: no finding"
    first = outcome.findings[0]
    wrong = []
    if not outcome.localised:
        wrong.append(f"place {first.module or '(none)'}, not {' or '.join(outcome.guilty)}")
    if not outcome.exact:
        wrong.append(f"line {first.line or 'none'}, not {', '.join(map(str, outcome.lines))}")
    if not outcome.explained:
        wrong.append(f"cause {first.cause}, not {outcome.cause}")
    return f"{outcome.key}: {'; '.join(wrong)}" if wrong else ""


def _several_miss(outcome: SeveralOutcome) -> str:
    wrong = [
        f"{cause} {'not placed' if not placed else 'not explained'}"
        for cause, placed, explained in zip(outcome.causes, outcome.placed, outcome.explained, strict=True)
        if not (placed and explained)
    ]
    found = ", ".join(f"{seen.cause} at {seen.module or '(none)'}" for seen in outcome.findings) or outcome.error
    return f"{outcome.key}: {'; '.join(wrong)}; found {found}" if wrong else ""
