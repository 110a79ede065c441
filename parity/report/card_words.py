"""What every view of a card says in the same words: headings, sizes, rows of its tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parity.card_records import Card, Fact, FieldFact
from parity.names import ranges

UNKNOWN = "unknown"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
KINDS_HEAD = ("kind", "layers", "which", "per token", "past the window", "fixed")
PARTS_HEAD = ("part", "parameters", "active", "formula")
EFFECTS = {
    "acts": "Fields that change the function",
    "off": "Fields that are not set",
    "no_effect": "Fields without effect, by the audit of the reference",
    "unknown": "Fields of which nobody knows whether they act",
    "silent": "Fields that say nothing of the function",
}


@dataclass(frozen=True)
class Table:
    """A table; `right`: columns of figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...]


def used(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> Table:
    """A table without columns that hold nothing."""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    return Table(
        tuple(head[at] for at in kept),
        tuple(tuple(row[at] for at in kept) for row in rows),
        tuple(new for new, at in enumerate(kept) if at in right),
    )


def size(count: int) -> str:
    """Bytes in the unit that suits them, four digits at most."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if value < 100 else f"{value:.0f} {_UNITS[unit]}"


def tokens(count: int) -> str:
    """A length as people say it: 128k, or digits where it is no round number."""
    for power, letter in ((1024**2, "M"), (1024, "k")):
        if count >= power and count % power == 0:
            return f"{count // power}{letter}"
    return f"{count:,}"


def headline(card: Card) -> str:
    """Whose card it is."""
    return f"{card.name}: {card.reference or f'model_type {card.model_type}, which nobody knows'}"


def circumstances(card: Card) -> str:
    """Where its figures come from."""
    return f"{card.source}, model_type {card.model_type}, transformers {card.transformers}"


def groups(facts: tuple[Fact, ...]) -> Iterator[tuple[str, list[Fact]]]:
    """Facts by heading, in order; what is kept has a table of its own."""
    for group in dict.fromkeys(fact.group for fact in facts):
        if group != "KV cache":
            yield group, [fact for fact in facts if fact.group == group]


def value(text: str | None) -> str:
    """A value, or the word for there being none."""
    return UNKNOWN if text is None else text


def per_token(count: int) -> str:
    """Bytes per token, exactly and as people say it."""
    return f"{count:,} B" if count < 1024 else f"{count:,} B ({count / 1024:,.4g} KiB)"


def kinds(card: Card) -> Iterator[tuple[str, ...]]:
    """A row per kind of layer that keeps something, or nothing; last the whole stack."""
    dtype = card.memory.cache_dtype
    rows = [(kind, kind.per_token(dtype)) for kind in card.kv_cache.kinds]
    for kind, grows in rows:
        yield (
            kind.name,
            str(len(kind.layers)),
            ranges(kind.layers),
            per_token(grows),
            per_token(kind.per_token(dtype, saturated=True)) if kind.window is not None else "",
            size(kind.bytes(0, dtype)) if kind.bytes(0, dtype) else "",
        )
    if len(rows) > 1:
        total = sum(kind.per_token(dtype, saturated=True) for kind in card.kv_cache.kinds)
        grows = sum(grows for _, grows in rows)
        yield (
            "all",
            str(sum(len(kind.layers) for kind in card.kv_cache.kinds)),
            "",
            per_token(grows),
            per_token(total) if total != grows else "",
            size(card.kv_cache.fixed(dtype)) if card.kv_cache.fixed(dtype) else "",
        )


def kept(card: Card) -> Iterator[str]:
    """What there is to say of the cache besides its table."""
    dtype = card.memory.cache_dtype
    indexer = card.kv_cache.indexer_per_token(dtype)
    if indexer:
        own = card.kv_cache.per_token(dtype)
        yield f"keys and values alone: {per_token(own)}; the indexer's keys: {per_token(indexer)}"
    measured = card.kv_cache.measured
    if measured is None:
        yield "not measured: there is no reference that could be run; by formula alone"
    else:
        lengths = ", ".join(f"{each:,}" for each in measured.lengths)
        verdict = "equal to the formula, byte by byte" if measured.agree else "not what the formula gives"
        yield f"measured: the reference's own cache in bfloat16 after {lengths} tokens is {verdict}"
    yield from card.kv_cache.why


def memory(card: Card) -> Iterator[tuple[str, str]]:
    """Weights, cache and both."""
    found = card.memory
    batch = f", batch of {found.batch}" if found.batch > 1 else ""
    where = f"{tokens(found.context)} tokens{batch}"
    yield "weights", f"{size(found.weights)} in {found.weights_dtype}"
    yield "cache", f"{size(found.cache)} in {found.cache_dtype}, {where}"
    yield "both", f"{size(found.total)}, without what a forward needs on the way"


def parts(card: Card) -> Iterator[tuple[str, ...]]:
    """A row per part of the parameters, then their sum beside what was counted."""
    parameters = card.parameters
    for part in parameters.parts:
        active = "" if part.active == part.total else f"{part.active:,}"
        yield part.name, f"{part.total:,}", active, part.formula
    told = {None: "", True: "as counted in the reference", False: "not what the reference has"}[parameters.agree]
    active = "" if parameters.formula_active == parameters.formula_total else f"{parameters.formula_active:,}"
    yield "all", f"{parameters.formula_total:,}", active, told
    if parameters.agree is False:
        yield "counted", f"{parameters.total:,}", f"{parameters.active:,}", "in the reference"


def fields(card: Card) -> Iterator[tuple[str, list[FieldFact]]]:
    """Fields by what they do, under a heading each."""
    for effect, title in EFFECTS.items():
        own = [field for field in card.fields if field.effect == effect]
        if own:
            yield title, own


def notes(card: Card) -> list[str]:
    """What was left out, what was assumed, what is not known."""
    assumed = [f"assumed: {each}" for each in card.parameters.estimated]
    return [*card.notes, *assumed]
