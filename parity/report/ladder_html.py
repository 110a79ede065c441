"""A ladder as one HTML file that needs no other and no network."""

from parity.report import ladder_words as words
from parity.report.html_page import page
from parity.workflow_records import Workflow


def render(found: Workflow) -> str:
    """The ladder as the text of an HTML file."""
    return page(
        "ladder.html",
        title=words.headline(found),
        found=found,
        summary=words.headline(found).rpartition(": ")[2],
        circumstances=words.circumstances(found),
        rungs=[(each, words.MARKS[each.state], words.STATES[each.state]) for each in found.rungs],
        following=words.following(found),
        version=found.parity,
    )
