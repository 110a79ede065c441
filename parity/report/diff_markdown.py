"""A difference in Markdown: facts, fields, modules and causes as tables, lines of the ports as a diff."""

from collections.abc import Iterable, Iterator, Sequence

from parity.card_records import Difference
from parity.report import diff_words as words
from parity.report.markup import block, cell, items, prose, table


def render(found: Difference) -> str:
    """The difference as Markdown."""
    return "\n".join(_blocks(found))


def _blocks(found: Difference) -> Iterator[str]:
    sides = tuple(map(prose, words.sides(found)))
    yield f"# {prose(words.headline(found))}\n"
    yield prose(words.circumstances(found)) + "\n"
    if found.notes:
        yield items(found.notes)
    yield "## Facts that differ\n"
    yield table(("", *sides), _cells(words.facts(found)))
    yield "## Fields that act, and differ\n"
    yield table(("", *sides), (tuple(map(cell, row)) for row in words.fields(found)))
    for title, names in words.modules(found):
        yield f"## Modules {prose(title)}\n"
        yield items(f"`{name}`" for name in names)
    if found.causes:
        yield "## Causes that tell them apart\n"
        yield "A port of one, taken for the other, has them.\n"
        rows = ((cell(cause.code), "; ".join(map(prose, cause.why))) for cause in found.causes)
        yield table(("cause", "why"), rows)
    if found.shared:
        yield "## Shared\n"
        yield table(("", "both"), _cells(words.shared(found)))
    if found.lines is not None:
        yield "## Lines of the ports\n"
        yield prose(words.lines(found)) + "\n"
        yield block(found.lines.text).replace("text\n", "diff\n", 1)


def _cells(rows: Iterable[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        yield tuple(map(prose, row))
