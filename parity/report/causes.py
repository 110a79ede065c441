"""The pages on causes: which there are, and how one is shown."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.resources import files

from rich.markdown import Markdown
from rich.text import Text

from parity.errors import ParityError

_PACKAGE = "parity_causes"
_SUFFIX = ".md"
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_LINK = re.compile(r"\[([^\]\n]+)\]\((?!https?:)[^)\s]+\)")
_OUTWARD = re.compile(r"\[([^\]\n]+)\]\((https?:[^)\s]+)\)")


def codes() -> tuple[str, ...]:
    """All causes that have a page, in alphabetical order."""
    names = (entry.name for entry in files(_PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if re.fullmatch(r"[a-z-]+\.md", name)))


def page(cause: str) -> str:
    """The page of a cause, in Markdown.

    Raises:
        ParityError: there is none; names those that are spelt alike.
    """
    code = cause.strip().lower().replace("_", "-")
    known = codes()
    if code not in known:
        near = get_close_matches(code, known, n=3, cutoff=0.5) or [name for name in known if code and code in name][:3]
        hint = f"Did you mean {' or '.join(near)}?" if near else "parity explain lists all."
        raise ParityError(f"there is no cause {cause!r}", hint)
    return (files(_PACKAGE) / f"{code}{_SUFFIX}").read_text(encoding="utf-8")


def plain(text: str) -> str:
    """A page to read as text: without comments, links as their words, addresses after them."""
    return _OUTWARD.sub(r"\1 (\2)", _LINK.sub(r"\1", _COMMENT.sub("", text)))


def rendered(text: str) -> Markdown:
    """A page for a terminal."""
    return Markdown(_LINK.sub(r"\1", _COMMENT.sub("", text)), code_theme="ansi_dark", hyperlinks=False)


def listing() -> Iterator[Text]:
    """Every cause and its title, a line each."""
    titles = {code: page(code).partition("\n")[0].partition(": ")[2] for code in codes()}
    width = max(map(len, titles)) + 2
    for code, title in titles.items():
        yield Text.assemble((f"{code:<{width}}", "bold"), title)
