"""The text of a start: the file, the ports that were near, the marks with what to read, the findings, the next step."""

import textwrap
from collections.abc import Iterator

from rich.text import Text

from parity.new_records import Start
from parity.report import new_words as words

_WIDE = 116
_NEAR = 3  # ports that are told in full


def render(found: Start, width: int | None = None) -> Iterator[Text]:
    """The start line by line, styled.

    Args:
        found: what to tell.
        width: of the terminal; None off a terminal.
    """
    wide = min(width or _WIDE, _WIDE)
    yield Text(words.headline(found), "bold")
    yield from _wrapped(words.circumstances(found), wide, "dim")
    yield from _wrapped(words.checked(found), wide, "dim")
    for note in found.notes:
        yield from _wrapped(f"Note: {note}", wide, "yellow")
    yield from _ranking(found, wide)
    if found.shared:
        yield Text("\nCarries over, numbers aside", "bold")
        yield from _wrapped("; ".join(found.shared), wide, "", "  ")
    if found.marks:
        yield Text("\nMarked DIFFERS in the file", "bold")
    for mark in found.marks:
        yield Text.assemble(f"  {mark.number:>2}  line {mark.line}, ", (mark.where, "cyan"))
        yield from _wrapped(mark.what, wide - 6, "", "      ")
        for read in words.reads(mark):
            yield from _wrapped(f"read {read}", wide - 6, "dim", "      ")
    if found.findings:
        yield Text("\nFindings of the check, and the marks that they are at", "bold")
        for number, stage, line, told in words.findings(found):
            place = f"line {line}: " if line else ""
            style = "" if number != "none" else "yellow"
            yield from _wrapped(f"{number:>4}  {stage}: {place}{told}", wide - 2, style, "", "        ")
    yield Text("\nNext", "bold")
    yield from (Text(f"  {step}") for step in words.steps(found))


def _ranking(found: Start, wide: int) -> Iterator[Text]:
    """The nearest with what tells them apart, the others with their distance."""
    rows = list(words.ranking(found))
    if not rows:
        return
    label = max(len(row[0]) for row in rows)
    yield Text("\nDistance of the ports that one can begin with", "bold")
    for name, distance, facts, missing, spare in rows[:_NEAR]:
        told = [facts, f"to write: {missing}" if missing else "", f"to take out: {spare}" if spare else ""]
        style = "bold" if name == found.nearest else ""
        line = f"  {name:<{label}} {distance:>4}  "
        yield from _wrapped("; ".join(filter(None, told)), wide, style, line, " " * len(line))
    others = [f"{name} {distance}" for name, distance, *_ in rows[_NEAR:] if distance.isdigit()]
    if others:
        yield from _wrapped(", ".join(others), wide, "dim", "  ")
    for name, _, why, *_ in (row for row in rows if not row[1].isdigit()):
        yield from _wrapped(f"not {name}: {why}", wide, "dim", "  ")


def _wrapped(told: str, wide: int, style: str, first: str = "", later: str | None = None) -> Iterator[Text]:
    lines = textwrap.wrap(
        told,
        wide,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_on_hyphens=False,
        break_long_words=False,
    )
    for line in lines or [first.rstrip()]:
        yield Text(line, style)
