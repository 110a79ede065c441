"""Quantised caches in the Markdown of a generation."""

from collections.abc import Iterator

from parity.cache_records import Caches
from parity.generation_records import Generation
from parity.report import cache_words as words
from parity.report.markup import items, prose, table


def blocks(generation: Generation, caches: Caches) -> Iterator[str]:
    """Verdicts, the table, errors by layer, first differences, what was quantised."""
    yield f"## {words.TITLE}\n\n{prose(words.along(generation, caches))}\n"
    yield items(f"{words.verdict(caches, loss)}: {words.sentence(caches, loss)}" for loss in caches.losses)
    yield table(words.HEAD, words.rows(caches), right=range(1, len(words.HEAD)))
    yield f"{prose(words.KEY)}\n"
    if caches.layers:
        columns = [f"{loss.dtype}: {head}" for loss in caches.losses for head in words.LAYER_HEAD]
        lines = words.layers(caches, caches.losses)
        yield "### Error by layer, in %\n"
        yield table(("layer", "keeps", *columns), lines, right=range(2 + len(columns)))
    found = list(words.parted(generation, caches))
    if found:
        yield "### Where texts become others\n\n" + items(f"{name}: {words.flip(flip)}" for name, flip, _ in found)
    yield items(words.places(caches))
