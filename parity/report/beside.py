"""Two texts beside each other, what differs marked from the first different letter on."""

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Console
from rich.text import Text

BETWEEN = " │ "


def visible(text: str) -> str:
    """Text of a model's that a terminal may be given: what would steer it is written out instead."""
    return "".join(repr(each)[1:-1] if _steers(each) else each for each in text)


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) == "Cc" and letter not in "\n\t"


def marked(port: str, reference: str) -> tuple[Text, Text]:
    """Both texts, coloured from where they part."""
    same = next((at for at, (a, b) in enumerate(zip(port, reference, strict=False)) if a != b), None)
    same = min(len(port), len(reference)) if same is None else same
    ours, theirs = Text(port), Text(reference)
    ours.stylize("red", same)
    theirs.stylize("yellow", same)
    return ours, theirs


def wrapped(text: Text, width: int) -> list[Text]:
    """A text in lines of at most `width` columns."""
    return list(text.wrap(Console(width=width), width)) if text.plain else [Text()]


def beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Lines of two columns, the left one `width` wide."""
    rows = []
    for ours, theirs in zip_longest(left, right, fillvalue=Text()):
        padding = " " * max(0, width - ours.cell_len)
        rows.append(Text.assemble(ours, padding, (BETWEEN, "dim"), theirs))
    return rows
