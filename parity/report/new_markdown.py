"""A start in Markdown: the ports that were near, the marks, the findings."""

from collections.abc import Iterator

from parity.new_records import Start
from parity.report import new_words as words
from parity.report.markup import block, cell, items, prose, table


def render(found: Start) -> str:
    """The start as Markdown."""
    return "\n".join(_blocks(found))


def _blocks(found: Start) -> Iterator[str]:
    yield f"# {prose(words.headline(found))}\n"
    yield prose(words.circumstances(found)) + "; " + prose(words.checked(found)) + "\n"
    if found.notes:
        yield items(found.notes)
    if found.ranking:
        yield "## Distance of the ports that one can begin with\n"
        yield table(words.RANKING, (tuple(map(prose, row)) for row in words.ranking(found)))
    if found.shared:
        yield "## Carries over, numbers aside\n"
        yield items(map(prose, found.shared))
    if found.marks:
        yield "## Marked DIFFERS in the file\n"
        yield table(words.MARKS, (tuple(map(cell, row)) for row in words.marks(found)))
    if found.findings:
        yield "## Findings of the check\n"
        yield table(words.FINDINGS, (tuple(map(prose, row)) for row in words.findings(found)))
    yield "## Next\n"
    yield block(words.steps(found))
