"""A ladder in Markdown: a table of its rungs."""

from parity.report import ladder_words as words
from parity.report.markup import block, cell, items, prose, table
from parity.workflow_records import Workflow


def render(found: Workflow) -> str:
    """The ladder as Markdown."""
    rows = ((prose(name), state, prose(why), cell(command)) for name, state, why, command in words.rows(found))
    parts = [f"# {prose(words.headline(found))}\n", prose(words.circumstances(found)) + "\n"]
    parts += [items(found.notes)] if found.notes else []
    return "\n".join([*parts, table(words.HEAD, rows), "## Next\n", block([words.following(found)])])
