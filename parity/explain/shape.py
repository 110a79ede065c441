"""How an error is shaped, where no change to the reference explains it: which layers, heads, positions and features."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS, Endpoint
from parity.compare.measure import find_order
from parity.compare.stages import Forward, Sides
from parity.explain.findings import Located
from parity.names import numbers, ranges, template
from parity.records import PROMOTED_NOISE, Finding

_LEAST = 2  # of what is told apart


def described(
    sides: Sides, measured: Forward, settings: Mapping[str, Any], located: Sequence[Located], found: Iterable[Finding]
) -> tuple[Finding, ...]:
    """Findings of which the cause is not known, with how the error is shaped among their evidence.

    Args:
        sides: both models after their runs.
        measured: what the forward stage found.
        settings: all fields of the reference's config.
        located: the findings before they were explained, with their places.
        found: the findings, explained.
    """
    places = {(each.finding.title, each.finding.reference_module): each.endpoints for each in located}
    return tuple(
        _with_shape(sides, measured, settings, finding, places.get((finding.title, finding.reference_module), ()))
        if finding.cause == "unknown"
        else finding
        for finding in found
    )


def _with_shape(
    sides: Sides, measured: Forward, settings: Mapping[str, Any], finding: Finding, endpoints: Sequence[Endpoint]
) -> Finding:
    values = _values(sides, measured, endpoints[0]) if endpoints else None
    if values is None:
        return finding
    lines = list(_layers(sides, settings, endpoints))
    if not any(line.endswith("everywhere") for line in finding.evidence):  # a factor, which says it all
        lines += shape(*values, sides.reference.trace.logits.shape[:2], settings)
    return saying(finding, lines)


def saying(finding: Finding, lines: Iterable[str]) -> Finding:
    """The finding with more evidence, before the places where it shows as well."""
    also = [line for line in finding.evidence if line.startswith("also ")]
    known = [line for line in finding.evidence if not line.startswith("also ")]
    return replace(finding, evidence=tuple(dict.fromkeys((*known, *lines, *also))))


def _values(sides: Sides, measured: Forward, endpoint: Endpoint) -> tuple[Tensor, Tensor] | None:
    """The port's value at a place and the reference's, in the reference's layout; None if they cannot be compared."""
    reference, port = sides.reference.trace, measured.isolated.trace
    if endpoint == LOGITS:
        expected = isolation.fitted(reference.logits, port.logits)
        return None if expected is None else (port.logits, expected)
    wire = next((wire for wire in measured.wires if wire.reference == endpoint), None)
    return None if wire is None else wire.compared(port, reference)


def _layers(sides: Sides, settings: Mapping[str, Any], endpoints: Sequence[Endpoint]) -> Iterator[str]:
    """Which of the layers that have such a place are wrong there, if not all; and what they have in common."""
    kind = template(endpoints[0].module)
    wrong = {numbers(end.module)[0] for end in endpoints if template(end.module) == kind and numbers(end.module)}
    every = {numbers(name)[0] for name in sides.reference.modules if template(name) == kind and numbers(name)}
    if not wrong or wrong >= every:
        return
    types = settings.get("layer_types") or []
    kinds = {types[layer] for layer in wrong} if max(every) < len(types) else set()
    line = f"wrong in layers {ranges(wrong)} of {len(every)}"
    if len(kinds) == 1 and {layer for layer in every if types[layer] in kinds} == wrong:
        line += f", which are those of {kinds.pop()}"
    yield line


def shape(own: Tensor, expected: Tensor, tokens: Sequence[int], settings: Mapping[str, Any]) -> list[str]:
    """What a wrong value looks like beside the right one.

    Args:
        own: the port's value, in the reference's layout.
        expected: the reference's.
        tokens: rows and positions of the probe.
        settings: all fields of the reference's config.
    """
    expected = expected.expand_as(own) if expected.shape != own.shape else expected
    if not own.is_floating_point() or not own.numel() or not bool(torch.isfinite(own).all()):
        return []
    relation = _relation(own, expected, tokens) or "no constant factor, constant offset or other order accounts for it"
    return [*_extent(own, expected, tokens, settings), relation]


