"""The text of a ladder: a line for each rung, and what to run next."""

import textwrap
from collections.abc import Iterator

from rich.text import Text

from parity.report import ladder_words as words
from parity.workflow_records import Workflow

_WIDE = 116
_STYLES = {"done": "green", "failed": "bold red", "not_run": "dim", "not_possible": "yellow"}
_LABEL, _STATE = 12, 17


def render(found: Workflow, width: int | None = None) -> Iterator[Text]:
    """The ladder line by line, styled.

    Args:
        found: what to tell.
        width: of the terminal; None off a terminal.
    """
    wide = min(width or _WIDE, _WIDE)
    yield Text(words.headline(found), "bold")
    yield Text(words.circumstances(found), "dim")
    for note in found.notes:
        yield Text(f"Note: {note}", "yellow")
    yield Text("")
    room = wide - _LABEL - _STATE - 8
    for each in found.rungs:
        lines = textwrap.wrap(each.why, room, break_on_hyphens=False, break_long_words=False) or [""]
        mark, state = words.MARKS[each.state], words.STATES[each.state]
        yield Text.assemble(
            "  ", (mark, _STYLES[each.state]), f" {each.name:<{_LABEL}}  ", (f"{state:<{_STATE}}", _STYLES[each.state]),
            f"  {lines[0]}",
        )  # fmt: skip
        yield from (Text(" " * (_LABEL + _STATE + 8) + line) for line in lines[1:])
    yield Text("\nNext", "bold")
    yield Text(f"  {words.following(found)}")
