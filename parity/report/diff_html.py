"""A difference as one HTML file that needs no other and no network."""

from parity.card_records import Difference
from parity.report import diff_words as words
from parity.report.card_chart import beside
from parity.report.html_page import page


def render(found: Difference) -> str:
    """The difference as the text of an HTML file."""
    return page(
        "diff.html",
        title=words.headline(found),
        found=found,
        circumstances=words.circumstances(found),
        sides=words.sides(found),
        facts=list(words.facts(found)),
        fields=list(words.fields(found)),
        shared=list(words.shared(found)),
        modules=list(words.modules(found)),
        lines=words.lines(found),
        chart=beside(found.left, found.right),
        version=found.left.parity,
    )
