"""The text of a card: its facts, what is kept of each token, a chart of memory, parameters, fields."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from parity.card_records import Card, FieldFact
from parity.report import card_words as words

_WIDE = 116  # columns off a terminal, and at most
_LABEL = 18
_LEAST_BAR = 10
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def render(card: Card, width: int | None = None) -> Iterator[Text]:
    """The card line by line, styled.

    Args:
        card: what to tell.
        width: of the terminal; None off a terminal.
    """
    wide = min(width or _WIDE, _WIDE)
    yield Text(words.headline(card), "bold")
    yield from _wrapped(words.circumstances(card), wide, "", "dim")
    for note in words.notes(card):
        yield from _wrapped(f"Note: {note}", wide, "", "yellow")
    for group, facts in words.groups(card.facts):
        yield Text(f"\n{group}", "bold")
        for fact in facts:
            told = words.value(fact.value) + (f"; {fact.why}" if fact.why else "")
            yield from _row(fact.name, told, wide, "yellow" if fact.value is None else "")
    yield Text(f"\nKV cache, in {card.memory.cache_dtype}", "bold")
    yield from table(words.KINDS_HEAD, list(words.kinds(card)), wide, right=(1,))
    for each in words.kept(card):
        yield from _wrapped(f"- {each}", wide, "  ", "")
    yield Text("\nMemory", "bold")
    for label, told in words.memory(card):
        yield from _row(label, told, wide, "")
    yield from chart(card, wide)
    yield Text("\nParameters by formula", "bold")
    yield from table(words.PARTS_HEAD, list(words.parts(card)), wide, right=(1, 2))
    for title, fields in words.fields(card):
        yield Text(f"\n{title}", "bold")
        yield from _fields(fields, wide)


def _row(label: str, told: str, wide: int, style: str) -> Iterator[Text]:
    lines = textwrap.wrap(told, wide - _LABEL - 2, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        yield Text.assemble("  ", ("" if number else label).ljust(_LABEL), (line, style))


def _wrapped(told: str, wide: int, indent: str, style: str) -> Iterator[Text]:
    hanging = indent + ("  " if told.startswith("- ") else "")
    for line in textwrap.wrap(told, wide, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False):
        yield Text(line, style)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], wide: int, right: Iterable[int] = ()) -> Iterator[Text]:
    """A table that fits: columns without content are left out, the last of words is wrapped, else the widest."""
    if not rows:
        return
    used = [at for at in range(len(head)) if any(row[at] for row in rows)]
    figures = set(right)
    sizes = {at: max(len(row[at]) for row in (head, *rows)) for at in used}
    over = sum(sizes.values()) + 2 * len(used) - wide
    if over > 0:
        widest = max((at for at in used if at not in figures), key=lambda at: sizes[at])
        sizes[widest] = max(sizes[widest] - over, 12)
    for number, row in enumerate((head, *rows)):
        cells = {at: textwrap.wrap(row[at], sizes[at], break_on_hyphens=False) or [""] for at in used}
        for line in range(max(map(len, cells.values()))):
            text = ""
            for at in used:
                cell = cells[at][line] if line < len(cells[at]) else ""
                text += "  " + (cell.rjust(sizes[at]) if at in figures else cell.ljust(sizes[at]))
            yield Text(text.rstrip(), "" if number else "dim")


def chart(card: Card, wide: int) -> Iterator[Text]:
    """Bars: the cache at each context; lengths beyond what it is made for are marked."""
    memory = card.memory
    totals = [(length, sum(parts)) for length, parts in memory.points]
    most = max((total for _, total in totals), default=0)
    if not most:
        return
    labels = [words.tokens(length) for length, _ in totals]
    sizes = [words.size(total) for _, total in totals]
    batch = f", batch of {memory.batch}" if memory.batch > 1 else ""
    yield Text(f"  cache by context{batch}", "dim")
    left, right = max(map(len, labels)), max(map(len, sizes))
    room = max(wide - left - right - 8, _LEAST_BAR)
    for (length, total), label, told in zip(totals, labels, sizes, strict=True):
        beyond = memory.longest is not None and length > memory.longest
        style = "yellow" if beyond else "bold cyan" if length == memory.context else "cyan"
        yield Text.assemble(
            f"  {label.rjust(left)}  ",
            (_bar(total / most, room), style),
            f" {told}{' !' if beyond else ''}",
        )
    if any(memory.longest is not None and length > memory.longest for length, _ in totals):
        yield Text(f"  ! beyond the {memory.longest:,} tokens that it is made for", "yellow")


def _bar(share: float, room: int) -> str:
    """A bar of blocks, to an eighth of a column, and never nothing."""
    eighths = max(round(share * room * 8), 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _fields(fields: Sequence[FieldFact], wide: int) -> Iterator[Text]:
    if fields[0].effect == "silent":
        yield from _wrapped(", ".join(field.name for field in fields), wide, "  ", "dim")
        return
    left = min(max(len(f"{field.name} = {field.value}") for field in fields), wide // 2)
    for field in fields:
        named = f"{field.name} = {field.value}"
        lines = textwrap.wrap(field.phrase, wide - left - 4, break_on_hyphens=False)
        if len(named) > left and lines:
            yield Text(f"  {named}")
            named = ""
        for number, line in enumerate(lines or [""]):
            yield Text.assemble(f"  {('' if number else named).ljust(left)}", (f"  {line}" if line else "", "dim"))
