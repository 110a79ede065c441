"""A start as one HTML file that needs no other and no network."""

from parity.new_records import Start
from parity.report import new_words as words
from parity.report.html_page import page


def render(found: Start) -> str:
    """The start as the text of an HTML file."""
    return page(
        "new.html",
        title=words.headline(found),
        found=found,
        summary=words.checked(found),
        circumstances=words.circumstances(found),
        ranking=list(words.ranking(found)),
        ranking_head=words.RANKING,
        reads=[(mark, list(words.reads(mark)), words.ORIGINS[mark.origin]) for mark in found.marks],
        findings=list(words.findings(found)),
        findings_head=words.FINDINGS,
        steps=words.steps(found),
        version=found.parity,
    )
