"""What every view of a difference says in the same words."""

from collections.abc import Iterator

from parity.card_records import Difference
from parity.report.card_words import UNKNOWN


def headline(found: Difference) -> str:
    """What stands beside what, and how much differs."""
    return (
        f"{found.left.name} and {found.right.name}: {len(found.different)} facts differ, {len(found.shared)} are shared"
    )


def circumstances(found: Difference) -> str:
    """The references."""
    names = [card.reference or f"model_type {card.model_type}, unknown" for card in (found.left, found.right)]
    return f"{names[0]} and {names[1]}, transformers {found.left.transformers}"


def value(text: str | None, absent: str = UNKNOWN) -> str:
    """A side's value, or the word for there being none."""
    return absent if text is None else text


def facts(found: Difference) -> Iterator[tuple[str, str, str]]:
    """A row per fact that differs."""
    for side in found.different:
        yield side.name, value(side.left), value(side.right)


def fields(found: Difference) -> Iterator[tuple[str, str, str]]:
    """A row per field that differs; a dash where a side has no such field."""
    for side in found.fields:
        yield side.name, value(side.left, "\N{EN DASH}"), value(side.right, "\N{EN DASH}")


def shared(found: Difference) -> Iterator[tuple[str, str]]:
    """A row per fact that both sides have."""
    for fact in found.shared:
        yield fact.name, value(fact.value)


def modules(found: Difference) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules on one side only, under its name."""
    for card, names in ((found.left, found.modules_left), (found.right, found.modules_right)):
        if names:
            yield f"only in {card.name}", names


def lines(found: Difference) -> str:
    """How much of the ports differs."""
    told = found.lines
    if told is None:
        return ""
    return f"{told.left} and {told.right}: {told.removed} lines on the left only, {told.added} on the right only"


def sides(found: Difference) -> tuple[str, str]:
    """The names of both, for the heads of columns."""
    return found.left.name, found.right.name
