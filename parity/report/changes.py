"""What is otherwise than in the report before, in words: for somebody who mends a port and looks at each step."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.text import Text

from parity.names import fold
from parity.records import Boundary, Finding, Report, Stage

_STYLE = {"pass": "bold green", "fail": "bold red", "incomplete": "bold yellow"}
_LABEL = 12
Key = tuple[str, ...]


def render(report: Report, before: Report | None, seconds: float) -> Iterator[Text]:
    """What changed, line by line, styled; only how long it took if nothing was before.

    Args:
        report: the present one.
        before: the one before it, of the same port.
        seconds: that the check took.
    """
    took = f"{seconds:.1f} s"
    verdict = (report.verdict, _STYLE[report.verdict])
    if before is None:
        yield Text.assemble(verdict, f" after {took}")
        return
    if report.verdict != before.verdict:
        was = (before.verdict, _STYLE[before.verdict])
        yield Text.assemble(was, " before, ", verdict, f" now, after {took}")
    else:
        yield Text.assemble(verdict, f" as before, after {took}")
    lines = list(_lines(report, before))
    yield from lines or [Text("  nothing else changed", "dim")]


def early(report: Report, seconds: float) -> Iterator[Text]:
    """What is known before lines and causes are: the verdict, and the places to mend.

    Args:
        report: of what was compared so far; it fails.
        seconds: that it took.
    """
    yield Text.assemble((report.verdict, _STYLE[report.verdict]), f" after {seconds:.1f} s, lines and causes to follow")
    own = _named("wrong", "red", _wrong(report).values())
    yield from (_line("place", "red", finding.title) for finding in report.findings) if report.findings else own


def _lines(report: Report, before: Report) -> Iterator[Text]:
    for label, style, findings in (
        ("mended", "green", _only(before.findings, report.findings, _of_finding)),
        ("new", "red", _only(report.findings, before.findings, _of_finding)),
    ):
        for finding in findings:
            yield _line(label, style, _told(finding))
    ours, theirs = _wrong(report), _wrong(before)
    yield from _named("now right", "green", _gone(theirs, ours, report.boundaries))
    yield from _named("now wrong", "red", _gone(ours, theirs, before.boundaries))
    yield from _named("not there", "yellow", _lost(before, report))
    yield from _named("now there", "dim", _lost(report, before))
    yield from _stages(report.stages, before.stages)


def _line(label: str, style: str, text: str) -> Text:
    return Text.assemble("  ", (f"{label:<{_LABEL}}", style), text)


def _only(findings: Iterable[Finding], others: Iterable[Finding], key: Callable[[Finding], Key]) -> Iterator[Finding]:
    """Findings that are not among others."""
    left = Counter(map(key, others))
    for finding in findings:
        if left[key(finding)]:
            left[key(finding)] -= 1
        else:
            yield finding


def _of_finding(finding: Finding) -> Key:
    """What makes it the same finding, though its figures and its line have changed."""
    return finding.stage, finding.cause, finding.reference_module, finding.port_module


def _told(finding: Finding) -> str:
    place = finding.port_module or finding.reference_module or "the model"
    source = finding.port_source
    where = f", {source.file}:{source.line}" if source else ""
    return f"{finding.title}: {finding.cause} in {place}{where}"


def _of_boundary(boundary: Boundary) -> Key:
    return boundary.stage, boundary.name


def _wrong(report: Report) -> Mapping[Key, Boundary]:
    """The boundaries that differ, by themselves or because of others."""
    return {_of_boundary(each): each for each in report.boundaries if each.verdict == "diff"}


def _gone(first: Mapping[Key, Boundary], second: Mapping[Key, Boundary], there: Iterable[Boundary]) -> list[Boundary]:
    """Boundaries of the first that are not in the second, though they are compared on both sides."""
    compared = {_of_boundary(each) for each in there if each.verdict != "not_compared"}
    return [each for key, each in first.items() if key not in second and key in compared]


def _lost(report: Report, other: Report) -> list[Boundary]:
    """What one report compares and the other does not; taps are looked at on a failure alone."""
    compared = {_of_boundary(each) for each in other.boundaries if each.verdict != "not_compared"}
    own = [each for each in report.boundaries if each.verdict != "not_compared" and each.kind != "tap"]
    return [each for each in own if _of_boundary(each) not in compared]


def _named(label: str, style: str, boundaries: Iterable[Boundary]) -> Iterator[Text]:
    """How many boundaries of each stage, and which, but for those that only follow from others."""
    by_stage: dict[str, list[Boundary]] = {}
    for boundary in boundaries:
        by_stage.setdefault(boundary.stage, []).append(boundary)
    for stage, found in by_stage.items():
        own = [each.name for each in found if not each.inherited]
        rest = len(found) - len(own)
        follow = f"{_counted(rest)} of {stage} that only inherited" if rest else ""
        named = f"{_counted(len(own))} of {stage}: {', '.join(fold(own))}" if own else ""
        yield _line(label, style, "; ".join(filter(None, (named, follow))))


def _counted(boundaries: int) -> str:
    return f"{boundaries} boundar{'y' if boundaries == 1 else 'ies'}"


def _stages(stages: Iterable[Stage], before: Iterable[Stage]) -> Iterator[Text]:
    was = {stage.name: stage for stage in before}
    for stage in stages:
        old = was.get(stage.name)
        if old is not None and old.verdict != stage.verdict:
            reason = f", {stage.reason}" if stage.verdict == "not_run" and stage.reason else ""
            yield _line("stage", "dim", f"{stage.name}: {_word(old)} before, {_word(stage)} now{reason}")


def _word(stage: Stage) -> str:
    return stage.verdict.replace("_", " ")


def failed(error: str, seconds: float) -> Text:
    """That nothing could be compared, in one line."""
    return Text.assemble(("not compared", "bold yellow"), f" after {seconds:.1f} s: {' '.join(error.split())}")
