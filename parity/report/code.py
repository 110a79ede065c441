"""A finding's lines of code with the lines around them: the port's and the reference's, beside or above each other."""

from collections.abc import Iterator
from itertools import zip_longest
from textwrap import dedent

from rich.text import Text

from parity.records import Finding, Source

_WIDE = 120  # columns of a terminal from which on both sides fit beside each other
_INDENT = " " * 7
_BETWEEN = " | "
_LABEL = 11
_HANGING = " " * 11
_STYLES = ("bold red", "bold green")  # of the arrow: the port's, the reference's
_AROUND = 2
_OPENS = ("def ", "class ", "async def ")
_BEGINS = (*_OPENS, "@")


def lines(finding: Finding, width: int | None) -> Iterator[Text]:
    """The port's line and the reference's, whichever are known.

    Args:
        finding: whose lines to show.
        width: of the terminal; None off a terminal, where lines are as long as they have to be.
    """
    ours, theirs = finding.port_source, finding.reference_source
    if width is not None and width >= _WIDE and ours is not None and theirs is not None:
        yield from _beside(ours, theirs, (width - len(_INDENT) - len(_BETWEEN)) // 2)
        return
    for label, source, style in zip(("port line", "reference"), (ours, theirs), _STYLES, strict=True):
        if source is not None:
            yield Text.assemble(_INDENT, (f"{label:<{_LABEL}}", "dim"), _at(source))
            for line in _code(source, style):
                yield Text.assemble(_INDENT, " " * _LABEL, line)


def _beside(ours: Source, theirs: Source, column: int) -> Iterator[Text]:
    left, right = (
        _wrapped([Text.assemble((f"{label:<{_LABEL}}", "dim"), _at(source)), *_code(source, style)], column)
        for label, source, style in zip(("port line", "reference"), (ours, theirs), _STYLES, strict=True)
    )
    for ours_here, theirs_here in zip_longest(left, right, fillvalue=Text()):
        padding = " " * (column - ours_here.cell_len)
        yield Text.assemble(_INDENT, ours_here, padding, (_BETWEEN, "dim"), theirs_here)


def near(source: Source) -> tuple[tuple[int, str], ...]:
    """A few lines before and after, not past the function's own first line nor into the next one; numbered."""
    context = source.context or ((source.line, source.text),)
    meant = next((place for place, (number, _) in enumerate(context) if number == source.line), 0)
    first = last = meant
    while first > max(0, meant - _AROUND) and not _starts(context[first], _OPENS):
        first -= 1
    while last < min(len(context) - 1, meant + _AROUND) and not _starts(context[last + 1], _BEGINS):
        last += 1
    while first < meant and not context[first][1].strip():
        first += 1
    while last > meant and not context[last][1].strip():
        last -= 1
    return context[first : last + 1]


def _starts(line: tuple[int, str], words: tuple[str, ...]) -> bool:
    return line[1].lstrip().startswith(words)


def _at(source: Source) -> str:
    return f"{source.file}:{source.line}"


def _code(source: Source, style: str) -> list[Text]:
    """Numbered lines, the one that is meant marked with an arrow."""
    context = near(source)
    texts = dedent("\n".join(text for _, text in context)).split("\n")
    width = len(str(context[-1][0]))
    found = []
    for (number, _), text in zip(context, texts, strict=True):
        meant = number == source.line
        gutter = f"{'>' if meant else ' '} {number:>{width}}{'  ' if text else ''}"
        found.append(Text.assemble((gutter, style if meant else "dim"), (text, "bold" if meant else "")))
    return found


def numbered(source: Source) -> list[str]:
    """The same lines without style."""
    return [line.plain for line in _code(source, "")]


def _wrapped(rows: list[Text], column: int) -> list[Text]:
    """Rows cut to a column's width; what does not fit goes on below, further in."""
    found = []
    for row in rows:
        rest, indent = row, ""
        while rest.cell_len + len(indent) > column:
            cut = column - len(indent)
            blank = rest.plain.rfind(" ", cut // 2, cut + 1)
            cut = blank if blank > 0 else cut
            found.append(Text.assemble(indent, rest[:cut]))
            rest, indent = rest[cut:], _HANGING
            if rest.plain.startswith(" "):
                rest = rest[1:]
        found.append(Text.assemble(indent, rest))
    return found
