"""The line of a fault made while loading: the entry of WEIGHTS, or what last wrote into the parameter."""

import linecache
from collections.abc import Iterable, Sequence

from parity.explain.locate import Code, source_at
from parity.explain.record import Tapes
from parity.names import template
from parity.pair.pair import Pair
from parity.records import Source


def loader_line(pair: Pair, tapes: Tapes, names: Sequence[str]) -> Source | None:
    """Where the port says, or does, what goes wrong in loading.

    Args:
        pair: what is compared.
        tapes: both models traced from their constructors on.
        names: the port's parameters and the checkpoint's tensors that the finding speaks of, the most telling first.
    """
    if pair.port.weights is not None:
        found = _named(tapes.files, names) or next(filter(None, (_mentioned(tapes.files, n) for n in names)), None)
        if found is not None:
            return found
    code = Code(tapes.own_code)
    for name in names:
        ref = tapes.parameters.get(name)
        found = code.source(tapes.port.steps[ref.step]) if ref is not None else None
        if found is not None:
            return found
    return next(filter(None, (_mentioned(tapes.files, name) for name in names)), None)


def _named(files: Iterable[str], names: Sequence[str]) -> Source | None:
    """The first line that has one of the names whole, between quotes, as a template."""
    for name in names:
        quoted = (f'"{template(name)}"', f"'{template(name)}'")
        for file in files:
            for number, line in enumerate(linecache.getlines(file), 1):
                if any(text in line for text in quoted):
                    return source_at(file, number)
    return None


def _mentioned(files: Iterable[str], name: str) -> Source | None:
    """The first line that names a tensor, as a template or by the last parts of its name."""
    parts = template(name).split(".")
    for text in (template(name), ".".join(parts[-3:]), ".".join(parts[-2:])):
        for file in files:
            for number, line in enumerate(linecache.getlines(file), 1):
                if f'{text}"' in line or f"{text}'" in line:
                    return source_at(file, number)
        if len(text) < 8:
            break
    return None
