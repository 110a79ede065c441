"""The text report: the verdict, what to look at first, the boundaries in the order data flows, what was not covered."""

from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from parity.names import fold, numbers
from parity.records import Boundary, Finding, Report
from parity.report import code

_HEADLINE = {"pass": ("PASS", "bold green"), "fail": ("FAIL", "bold red"), "incomplete": ("INCOMPLETE", "bold yellow")}
_MARK = {
    "exact": ("[OK]  ", "green"),
    "ok": ("[OK]  ", "green"),
    "diff": ("[DIFF]", "bold red"),
    "not_compared": ("[--]  ", "yellow"),
}
_INHERITED = ("[diff]", "dim")
_SUMMED_UP = ("precision", "gradient")  # stages with a row for every boundary
_BLIND = 3  # config fields named in the headline


def render(report: Report, every: bool = False, width: int | None = None) -> Iterator[Text]:
    """The report line by line, styled.

    Args:
        report: what to tell.
        every: show all boundaries, not only the blocks and what differs by itself.
        width: of the terminal, so that code can stand side by side; None off a terminal.
    """
    yield _headline(report)
    yield _circumstances(report)
    yield from _coverage(report)
    yield from _first_look(report, width)
    if _of_forward(report):
        yield from _table(report, every)
    yield from _ladder(report, every)
    yield from _not_covered(report)


def _headline(report: Report) -> Text:
    word, style = _HEADLINE[report.verdict]
    return Text.assemble((word, style), f"  {report.port} against {report.reference}: {_summary(report)}")


def _circumstances(report: Report) -> Text:
    versions = report.versions
    made_with = f"transformers {versions.transformers}, torch {versions.torch}"
    weights = f"random {report.dtype} weights"
    if report.weights == "pretrained":
        weights = "pretrained weights" + (f" of revision {report.revision[:12]}" if report.revision else "")
    return Text(f"      {made_with}, {weights}, seed {report.seed}", "dim")


def _coverage(report: Report) -> Iterator[Text]:
    """What a pass is worth: how much of what could go wrong this check is able to notice."""
    if all(stage.verdict == "not_run" for stage in report.stages if stage.name == "forward"):
        return
    found = report.coverage
    command = f"parity audit {report.port}" + (f" --seed {report.seed}" if report.seed else "")
    if found is None:
        text = f"not audited; {command} says what a check on the small config would miss"
        yield Text(f"      coverage: {text}", "dim")
        return
    mutations, fields = found.mutations, found.fields
    text = f"sees {mutations.caught:,} of {mutations.applicable:,} mutations"
    text += f", {len(fields.seen)} of {len(fields.seen) + len(fields.blind)} config fields"
    if fields.blind:
        more = ", \N{HORIZONTAL ELLIPSIS}" if len(fields.blind) > _BLIND else ""
        text += f"; blind to {', '.join(fields.blind[:_BLIND])}{more}"
    whole = mutations.caught == mutations.applicable and not fields.blind
    text += "" if whole else f" ({command})"
    yield Text(f"      coverage: {text}", "dim" if whole else "yellow")


def _summary(report: Report) -> str:
    if report.findings:
        first = report.findings[0]
        place = first.port_module or first.reference_module or "the model"
        count = len(report.findings)
        return f"{count} finding{'s' * (count > 1)}, first in {place}"
    places = [boundary for boundary in _of_forward(report) if boundary.kind != "tap"]  # taps are details of these
    compared = [boundary for boundary in places if boundary.verdict != "not_compared"]
    if not compared:
        ran = [stage.name for stage in report.stages if stage.verdict != "not_run"]
        return f"nothing wrong in {' and '.join(ran)}" if ran else "nothing was compared"
    worst = max(compared, key=lambda boundary: boundary.relative or 0.0)
    bitwise = sum(boundary.verdict == "exact" for boundary in compared)
    if bitwise == len(compared):
        return f"{bitwise} boundaries equal in {_precision(report)}, bitwise"
    return (
        f"{len(compared)} boundaries equal in {_precision(report)}, {bitwise} of them bitwise, "
        f"largest relative error {_figure(worst.relative)} at {worst.name}"
    )


def _precision(report: Report) -> str:
    """What the verdict's runs are in."""
    lower = report.weights == "pretrained" and report.dtype != "float64"
    return f"{report.dtype}, as far as its rounding lets one see" if lower else "promoted float64"


def _first_look(report: Report, width: int | None) -> Iterator[Text]:
    if not report.findings:
        return
    yield Text("\nLook first at", "bold")
    for number, finding in enumerate(report.findings, 1):
        yield Text.assemble(f"{number:3d}. ", (finding.title, "bold" if number == 1 else ""))
        yield from _details(finding, width)


