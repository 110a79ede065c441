"""The text report: the verdict, what to look at first, the boundaries in the order data flows, what was not covered."""

from collections.abc import Iterable, Iterator

from rich.text import Text

from parity.names import fold, numbers
from parity.records import Boundary, Finding, Report

_HEADLINE = {"pass": ("PASS", "bold green"), "fail": ("FAIL", "bold red"), "incomplete": ("INCOMPLETE", "bold yellow")}
_MARK = {
    "exact": ("[OK]  ", "green"),
    "ok": ("[OK]  ", "green"),
    "diff": ("[DIFF]", "bold red"),
    "not_compared": ("[--]  ", "yellow"),
}
_INHERITED = ("[diff]", "dim")


def render(report: Report, every: bool = False) -> Iterator[Text]:
    """The report line by line, styled.

    Args:
        report: what to tell.
        every: show all boundaries, not only the blocks and what differs by itself.
    """
    yield _headline(report)
    yield _circumstances(report)
    yield from _first_look(report)
    if report.boundaries:
        yield from _table(report, every)
    yield from _not_covered(report)


def _headline(report: Report) -> Text:
    word, style = _HEADLINE[report.verdict]
    return Text.assemble((word, style), f"  {report.port} against {report.reference}: {_summary(report)}")


def _circumstances(report: Report) -> Text:
    versions = report.versions
    made_with = f"transformers {versions.transformers}, torch {versions.torch}"
    return Text(f"      {made_with}, {report.weights} weights, seed {report.seed}", "dim")


def _summary(report: Report) -> str:
    if report.findings:
        first = report.findings[0]
        place = first.port_module or first.reference_module or "the model"
        count = len(report.findings)
        return f"{count} finding{'s' * (count > 1)}, first in {place}"
    compared = [boundary for boundary in report.boundaries if boundary.verdict != "not_compared"]
    if not compared:
        ran = [stage.name for stage in report.stages if stage.verdict != "not_run"]
        return f"nothing wrong in {' and '.join(ran)}" if ran else "nothing was compared"
    worst = max(compared, key=lambda boundary: boundary.relative or 0.0)
    bitwise = sum(boundary.verdict == "exact" for boundary in compared)
    if bitwise == len(compared):
        return f"{bitwise} boundaries equal in promoted float64, bitwise"
    return (
        f"{len(compared)} boundaries equal in promoted float64, {bitwise} of them bitwise, "
        f"largest relative error {_figure(worst.relative)} at {worst.name}"
    )


def _first_look(report: Report) -> Iterator[Text]:
    if not report.findings:
        return
    yield Text("\nLook first at", "bold")
    for number, finding in enumerate(report.findings, 1):
        yield Text.assemble(f"{number:3d}. ", (finding.title, "bold" if number == 1 else ""))
        yield from _details(finding)


def _details(finding: Finding) -> Iterator[Text]:
    rows = [
        ("port", finding.port_module or "(no module of its own)"),
        ("reference", finding.reference_module or "(no counterpart)"),
        ("cause", finding.cause),
    ]
    rows += [("why", explanation.text) for explanation in finding.explanations[:1]]
    for label, source in (("port line", finding.port_source), ("reference", finding.reference_source)):
        if source is not None:
            rows.append((label, f"{source.file}:{source.line}: {source.text}"))
    also = fold(line.removeprefix("also ") for line in finding.evidence if line.startswith("also "))
    rows += [("evidence", line) for line in finding.evidence if not line.startswith("also ")]
    rows += [("also in", name) for name in also]
    for label, value in rows:
        yield Text.assemble("       ", (f"{label:<11}", "dim"), value)


def _table(report: Report, every: bool) -> Iterator[Text]:
    shown = [boundary for boundary in report.boundaries if every or _matters(boundary)]
    yield Text("\nBoundaries in the order data flows", "bold")
    yield Text(
        "max, mean: absolute, two float32 runs; rel: relative, promoted float64, which the verdict follows", "dim"
    )
    for boundary in shown:
        yield _line(boundary)
    hidden = len(report.boundaries) - len(shown)
    if hidden:
        yield Text(f"{hidden} more inside the blocks, shown with --all", "dim")


def _matters(boundary: Boundary) -> bool:
    """Blocks, the logits, and whatever is wrong by itself or could not be compared."""
    if (boundary.verdict == "diff" and not boundary.inherited) or boundary.verdict == "not_compared":
        return True
    inner = bool(numbers(boundary.reference_module.rpartition(".")[0]))
    return boundary.kind == "output" and not inner


def _line(boundary: Boundary) -> Text:
    mark, style = _INHERITED if boundary.inherited else _MARK[boundary.verdict]
    line = Text.assemble((mark, style), " ")
    if boundary.verdict == "not_compared":
        return line.append(f"{boundary.name}: not compared, {boundary.note or 'no value on one side'}", "yellow")
    figures = f"max={_figure(boundary.max_abs)}, mean={_figure(boundary.mean_abs)}, rel={_figure(boundary.relative)}"
    text = f"{boundary.name}: {figures}" + (", inherited" if boundary.inherited else "")
    line.append(text, "dim" if boundary.inherited else "")
    if boundary.verdict == "diff" and not boundary.inherited:
        line.append(f"  <- {boundary.port_module}", "red")
    return line


def _figure(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0.0 else f"{value:.1e}"


def _not_covered(report: Report) -> Iterator[Text]:
    lines = list(_gaps(report))
    if lines:
        yield Text("\nNot covered", "bold")
        yield from (Text(f"  {line}") for line in lines)


def _gaps(report: Report) -> Iterator[str]:
    yield from report.notes
    reasons: dict[str, list[str]] = {}
    for stage in report.stages:
        if stage.verdict == "not_run":
            reasons.setdefault(stage.reason, []).append(stage.name)
    for reason, names in reasons.items():
        yield f"stage{'s' * (len(names) > 1)} {', '.join(names)}: {reason}"
    yield from _named("reference modules with no counterpart in the port", report.unmatched.reference)
    yield from _named("port modules with no counterpart in the reference", report.unmatched.port)
    yield from _named("checkpoint tensors that are not in the port", report.unmatched.tensors)


def _named(what: str, names: Iterable[str]) -> Iterator[str]:
    folded = fold(names)
    if folded:
        yield f"{what}: {', '.join(folded)}"
