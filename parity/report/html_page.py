"""What all HTML pages share: templates, style and script in one file, and a policy that lets nothing else in."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from parity.records import Source
from parity.report.code import near

Lines = list[tuple[int, str, bool]]


def page(template: str, script: str = "", framed: str = "", **context: Any) -> str:
    """A page as the text of one file that needs no other.

    Args:
        template: its file in the folder `page`.
        script: the file of its script, if it has one.
        framed: the file of the script of pages inside it, to which its policy applies as well.
        context: what the template shows.
    """
    code = _text(script) if script else ""
    policy = _policy(code or (_text(framed) if framed else ""))
    return _environment().get_template(template).render(
        style=Markup(_text("style.css")), script=Markup(code), policy=policy, **context
    )  # fmt: skip


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("parity.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["worded"] = _worded
    return found


def _worded(text: str) -> Markup:
    """A sentence in which names between backticks are code."""
    parts = (
        Markup("<code>{}</code>").format(each) if place % 2 else each for place, each in enumerate(text.split("`"))
    )
    return Markup("").join(parts)


def _text(name: str) -> str:
    return (files("parity.report") / "page" / name).read_text(encoding="utf-8")


def _policy(code: str) -> str:
    """What a browser may do with the page: run its own script, and fetch nothing."""
    digest = b64encode(sha256(code.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if code else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {scripts}"


def listing(source: Source | None, whole: bool = True) -> dict[str, Any] | None:
    """A line of code with those around it, for a template: where it is, and each line with whether it is meant.

    Args:
        source: the line.
        whole: with all lines that are known, else with a few.
    """
    if source is None:
        return None
    context = source.context if whole and source.context else near(source)
    indent = min((len(text) - len(text.lstrip()) for _, text in context if text.strip()), default=0)
    lines = [(number, text[indent:], number == source.line) for number, text in context]
    return {"at": f"{source.file}:{source.line}", "lines": lines, "longer": len(source.context) > len(context)}
