"""The report in Markdown: verdict, stages, findings with the lines of both sides, figures, what was not covered."""

import math
from collections.abc import Iterable, Iterator, Sequence

from parity.names import fold
from parity.records import Boundary, Finding, Report, Source, Stage
from parity.report import words
from parity.report.code import numbered
from parity.report.markup import block, cell, code, items, prose, table

_VERDICTS = {"pass": "pass", "fail": "**fail**", "not_run": "not run"}
_CUT = "\nThe rest is left out: a job summary holds no more than 1 MiB. `--format markdown=FILE` writes all of it.\n"
_CODE = ("port", "reference", "cause", "also in")  # labels whose values are names
_DEEPEST = 6  # heading


def render(report: Report) -> str:
    """The report as Markdown."""
    return "\n".join(blocks(report))


def summary(report: Report, room: int) -> str:
    """The report as Markdown for a job summary, in at most `room` bytes: sections that do not fit are left out."""
    return fitting(blocks(report, 2), room)


def fitting(parts: Iterable[str], room: int) -> str:
    """As many parts as fit into so many bytes, from the first one on, and a sentence if that is not all."""
    kept, left = "", room - len(_CUT.encode())
    if left < 0:
        return ""
    for part in parts:
        more = f"\n{part}"
        if len(more.encode()) > left:
            return kept + _CUT
        kept, left = kept + more, left - len(more.encode())
    return kept


def blocks(report: Report, level: int = 1) -> Iterator[str]:
    """The report's sections one by one, each whole in itself, under a heading of some level."""
    title, section = "#" * level, "#" * min(level + 1, _DEEPEST)
    yield f"{title} {words.VERDICTS[report.verdict]}: {prose(words.headline(report))}\n"
    covered = words.coverage(report)
    yield prose(words.circumstances(report)) + "\n" + (f"\n{prose(covered[0])}\n" if covered else "")
    for number, finding in enumerate(report.findings, 1):
        heading = f"{section} Look first at\n\n" if number == 1 else ""
        yield heading + _finding(finding, number, "#" * min(level + 2, _DEEPEST))
    yield f"{section} Stages\n\n" + table(
        ("stage", "verdict", "compared", "wrong by themselves", "largest relative error", "seconds", ""),
        (_stage(report, stage) for stage in report.stages),
        right=range(2, 6),
    )
    yield from _differing(report, section)
    missing = [*_uncompared(report.boundaries), *words.gaps(report)]
    if missing:
        yield f"{section} Not covered\n\n" + items(missing)


def _finding(finding: Finding, number: int, heading: str) -> str:
    parts = [f"{heading} {number}. {prose(finding.title)}\n", _rows(words.details(finding))]
    for side, source in (("Port", finding.port_source), ("Reference", finding.reference_source)):
        if source is not None:
            parts.append(f"{side}, {code(_at(source))}:\n\n{block(numbered(source))}")
    told = words.evidence(finding)
    return "\n".join([*parts, *([_rows(told)] if told else [])])


def _rows(rows: Sequence[words.Row]) -> str:
    return "".join(f"- {label}: {code(value) if label in _CODE else prose(value)}\n" for label, value in rows)


def _at(source: Source) -> str:
    return f"{source.file}:{source.line}"


def _stage(report: Report, stage: Stage) -> tuple[str, ...]:
    ran = stage.verdict != "not_run"
    rows = [each for each in words.judged(report, stage.name) if each.verdict != "not_compared"]
    worst = max((each.relative for each in rows if each.relative is not None), default=None, key=_size)
    return (
        stage.name,
        _VERDICTS[stage.verdict],
        str(len(rows)) if rows else "",
        str(sum(map(words.own, rows))) if rows else "",
        words.figure(worst) if rows else "",
        f"{stage.seconds:.1f}" if ran else "",
        "" if ran else prose(stage.reason),  # else it is among the notes
    )


def _size(value: float) -> float:
    return math.inf if math.isnan(value) else value  # the worst of all


def _differing(report: Report, section: str) -> Iterator[str]:
    """The figures of what is wrong by itself, and how many only inherit."""
    wrong = [each for each in report.boundaries if words.own(each)]
    inherited = sum(each.inherited for each in report.boundaries)
    if wrong:
        head = ("stage", "boundary", "max", "mean", "relative", "times the reference's", "port")
        inside = any(each.kind == "tap" for each in wrong)
        told = f"\n{prose('module:name is a value inside a module')}\n" if inside else ""
        yield (
            f"{section} Boundaries that are wrong by themselves\n\n"
            + table(head, map(_figures, wrong), right=range(2, 6))
            + told
        )
    if inherited:
        many = f"{inherited} more boundaries differ" if inherited > 1 else "One more boundary differs"
        yield f"{many} only because of what came in: inherited.\n"


def _figures(boundary: Boundary) -> tuple[str, ...]:
    return (
        boundary.stage,
        cell(boundary.name),
        *map(words.figure, (boundary.max_abs, boundary.mean_abs, boundary.relative)),
        f"{boundary.ratio:.2f}" if boundary.ratio else "",
        cell(boundary.port_module),
    )


def _uncompared(boundaries: Iterable[Boundary]) -> Iterator[str]:
    """Boundaries that were not compared, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for each in boundaries:
        if each.verdict == "not_compared":
            reasons.setdefault(words.uncompared(each), []).append(each.name)
    for reason, names in reasons.items():
        yield f"{', '.join(fold(names))}: {reason}"
