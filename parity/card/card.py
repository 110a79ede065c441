"""`parity card`: the fact sheet of one architecture, from its config and its reference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity import __version__
from parity.card import effects, memory, parameters
from parity.card.facts import facts
from parity.card.fields import Fields, check
from parity.card.layers import Layer, read
from parity.card.structure import Structure, inspect
from parity.card.target import Target, find
from parity.card_records import BITS, Card, KVCache, Measured
from parity.errors import ParityError
from parity.pair import reference as references
from parity.pair.reference import ConfigRejected, Reference

Progress = Callable[[str], object]
_DTYPE = "bfloat16"


def card(
    target: str | Path,
    *,
    context: int | None = None,
    batch: int = 1,
    dtype: str = _DTYPE,
    weights_dtype: str | None = None,
    progress: Progress = lambda _: None,
) -> Card:
    """The fact sheet of an architecture.

    Args:
        target: a config.json, a directory with one, a Hub id, a port, or the name of a config that comes with Parity.
        context: tokens to work out the memory for; by default as many as the architecture is made for.
        batch: sequences to work it out for.
        dtype: of keys and values.
        weights_dtype: of the weights; by default that of the release, else bfloat16.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: bad input; says what to do next.
    """
    return gather(target, context, batch, dtype, weights_dtype, progress).card


@dataclass(frozen=True)
class Gathered:
    """A card, and what it was made from; no reference and no structure if nobody knows the architecture."""

    card: Card
    reference: Reference | None
    structure: Structure | None
    fields: Fields


def gather(
    target: str | Path,
    context: int | None = None,
    batch: int = 1,
    dtype: str = _DTYPE,
    weights_dtype: str | None = None,
    progress: Progress = lambda _: None,
) -> Gathered:
    """The card with what it was made from; arguments and errors are those of `card`."""
    return of(lambda: find(str(target)), context, batch, dtype, weights_dtype, progress)


def of(
    look: Callable[[], Target],
    context: int | None = None,
    batch: int = 1,
    dtype: str = _DTYPE,
    weights_dtype: str | None = None,
    progress: Progress = lambda _: None,
) -> Gathered:
    """The same of what `look` finds; that is called when the other arguments are known to be right."""
    for name in filter(None, (dtype, weights_dtype)):
        if name not in BITS:
            raise ParityError(f"there is no dtype {name!r} to count bytes in", f"Those are {', '.join(BITS)}.")
    if batch < 1 or (context is not None and context < 1):
        raise ParityError(f"a batch of {batch} with {context} tokens of context is none", "Give whole numbers above 0.")
    found = look()
    config = _text_part(found.config)
    notes = [] if config is found.config else [f"the text part of {found.source} is told; the rest is left out"]
    reference, unknown = _reference(config)
    notes += unknown
    settings = config if reference is None else reference.settings
    fields = Fields(settings, config)
    check(fields)
    layers, strange = read(fields)
    notes += [f"unknown: {each}" for each in strange]
    structure = None
    if reference is not None:
        progress("building the reference without weights")
        structure = inspect(reference, layers)
        notes += [f"the reference could not be run without values: {structure.failed}"] if structure.failed else []
    counted = parameters.count(fields, layers, structure)
    kept = _measured(memory.cache(layers), structure)
    notes += _disagreeing(counted.agree, kept)
    longest = fields.number("context")
    if context is not None and longest is not None and context > longest:
        notes.append(f"{context:,} tokens are more than the {longest:,} that it is made for; computed all the same")
    made = Card(
        name=found.name,
        source=found.source,
        model_type=str(config.get("model_type")),
        reference=None if reference is None else reference.class_name,
        transformers=references.VERSION,
        parity=__version__,
        facts=facts(fields, layers, structure, counted, kept),
        parameters=counted,
        kv_cache=kept,
        memory=memory.memory(
            kept, counted.total, context, longest, batch, dtype, weights_dtype or _released(found.config, config)
        ),
        fields=tuple(effects.told(settings, reference)),
        notes=tuple(notes),
        modules={} if structure is None else parameters.modules(structure),
        port=found.port,
    )  # fmt: skip
    return Gathered(made, reference, structure, fields)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's section, also where only the whole has a model_type."""
    inner = references.text_part(config)
    nested = config.get("text_config")
    if inner is config and isinstance(nested, Mapping) and "model_type" in config:
        return {**nested, "model_type": config["model_type"]}
    return inner


def _reference(config: Mapping[str, Any]) -> tuple[Reference | None, list[str]]:
    """The class that the config belongs to; None, and what to say of it, if nobody knows it."""
    if isinstance(config.get("model_type"), str) and not references.implements(config):
        try:
            return references.describe(config), []
        except ConfigRejected:
            raise
        except ParityError as error:
            return None, [f"{error}", "what fields do not say is marked unknown; figures are by formula alone"]
    return references.describe(config), []


def _measured(kept: KVCache, structure: Structure | None) -> KVCache:
    """With what the reference's own cache came to, if it could be run."""
    if structure is None or not structure.kept:
        return kept
    lengths = tuple(structure.kept)
    measured = tuple(structure.bytes(length) for length in lengths)
    computed = tuple(kept.bytes(length, _DTYPE) for length in lengths)
    return KVCache(kept.kinds, Measured(lengths, measured, computed, measured[1] - measured[0]), kept.why)


def _disagreeing(agree: bool | None, kept: KVCache) -> list[str]:
    found = []
    if agree is False:
        found.append("the formula does not give the parameters that the reference has: the count is right")
    if kept.measured is not None and not kept.measured.agree:
        found.append(
            "the formula does not give the cache that the reference keeps: measured, in bytes, "
            + ", ".join(
                f"{bytes_:,} at {tokens:,} tokens"
                for tokens, bytes_ in zip(kept.measured.lengths, kept.measured.bytes, strict=True)
            )
        )
    return found


def _released(whole: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The dtype that weights were released in."""
    names = [each.get(name) for each in (config, whole) for name in ("dtype", "torch_dtype")]
    return next((str(name) for name in names if name in BITS), _DTYPE)


def layers_of(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Every layer of a config, for tests and other readers.

    Raises:
        ParityError: fields contradict each other.
    """
    fields = Fields(config, config)
    check(fields)
    return read(fields)[0]
