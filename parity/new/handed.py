"""Fields that are handed to a port otherwise than they stand in the config: what there is to try, the closest first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from parity.card.fields import NAMES

Value = Callable[[Mapping[str, Any]], Any]
_CONVENTIONS = {"kv_heads": "{heads}", "inner": "4 * {hidden}", "head_dim": "{hidden} // {heads}"}
_BY_CONVENTION: Mapping[str, Callable[[int, int], int]] = {
    "kv_heads": lambda _, heads: heads,
    "inner": lambda hidden, _: 4 * hidden,
    "head_dim": lambda hidden, heads: hidden // heads,
}
_LAYERS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Handed:
    """A field that is handed to the port otherwise than it stands in the config.

    expression: what it is made of, as in the file, where `hf` is the config; None leaves it out. why: what stopped the
    port before. default: it is what the reference has where config.json leaves it out, and no difference.
    """

    name: str
    expression: str | None
    value: Value
    why: str = ""
    default: bool = False


def carried(config: Mapping[str, Any], handed: tuple[Handed, ...]) -> dict[str, Any]:
    """The config as the port gets it."""
    made = dict(config)
    for each in handed:
        if each.expression is None:
            made.pop(each.name, None)
        else:
            made[each.name] = each.value(config)
    return made


def otherwise(name: str, expression: str | None, value: Value, why: str, small: Mapping[str, Any]) -> Handed:
    """A field under another name is the same field, and so is what it is by convention."""
    if expression in [known for known, _ in renamed(name, small)] and name not in small:
        why = "by another name" if str(expression).startswith("hf[") else "not in config.json: by convention"
        return Handed(name, expression, value, why, default=True)
    return Handed(name, expression, value, "the config has none" if "KeyError" in why else why)


def closest(
    name: str, own: Mapping[str, Any], whole: Mapping[str, Any], small: Mapping[str, Any]
) -> Iterator[tuple[str | None, Value]]:
    """Other values for a field, the closest to the config's own first: as an expression, and made of a config."""
    if name not in small:
        yield from renamed(name, small)
    given = small.get(name)
    if isinstance(given, Mapping):
        yield from _inner(name, given, own.get(name))
    layers = next((field for field in _LAYERS if isinstance(small.get(field), int)), None)
    theirs = own.get(name)
    if isinstance(given, list) and layers is not None and len(given) == small[layers] and isinstance(theirs, list):
        known = tuple(dict.fromkeys(map(str, theirs)))
        first = known[-1] if known else ""
        listed = ", ".join(map(repr, known))
        yield (
            f'[each if each in ({listed},) else {first!r} for each in hf["{name}"]]',
            lambda hf: [each if each in known else first for each in hf[name]],
        )
    if name in small:
        yield None, lambda _: None
    if isinstance(theirs, list) and theirs and layers is not None and len(set(map(str, theirs))) == 1:
        yield f'[{theirs[0]!r}] * hf["{layers}"]', lambda hf: [theirs[0]] * hf[layers]
    elif theirs is not None and not isinstance(theirs, list | Mapping):
        yield repr(theirs), lambda _: theirs


def renamed(name: str, small: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """What the config calls the same quantity, else what it is by convention where a config leaves it out."""
    quantity = next((quantity for quantity, names in NAMES.items() if name in names), None)
    if quantity is None:
        return
    for other in NAMES[quantity]:
        if other in small:
            yield f'hf["{other}"]', itemgetter(other)
    written = _CONVENTIONS.get(quantity)
    if written is None:
        return
    own = {each: next((one for one in NAMES[each] if one in small), None) for each in ("hidden", "heads")}
    hidden, heads = own["hidden"], own["heads"]
    if hidden is not None and heads is not None:
        made = _BY_CONVENTION[quantity]
        yield (
            written.format(hidden=f'hf["{hidden}"]', heads=f'hf["{heads}"]'),
            lambda hf: made(hf[hidden], hf[heads]),
        )


def alike(name: str, small: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """The same quantity of all layers for that of some, or none at all."""
    for other in small:
        if name.endswith(f"_{other}") and isinstance(small[other], int):
            yield f'hf["{other}"]', itemgetter(other)
    yield "0", lambda _: 0


def _inner(name: str, given: Mapping[str, Any], theirs: object) -> Iterator[tuple[str, Value]]:
    """Of a table: the same with one entry as the port knows it, or one of the tables in it."""
    if isinstance(theirs, Mapping):
        for key, value in theirs.items():
            if not isinstance(value, Mapping) and given.get(key) != value and key in given:
                yield f'{{**hf["{name}"], {key!r}: {value!r}}}', _with(name, key, value)
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield f'hf["{name}"]["{key}"]', _entry(name, key)


def _with(name: str, key: str, value: object) -> Value:
    return lambda hf: {**hf[name], key: value}


def _entry(name: str, key: str) -> Value:
    return lambda hf: hf[name][key]
