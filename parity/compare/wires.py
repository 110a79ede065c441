"""Wires: which tensor, and which of its features, at an endpoint of the reference stands at which one of the port."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

from parity.compare.align import ModulePair, fits
from parity.compare.capture import Call, Endpoint, Trace
from parity.compare.lineage import Holding
from parity.compare.measure import Layout, best_layout, layouts
from parity.compare.sides import Side

_NEAR = 0.5  # relative error from which two calls are not taken for one because no others are nearer


@dataclass(frozen=True)
class Wire:
    """One tensor of a reference call laid over one tensor of a port call.

    Features are positions along the last axis, in the reference's layout; None stands for all of them in order.
    """

    reference: Endpoint
    port: Endpoint
    reference_part: int
    port_part: int
    layout: Layout
    reference_features: Tensor | None = None
    port_features: Tensor | None = None

    @property
    def counts_features(self) -> bool:
        """Whether it says which feature stands where, which holds for one width alone."""
        features = self.reference_features is not None or self.port_features is not None
        return features or self.layout.order is not None

    def compared(self, port: Trace, reference: Trace) -> tuple[Tensor, Tensor] | None:
        """The port's and the reference's values, laid over each other; None if either call did not happen or fit."""
        ours, theirs = reference.at(self.reference), port.at(self.port)
        if ours is None or theirs is None or len(ours) <= self.reference_part or len(theirs) <= self.port_part:
            return None
        return self.laid(theirs[self.port_part], ours[self.reference_part])

    def laid(self, own: Tensor, expected: Tensor) -> tuple[Tensor, Tensor] | None:
        """A port's and a reference's tensor, laid over each other; None if they do not fit."""
        shape = self._shape(expected, own)
        if not self.layout.broadcast and own.numel() != shape.numel():
            return None
        if (order := self.layout.order) is not None and len(order.places) != shape[order.axis]:
            return None
        own = self.layout.to_reference(own, shape)
        if self.port_features is not None:
            own = own[..., self.port_features]
        if self.reference_features is not None:
            expected = expected[..., self.reference_features]
        return own, expected.expand_as(own)

    def handed_on(self, own: Tensor, expected: Tensor) -> Tensor:
        """The port's tensor with the reference's values in it, in the port's layout."""
        shape = self._shape(expected, own)
        if not self.layout.broadcast and own.numel() != shape.numel():
            return own  # another number of rows, as an expert has that other tokens are sent to
        if (order := self.layout.order) is not None and len(order.places) != shape[order.axis]:
            return own
        if self.port_features is None and self.reference_features is None:
            return self.layout.to_port(expected, own.shape).to(own.dtype)
        merged = self.layout.to_reference(own, shape).clone()
        source = expected if self.reference_features is None else expected[..., self.reference_features]
        if self.port_features is None:
            merged = source
        else:
            merged[..., self.port_features] = source.to(own.dtype)
        return self.layout.to_port(merged, own.shape).to(own.dtype)

    def _shape(self, expected: Tensor, own: Tensor) -> torch.Size:
        """The reference's layout, with as many features as the port has there."""
        if self.port_features is None and self.reference_features is None:
            return expected.shape
        leading = expected.shape[:-1]
        return torch.Size([*leading, own.numel() // max(1, leading.numel())])


@dataclass(frozen=True)
class Connection:
    """Wires, and why modules that were paired could not be wired: reference module -> reason.

    doubtful: pairs whose calls are told apart by their values, and whose values in this run are too far off for that.
    """

    wires: tuple[Wire, ...]
    reasons: Mapping[str, str]
    doubtful: tuple[ModulePair, ...] = ()


def connect(reference: Side, port: Side, pairs: Iterable[ModulePair], doubting: bool = True) -> Connection:
    """Wires of all pairs; with `doubting` those that cannot be told yet are left for a run that is nearer."""
    wires: list[Wire] = []
    reasons: dict[str, str] = {}
    doubtful: list[ModulePair] = []
    by_reference: dict[str, list[ModulePair]] = {}
    for pair in pairs:
        by_reference.setdefault(pair.reference, []).append(pair)
    for module, group in by_reference.items():
        found: list[Wire] = []
        calls = _calls(reference, port, group)
        if doubting and any(mismatch > _NEAR for *_, mismatch in calls):
            doubtful += group
            continue
        for pair, ours, theirs, _ in calls:
            carries = _carries_residual(ours, theirs)
            if not carries:
                found += _input_wires(reference, port, pair, ours, theirs)
            if not carries or port.is_leaf(pair.port):
                found += _output_wires(reference, port, pair, ours, theirs)
        if not found:
            counts = " and ".join(str(port.calls(pair.port)) for pair in group)
            reasons[module] = (
                f"called {reference.calls(module)} times, {group[0].port} {counts} times, or of other shapes"
            )
        wires += found
    return Connection(tuple(wires), reasons, tuple(doubtful))


def _calls(reference: Side, port: Side, group: Sequence[ModulePair]) -> list[tuple[ModulePair, Call, Call, float]]:
    """Calls that correspond, in order where the counts agree; otherwise the closest, and then the nearest by label.

    The last is how far off values are that told them apart.
    """
    ours = reference.trace.calls[group[0].reference]
    theirs = [(pair, call) for pair in group for call in port.trace.calls[pair.port]]
    if group[0].partial or len(group) == 1:
        return [
            (pair, mine, other, 0.0)
            for pair in group
            if len(port.trace.calls[pair.port]) == len(ours)
            for mine, other in zip(ours, port.trace.calls[pair.port], strict=True)
        ]
    if len(ours) == 1:
        return [(pair, ours[0], other, 0.0) for pair, other in theirs]
    ranked = sorted(
        (
            (
                min((min(error, 1.0) for _, _, error in fits(mine, other)), default=2.0),
                -_alike(mine.label, pair.port),
                i,
                j,
            )
            for i, mine in enumerate(ours)
            for j, (pair, other) in enumerate(theirs)
        ),
    )
    used: tuple[set[int], set[int]] = (set(), set())
    found = []
    for mismatch, _, i, j in ranked:
        if mismatch < 2.0 and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            found.append((theirs[j][0], ours[i], theirs[j][1], mismatch))
    return found


def _carries_residual(ours: Call, theirs: Call) -> bool:
    """Whether the port's module hands on a residual beside its result, which then is not the reference's by itself."""

    def alike(call: Call) -> int:
        return sum(value.ndim > 2 and value.shape == call.outputs[0].shape for value in call.outputs)

    return alike(theirs) > 1 >= alike(ours)


def _alike(label: str, name: str) -> float:
    return SequenceMatcher(None, label, name).ratio()


def _input_wires(reference: Side, port: Side, pair: ModulePair, ours: Call, theirs: Call) -> list[Wire]:
    if not ours.inputs or not theirs.inputs:
        return []
    left, right = ours.inputs[0], theirs.inputs[0]
    if left.is_floating_point() != right.is_floating_point():
        return []
    ends = Endpoint(pair.reference, ours.number, "input"), Endpoint(pair.port, theirs.number, "input")
    features = _features(reference, port, pair, "input") if left.is_floating_point() else None
    return _wire(ends, (0, 0), left, right, features)


def _output_wires(reference: Side, port: Side, pair: ModulePair, ours: Call, theirs: Call) -> list[Wire]:
    ends = Endpoint(pair.reference, ours.number, "output"), Endpoint(pair.port, theirs.number, "output")
    features = _features(reference, port, pair, "output")
    if features is not None and ours.outputs and theirs.outputs:
        return _wire(ends, (0, 0), ours.outputs[0], theirs.outputs[0], features)
    bare = not reference.keeps_weights(pair.reference) and reference.is_leaf(pair.reference)
    if bare and len(ours.outputs) == len(theirs.outputs):
        parts = [(part, part) for part in range(len(ours.outputs))]
    else:
        ranked = sorted((min(error, 1.0), left + right, left, right) for left, right, error in fits(ours, theirs))
        parts = [(left, right) for _, _, left, right in ranked[:1]]
    found = []
    for left, right in parts:
        found += _wire(ends, (left, right), ours.outputs[left], theirs.outputs[right], None)
    return found


Features = tuple[Tensor | None, Tensor]


def _wire(
    ends: tuple[Endpoint, Endpoint], parts: tuple[int, int], left: Tensor, right: Tensor, features: Features | None
) -> list[Wire]:
    if features is None:
        best = best_layout(right, left)
        return [] if best is None else [Wire(*ends, *parts, best[0])]
    ours, theirs = features
    leading = left.shape[:-1]
    width, odd = divmod(right.numel(), max(1, leading.numel()))
    if odd or int(theirs.max()) >= width or (ours is not None and int(ours.max()) >= left.shape[-1]):
        return []
    fitting = layouts(right.shape, torch.Size([*leading, width]))
    return [Wire(*ends, *parts, fitting[0], ours, theirs)] if fitting else []


def _features(reference: Side, port: Side, pair: ModulePair, kind: str) -> Features | None:
    """How the reference's features are placed among the port's, read from the weights; None if plainly in order."""
    if not (reference.is_leaf(pair.reference) and port.is_leaf(pair.port)):
        return None
    own = reference.owned.get(pair.reference, {})
    theirs = port.owned.get(pair.port, {})
    holdings = {holding.tensor: holding for found in theirs.values() for holding in found}
    ranked = sorted(own.items(), key=lambda item: -max((len(holding.places) for holding in item[1]), default=0))
    for _, found in ranked:
        if len(found) == 1 and found[0].tensor in holdings:
            return _places(reference, pair, found[0], holdings[found[0].tensor], kind)
    return None


def _places(reference: Side, pair: ModulePair, own: Holding, other: Holding, kind: str) -> Features | None:
    axis = _feature_axis(reference, pair.reference, own, kind)
    if axis is None or other.places[axis] is None:
        return None
    places = other.places[axis]
    assert places is not None
    entries = other.entries if axis == other.matched_axis else None
    if not own.complete and axis == own.matched_axis:
        return _common(own, torch.arange(len(places)) if entries is None else entries, places)
    if entries is not None and len(entries) == 0:
        return None
    plain = bool(torch.equal(places, torch.arange(len(places))))
    whole = entries is None or bool(torch.equal(entries, torch.arange(len(entries))))
    if plain and whole and other.complete and not pair.partial:
        return None
    return (None if whole and other.complete else entries), places


def _common(own: Holding, entries: Tensor, places: Tensor) -> Features | None:
    """Features of a module of the reference that holds a part of a tensor, of which the port's holds these entries."""
    ours = own.places[own.matched_axis]
    assert ours is not None
    at = {int(entry): int(place) for entry, place in zip(entries, places, strict=True)}
    both = [(int(mine), at[int(entry)]) for entry, mine in zip(own.entries, ours, strict=True) if int(entry) in at]
    if not both:
        return None
    mine, other = (torch.tensor(each) for each in zip(*sorted(both), strict=True))
    return (None if torch.equal(mine, torch.arange(len(own.entries))) else mine), other


def _feature_axis(reference: Side, module: str, own: Holding, kind: str) -> int | None:
    """The axis of a weight that its module's input or output features run along, told by what the module computes."""
    call = reference.trace.calls[module][0]
    if len(own.places) == 1:
        return 0
    weight = max(reference.modules[module].parameters(recurse=False), key=lambda value: value.ndim).detach()
    if weight.ndim != 2 or not call.inputs or not call.outputs:
        return None
    given, result = call.inputs[0], call.outputs[0]
    if not given.is_floating_point():
        return 1 if kind == "output" else None
    row = given.reshape(-1, given.shape[-1])[:2]
    expected = result.reshape(-1, result.shape[-1])[:2]
    for output_axis, product in ((0, weight.T), (1, weight)):
        if row.shape[-1] == product.shape[0] and expected.shape[-1] == product.shape[1]:
            change = (row @ product)[1:] - (row @ product)[:1]  # the bias cancels
            if torch.allclose(change, expected[1:] - expected[:1], rtol=1e-6, atol=1e-9):
                return output_axis if kind == "output" else 1 - output_axis
    return None


def by_endpoint(wires: Iterable[Wire], side: str) -> Mapping[Endpoint, list[Wire]]:
    """Wires grouped by the endpoint they have on one side, "reference" or "port"."""
    grouped: dict[Endpoint, list[Wire]] = {}
    for wire in wires:
        grouped.setdefault(wire.reference if side == "reference" else wire.port, []).append(wire)
    return grouped