def _details(finding: Finding, width: int | None) -> Iterator[Text]:
    rows = [
        ("port", finding.port_module or "(no module of its own)"),
        ("reference", finding.reference_module or "(no counterpart)"),
        ("cause", finding.cause),
    ]
    rows += [("why", explanation.text) for explanation in finding.explanations[:1]]
    yield from map(_row, rows)
    yield from code.lines(finding, width)
    also = fold(line.removeprefix("also ") for line in finding.evidence if line.startswith("also "))
    rows = [("evidence", line) for line in finding.evidence if not line.startswith("also ")]
    rows += [("also in", name) for name in also]
    yield from map(_row, rows)


def _row(row: tuple[str, str]) -> Text:
    label, value = row
    return Text.assemble("       ", (f"{label:<11}", "dim"), value)


def _table(report: Report, every: bool) -> Iterator[Text]:
    places = _of_forward(report)
    shown = [boundary for boundary in places if every or _matters(boundary)]
    yield Text("\nBoundaries in the order data flows", "bold")
    plain = f"max, mean: absolute, two {report.dtype} runs"
    if report.weights == "pretrained":
        plain = f"{_precision(report)}; max, mean: absolute"
        yield Text(f"{plain}; rel: relative, which the verdict follows", "dim")
    else:
        yield Text(f"{plain}; rel: relative, promoted float64, which the verdict follows", "dim")
    if any(boundary.kind == "tap" for boundary in shown):
        yield Text("module:name is a value inside a module; its max and mean are from the promoted runs as well", "dim")
    for boundary in shown:
        yield _line(boundary)
    hidden = len(places) - len(shown)
    if hidden:
        yield Text(f"{hidden} more inside the blocks, shown with --all", "dim")


def _of_forward(report: Report) -> list[Boundary]:
    return [boundary for boundary in report.boundaries if boundary.stage == "forward"]


def _ladder(report: Report, every: bool) -> Iterator[Text]:
    """The stages above the full forward: each way in which both models were run besides."""
    ran = [stage for stage in report.stages if stage.verdict != "not_run" and stage.name not in ("weights", "forward")]
    if not ran:
        return
    yield Text("\nOther ways to run it", "bold")
    yield Text("max, mean, rel: promoted float64, against one full forward; in low precision, of two runs in it", "dim")
    for stage in ran:
        rows = [boundary for boundary in report.boundaries if boundary.stage == stage.name]
        if stage.name not in _SUMMED_UP or every:
            yield from map(_line, rows)
            continue
        yield from _summed_up(stage.name, [row for row in rows if row.verdict != "not_compared"])
        yield from (_line(row) for row in rows if row.verdict == "diff" and not row.inherited)
        yield from _uncompared([row for row in rows if row.verdict == "not_compared"])


def _summed_up(stage: str, rows: Sequence[Boundary]) -> Iterator[Text]:
    """Many boundaries in a line."""
    if not rows:
        return
    wrong = sum(row.verdict == "diff" for row in rows)
    bitwise = sum(row.verdict == "exact" for row in rows)
    worst = max((row.ratio or 0.0 for row in rows), default=0.0)
    text = f"{stage}: {len(rows)} boundaries, {bitwise} bit by bit"
    if stage == "precision" and bitwise < len(rows):
        text += f", the error of the others up to {worst:.2f} times the reference's"
    if wrong:
        text += f", {wrong} wrong"
    mark, style = _MARK["diff" if wrong else "ok"]
    yield Text.assemble((mark, style), f" {text}")


def _uncompared(rows: Sequence[Boundary]) -> Iterator[Text]:
    if rows:
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        mark, style = _MARK["not_compared"]
        yield Text.assemble((mark, style), (f" {rows[0].name}{more}: not compared, {rows[0].note}", "yellow"))


def _matters(boundary: Boundary) -> bool:
    """Blocks, the logits, and whatever is wrong by itself or could not be compared; of taps what is wrong alone."""
    wrong = boundary.verdict == "diff" and not boundary.inherited
    if wrong or boundary.kind == "tap":
        return wrong
    if boundary.verdict == "not_compared":
        return True
    inner = bool(numbers(boundary.reference_module.rpartition(".")[0]))
    return boundary.kind == "output" and not inner


def _line(boundary: Boundary) -> Text:
    mark, style = _INHERITED if boundary.inherited else _MARK[boundary.verdict]
    line = Text.assemble((mark, style), " ")
    if boundary.verdict == "not_compared":
        return line.append(f"{boundary.name}: not compared, {boundary.note or 'no value on one side'}", "yellow")
    figures = f"max={_figure(boundary.max_abs)}, mean={_figure(boundary.mean_abs)}, rel={_figure(boundary.relative)}"
    if boundary.ratio:
        figures += f", error {boundary.ratio:.2f} times the reference's"
    text = f"{boundary.name}: {figures}" + (", inherited" if boundary.inherited else "")
    line.append(text, "dim" if boundary.inherited else "")
    if boundary.verdict == "diff" and not boundary.inherited:
        line.append(f"  <- {boundary.port_module or '(no module of its own)'}", "red")
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
