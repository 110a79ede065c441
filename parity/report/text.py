"""The text report: the verdict, what to look at first, the boundaries in the order data flows, what was not covered."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from parity.records import Boundary, Finding, Report
from parity.report import code, words

_STYLES = {"pass": "bold green", "fail": "bold red", "incomplete": "bold yellow"}
_MARK = {
    "exact": ("[OK]  ", "green"),
    "ok": ("[OK]  ", "green"),
    "diff": ("[DIFF]", "bold red"),
    "not_compared": ("[--]  ", "yellow"),
}
_INHERITED = ("[diff]", "dim")
_SUMMED_UP = ("precision", "gradient")  # stages with a row for every boundary


def render(report: Report, every: bool = False, width: int | None = None) -> Iterator[Text]:
    """The report line by line, styled.

    Args:
        report: what to tell.
        every: show all boundaries, not only the blocks and what differs by itself.
        width: of the terminal, so that code can stand side by side; None off a terminal.
    """
    yield Text.assemble((words.VERDICTS[report.verdict], _STYLES[report.verdict]), f"  {words.headline(report)}")
    yield Text(f"      {words.circumstances(report)}", "dim")
    yield from _coverage(report)
    yield from _first_look(report, width)
    if words.of_stage(report, "forward"):
        yield from _table(report, every)
    yield from _ladder(report, every)
    yield from _not_covered(report)


def _coverage(report: Report) -> Iterator[Text]:
    found = words.coverage(report)
    if found is not None:
        text, whole = found
        yield Text(f"      {text}", "yellow" if whole is False else "dim")


def _first_look(report: Report, width: int | None) -> Iterator[Text]:
    if not report.findings:
        return
    yield Text("\nLook first at", "bold")
    for number, finding in enumerate(report.findings, 1):
        yield Text.assemble(f"{number:3d}. ", (finding.title, "bold" if number == 1 else ""))
        yield from _details(finding, width)


def _details(finding: Finding, width: int | None) -> Iterator[Text]:
    yield from map(_row, words.details(finding))
    yield from code.lines(finding, width)
    yield from map(_row, words.evidence(finding))
    if finding.cause != "unknown":
        yield _row(("more", f"parity explain {finding.cause}"))


def _row(row: words.Row) -> Text:
    label, value = row
    return Text.assemble("       ", (f"{label:<11}", "dim"), value)


def _table(report: Report, every: bool) -> Iterator[Text]:
    places = words.of_stage(report, "forward")
    shown = [boundary for boundary in places if every or _matters(boundary)]
    yield Text("\nBoundaries in the order data flows", "bold")
    plain = f"max, mean: absolute, {words.plain(report)}"
    if report.weights == "pretrained":
        plain = f"{words.precision(report)}; max, mean: absolute"
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


def _ladder(report: Report, every: bool) -> Iterator[Text]:
    """The stages above the full forward: each way in which both models were run besides."""
    ran = [stage for stage in report.stages if stage.verdict != "not_run" and stage.name not in ("weights", "forward")]
    if not ran:
        return
    yield Text("\nOther ways to run it", "bold")
    yield Text("max, mean, rel: promoted float64, against one full forward; in low precision, of two runs in it", "dim")
    for stage in ran:
        rows = words.of_stage(report, stage.name)
        if stage.name not in _SUMMED_UP or every:
            yield from map(_line, rows)
            continue
        yield from _summed_up(stage.name, [row for row in rows if row.verdict != "not_compared"])
        yield from (_line(row) for row in rows if words.own(row))
        yield from _uncompared([row for row in rows if row.verdict == "not_compared"])


def _summed_up(stage: str, rows: Sequence[Boundary]) -> Iterator[Text]:
    """Many boundaries in a line."""
    if not rows:
        return
    wrong = sum(row.verdict == "diff" for row in rows)
    bitwise = sum(row.verdict == "exact" for row in rows)
    worst = max((row.ratio or 0.0 for row in rows), default=0.0)
    text = f"{stage}: {len(rows)} boundaries, {bitwise} bit by bit"
    if stage == "precision" and worst:
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
    wrong = words.own(boundary)
    if wrong or boundary.kind == "tap":
        return wrong
    if boundary.verdict == "not_compared":
        return True
    return boundary.kind == "output" and not words.inner(boundary)


def _line(boundary: Boundary) -> Text:
    mark, style = _INHERITED if boundary.inherited else _MARK[boundary.verdict]
    line = Text.assemble((mark, style), " ")
    if boundary.verdict == "not_compared":
        return line.append(f"{boundary.name}: {words.uncompared(boundary)}", "yellow")
    line.append(f"{boundary.name}: {words.figures(boundary)}", "dim" if boundary.inherited else "")
    if words.own(boundary):
        line.append(f"  <- {boundary.port_module or '(no module of its own)'}", "red")
    return line


def _not_covered(report: Report) -> Iterator[Text]:
    lines = list(words.gaps(report))
    if lines:
        yield Text("\nNot covered", "bold")
        yield from (Text(f"  {line}") for line in lines)
