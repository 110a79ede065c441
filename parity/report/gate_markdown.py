"""A gate in Markdown: a table of the cases, then the report of each that does not pass."""

from collections.abc import Iterator

from parity.gate_records import Gate, Result
from parity.report import gate_words, words
from parity.report.markdown import blocks as report_blocks
from parity.report.markup import cell, items, prose, table


def render(gate: Gate) -> str:
    """The gate as Markdown."""
    return "\n".join(blocks(gate))


def blocks(gate: Gate, level: int = 1) -> Iterator[str]:
    """Its sections one by one, under a heading of some level."""
    yield f"{'#' * level} {words.VERDICTS[gate.verdict]}: {prose(gate_words.headline(gate))}\n"
    if gate.results:
        yield prose(gate_words.circumstances(gate)) + "\n"
        head = ("case", "verdict", "stages", "compared", "exact", "seconds", "")
        yield table(head, (_row(result) for result in gate.results), right=range(3, 6))
    wrong = list(gate_words.problems(gate))
    if wrong:
        yield items(wrong)
    if gate.trials:
        yield f"{'#' * (level + 1)} Self-test\n\n{prose(gate_words.self_test(gate))}\n\n" + table(
            ("case", "stage", "fault", ""),
            (
                (cell(each.case.name), each.stage, prose(each.fault or "none"), gate_words.TRIALS[each.verdict])
                for each in gate.trials
            ),
        )
    if gate.notes:
        yield f"{'#' * (level + 1)} Notes\n\n{items(gate.notes)}"
    for result in gate.results:
        yield from _details(result, level + 1)


def _row(result: Result) -> tuple[str, ...]:
    says = list(gate_words.says(result)) if result.verdict != "pass" else []
    more = f", and {len(says) - 1} more" if len(says) > 1 else ""
    return (
        cell(result.case.name),
        words.VERDICTS[result.verdict],
        gate_words.stages(result),
        *gate_words.places(result),
        f"{result.seconds:.1f}",
        prose(says[0]).replace("\n", " ") + more if says else "",
    )


def _details(result: Result, level: int) -> Iterator[str]:
    if result.lost:
        lost = items(each.text for each in result.lost)
        yield f"{'#' * level} {prose(result.case.name)}: less cover than the baseline\n\n{lost}"
    if result.report is not None and result.report.verdict != "pass":
        yield from report_blocks(result.report, level)
