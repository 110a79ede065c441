"""Markdown as GitHub reads it: words, code and tables of whatever text, none of it taken for markup."""

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"[\\`*\[\]|~#$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_BEGINS = re.compile(r"^([-+=]|\d+(?=[.)]( |$)))")  # what makes a list or a heading at the beginning of a line
_TICKS = re.compile(r"`+")
_SPAN = re.compile(r"(?<!`)`([^`|]*[^`|\s][^`|]*)`(?!`)")


def prose(text: str) -> str:
    """Words in a paragraph, a heading, an item of a list or a cell; what stands between backticks is code."""
    parts = _SPAN.split(" ".join(text.split()))
    escaped = "".join(code(part) if at % 2 else _plain(part) for at, part in enumerate(parts))
    begins = _BEGINS.match(escaped)
    if begins is None:
        return escaped
    end = begins.end() if begins[0].isdigit() else 0  # of a number, the point after it is what counts
    return f"{escaped[:end]}\\{escaped[end:]}"


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text).translate(_ENTITIES)


def code(text: str) -> str:
    """A span of code, in a cell or elsewhere."""
    flat = " ".join(text.split())
    if not flat:
        return ""
    ticks = "`" * (_most(flat) + 1)
    edge = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{edge}{flat}{edge}{ticks}"


def block(lines: Iterable[str]) -> str:
    """Lines as they are."""
    text = "\n".join(lines)
    fence = "`" * max(3, _most(text) + 1)
    return f"{fence}text\n{text}\n{fence}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A table of cells that are Markdown already; `right`: columns of figures."""
    figures = set(right)
    rule = ["---:" if at in figures else "---" for at in range(len(head))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def cell(text: str) -> str:
    """A span of code for a cell, where a bar would end it."""
    return code(text).replace("|", "\\|")


def items(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return "".join(f"- {prose(text)}\n" for text in texts)


def _most(text: str) -> int:
    """The longest run of backticks."""
    return max((len(run) for run in _TICKS.findall(text)), default=0)
