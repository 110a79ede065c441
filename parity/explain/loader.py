"""The line of a fault made while loading: the entry of WEIGHTS, or what last wrote into the parameter."""

import linecache
from collections.abc import Iterable, Sequence

from parity.explain.locate import Code, source_at
from parity.explain.record import Tapes
from parity.names import template
from parity.pair.pair import Pair
from parity.records import Source

_TELLING = 8  # characters of a name's end from which on shorter ends are looked for as well


def loader_line(pair: Pair, tapes: Tapes, names: Sequence[str]) -> Source | None:
    """Where the port says, or does, what goes wrong in loading.

    Args:
        pair: what is compared.
        tapes: both models traced from their constructors on.
        names: the port's parameters and the checkpoint's tensors that the finding speaks of, the most telling first.
    """
    entries = pair.port.weights is not None
    if entries and (found := _quoted(tapes.files, [f"{quote}{template(n)}" for n in names for quote in "\"'"])):
        return found
    mentions = [text for name in names for text in _endings(name)]
    if entries and (found := _quoted(tapes.files, mentions)):
        return found
    code = Code(tapes.own_code)
    for name in names:
        ref = tapes.parameters.get(name)
        found = code.source(tapes.port.steps[ref.step]) if ref is not None else None
        if found is not None:
            return found
    return None if entries else _quoted(tapes.files, mentions)


def _endings(name: str) -> list[str]:
    """A tensor's template, and its last parts as far as they still tell it from others."""
    parts = template(name).split(".")
    texts = [template(name), ".".join(parts[-3:]), ".".join(parts[-2:])]
    short = next((place for place, text in enumerate(texts) if len(text) < _TELLING), len(texts))
    return texts[: short + 1]


def _quoted(files: Iterable[str], texts: Iterable[str]) -> Source | None:
    """The first line in which one of the texts ends a string, the first text first."""
    for text in texts:
        for file in files:
            for number, line in enumerate(linecache.getlines(file), 1):
                if f'{text}"' in line or f"{text}'" in line:
                    return source_at(file, number)
    return None
