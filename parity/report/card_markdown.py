"""A card in Markdown: facts, cache, memory, parameters and fields as tables."""

from collections.abc import Iterator

from parity.card_records import Card
from parity.report import card_words as words
from parity.report.markup import cell, items, prose, table


def render(card: Card) -> str:
    """The card as Markdown."""
    return "\n".join(_blocks(card))


def _blocks(card: Card) -> Iterator[str]:
    yield f"# {prose(words.headline(card))}\n"
    yield prose(words.circumstances(card)) + "\n"
    notes = words.notes(card)
    if notes:
        yield items(notes)
    yield table(
        ("", "", ""),
        (
            (prose(fact.name), prose(words.value(fact.value)), prose(fact.why))
            for _, facts in words.groups(card.facts)
            for fact in facts
        ),
    )
    yield f"## KV cache, in {card.memory.cache_dtype}\n"
    yield _table(words.used(words.KINDS_HEAD, list(words.kinds(card)), (1,)))
    yield items(words.kept(card))
    yield "## Memory\n"
    yield table(("", ""), ((prose(label), prose(told)) for label, told in words.memory(card)))
    rows = ((words.tokens(length), words.size(sum(parts))) for length, parts in card.memory.points)
    yield table(("context", "cache"), rows, right=(0, 1))
    yield "## Parameters by formula\n"
    yield _table(words.used(words.PARTS_HEAD, list(words.parts(card)), (1, 2)))
    for title, fields in words.fields(card):
        yield f"## {title}\n"
        if fields[0].effect == "silent":
            yield ", ".join(cell(field.name) for field in fields) + "\n"
        else:
            each = ((cell(field.name), cell(field.value), prose(field.phrase)) for field in fields)
            yield table(("field", "value", "what it is"), each)


def _table(found: words.Table) -> str:
    return table(found.head, (tuple(map(prose, row)) for row in found.rows), right=found.right)