def _extent(own: Tensor, expected: Tensor, tokens: Sequence[int], settings: Mapping[str, Any]) -> Iterator[str]:
    """Rows, positions, heads or features that differ where others do not."""
    wrong = (own - expected).abs() > PROMOTED_NOISE * expected.abs().max()
    for name, axis, flags in _flags(wrong, tokens, settings):
        places = flags.nonzero().flatten().tolist()
        if not places or len(places) == len(flags):
            continue
        if name == "positions" and places[0] > 0 and axis < own.ndim - 1:
            continue  # told already
        yield f"{name} {ranges(places)} of {len(flags)} differ, the others agree"
        if name == "heads":
            return


def _flags(wrong: Tensor, tokens: Sequence[int], settings: Mapping[str, Any]) -> Iterator[tuple[str, int, Tensor]]:
    """Along each axis that means something, which of its entries are wrong anywhere."""
    rows, length = tokens
    heads = _heads(wrong.shape, settings)
    if heads is not None:
        wrong = wrong.reshape(*wrong.shape[:-1], *heads) if wrong.shape[-1] == heads[0] * heads[1] else wrong
    for axis, size in enumerate(wrong.shape):
        if size < _LEAST:
            continue
        flags = wrong.movedim(axis, 0).flatten(1).any(1)
        if axis == 0 and size == rows:
            yield "rows of the probe", axis, flags
        elif size == length and axis < wrong.ndim - 1:
            yield "positions", axis, flags
        elif heads is not None and size == heads[0]:
            yield "heads", axis, flags
        elif axis == wrong.ndim - 1:
            yield "features" + (" of each head" if heads else ""), axis, flags


def _heads(sizes: Sequence[int], settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many heads of which width a value consists of, if it does."""
    count = settings.get("num_attention_heads")
    if not isinstance(count, int) or not count:
        return None
    width = settings.get("head_dim") or settings.get("hidden_size", 0) // count
    for heads in (count, settings.get("num_key_value_heads")):
        if isinstance(heads, int) and heads > 1 and width:
            split = len(sizes) > 3 and sizes[-1] == width and heads in sizes[1:-1]
            if split or sizes[-1] == heads * width:
                return heads, width
    return None


def _relation(own: Tensor, expected: Tensor, tokens: Sequence[int]) -> str:  # noqa: PLR0911 (one after the other)
    """A constant offset or ratio, or another order; empty if it is none of these."""
    difference = own - expected
    if _constant(difference, own):
        return f"it is the reference's value plus {float(difference.mean()):.6g} everywhere"
    leading = tuple(range(own.ndim - 1))
    if own.ndim > 1 and own.shape[:-1].numel() > 1:
        if _fits(expected + difference.mean(leading, keepdim=True), own):
            return "the difference is the same at every position: each feature has a constant offset, as of a bias"
        if _fits(_scaled(own, expected, leading), own):
            return "each feature is the reference's times a constant of its own, the same at every position"
        if own.shape[-1] > 1 and _fits(_scaled(own, expected, (own.ndim - 1,)), own):
            return "each vector is the reference's times a constant of its own, other ones at other positions"
    order = find_order(own, expected)
    if order is not None:
        name = {0: "rows of the probe", own.ndim - 1: "features"}.get(order.axis, "entries of an axis")
        name = "positions" if own.shape[order.axis] == tokens[1] and order.axis < own.ndim - 1 else name
        return f"it is the reference's value with its {name} in another order: {_shown(order.places.tolist())}"
    if _fits(own.flatten().sort().values, expected.flatten().sort().values):
        return "it has the reference's numbers, all of them, in another order"
    return ""


def _scaled(own: Tensor, expected: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The reference's value times the factors, one for all along some axes, that bring it nearest."""
    factors = (own * expected).sum(axes, keepdim=True) / expected.pow(2).sum(axes, keepdim=True).clamp_min(1e-300)
    return factors * expected


def _constant(difference: Tensor, own: Tensor) -> bool:
    size = own.abs().max()
    return bool(difference.abs().min() > PROMOTED_NOISE * size) and bool(
        (difference - difference.mean()).abs().max() <= PROMOTED_NOISE * size
    )


def _fits(value: Tensor, own: Tensor) -> bool:
    return bool(torch.linalg.vector_norm(value - own) <= PROMOTED_NOISE * torch.linalg.vector_norm(own))


def _shown(places: list[int], most: int = 8) -> str:
    return " ".join(map(str, places[:most])) + (" ..." if len(places) > most else "")
