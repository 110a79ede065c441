"""A card as one HTML file that needs no other and no network."""

from parity.card_records import Card
from parity.report import card_words as words
from parity.report.card_chart import svg
from parity.report.html_page import page


def render(card: Card) -> str:
    """The card as the text of an HTML file."""
    return page(
        "card.html",
        title=words.headline(card),
        card=card,
        circumstances=words.circumstances(card),
        notes=words.notes(card),
        groups=list(words.groups(card.facts)),
        unknown=words.UNKNOWN,
        kinds=words.used(words.KINDS_HEAD, list(words.kinds(card)), (1,)),
        kept=list(words.kept(card)),
        memory=list(words.memory(card)),
        chart=svg(card),
        points=[(words.tokens(length), words.size(sum(parts))) for length, parts in card.memory.points],
        parts=words.used(words.PARTS_HEAD, list(words.parts(card)), (1, 2)),
        fields=list(words.fields(card)),
        version=card.parity,
    )
