"""The text of a difference: facts and fields beside each other, modules, causes, lines of the ports."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from parity.card_records import Difference
from parity.report import diff_words as words

_WIDE = 116
_LABEL = 18
_LINES = 60  # of the ports, on a terminal; everything elsewhere
_STYLES = {"-": "red", "+": "green", "@": "cyan"}


def render(found: Difference, width: int | None = None) -> Iterator[Text]:
    """The difference line by line, styled.

    Args:
        found: what to tell.
        width: of the terminal; None off a terminal, where nothing is left out.
    """
    wide = min(width or _WIDE, _WIDE)
    yield Text(words.headline(found), "bold")
    yield from _wrapped(words.circumstances(found), wide, "dim")
    for note in found.notes:
        yield from _wrapped(f"Note: {note}", wide, "yellow")
    yield from _section("Facts that differ", ("", *words.sides(found)), list(words.facts(found)), wide)
    yield from _section("Fields that act, and differ", ("", *words.sides(found)), list(words.fields(found)), wide)
    for title, names in words.modules(found):
        yield Text(f"\nModules {title}", "bold")
        yield from (Text(f"  {name}") for name in names)
    if found.causes:
        yield Text("\nCauses that tell them apart: a port of one, taken for the other, has them", "bold")
        for cause in found.causes:
            for number, why in enumerate(cause.why):
                lines = textwrap.wrap(why, wide - 26, break_on_hyphens=False)
                for at, line in enumerate(lines):
                    yield Text.assemble(f"  {('' if number or at else cause.code):<24}", (line, "dim"))
    yield from _section("Shared", ("", "both"), list(words.shared(found)), wide)
    yield from _lines(found, None if width is None else _LINES)


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], wide: int) -> Iterator[Text]:
    """Labels, and beside each what every side has, in columns of the same width."""
    if not rows:
        return
    yield Text(f"\n{title}", "bold")
    label = min(max(len(row[0]) for row in rows), max(2 * wide // 5, _LABEL))
    room = (wide - label - 2) // (len(head) - 1) - 2
    for number, row in enumerate((head, *rows)):
        cells = [textwrap.wrap(cell, size, break_on_hyphens=False) or [""] for cell, size in _sized(row, label, room)]
        for line in range(max(map(len, cells))):
            parts = [own[line] if line < len(own) else "" for own in cells]
            text = "  " + parts[0].ljust(label) + "".join(f"  {part.ljust(room)}" for part in parts[1:])
            yield Text(text.rstrip(), "" if number else "dim")


def _sized(row: Sequence[str], label: int, room: int) -> Iterator[tuple[str, int]]:
    for number, cell in enumerate(row):
        yield cell, room if number else label


def _wrapped(told: str, wide: int, style: str) -> Iterator[Text]:
    for line in textwrap.wrap(told, wide, break_on_hyphens=False):
        yield Text(line, style)


def _lines(found: Difference, most: int | None) -> Iterator[Text]:
    told = found.lines
    if told is None:
        return
    yield Text("\nLines of the ports", "bold")
    yield Text(f"  {words.lines(found)}")
    shown = told.text if most is None else told.text[:most]
    for line in shown:
        yield Text(line, _STYLES.get(line[:1], ""))
    if len(shown) < len(told.text):
        yield Text(f"  {len(told.text) - len(shown)} more: --format html, or -o FILE", "dim")
