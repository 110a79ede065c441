"""Findings of the forward stage: what to mend, worded from what was measured, the first one first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS, Endpoint
from parity.compare.measure import identical
from parity.compare.sides import Side, parents
from parity.compare.stages import Forward, Sides
from parity.explain.segment import around, first_unwitnessed
from parity.names import template
from parity.records import PROMOTED_NOISE, Finding

NOT_LOADED = ("weights-silently-missing", "tied-head")  # causes of what a loader left out
_FLOAT32_ROUNDING = 1e-6


@dataclass(frozen=True)
class Located:
    """A finding, and what it speaks of.

    endpoints: the places of the reference at which the port is wrong by itself, the first one first. names: parameters
    and tensors that went wrong in loading. called: a module of the port whose call is what is wrong. built: one
    that was made wrongly.
    """

    finding: Finding
    endpoints: tuple[Endpoint, ...] = ()
    names: tuple[str, ...] = ()
    called: str = ""
    built: str = ""


def module_of(parameter: str) -> str:
    """The module that a parameter, or another module, is in."""
    return parameter.rpartition(".")[0]


def forward(sides: Sides, measured: Forward, settled: Sequence[Finding]) -> tuple[Located, ...]:
    """Findings of the forward stage, in the order data flows; those that `settled` already explains are left out."""
    special = _special(sides, measured)
    never = {sides.reference.serves(tensor) for found in sides.loading.waiting.values() for tensor in found}
    certain = [each for each in settled if each.cause not in NOT_LOADED or each.reference_module in never]
    explained = {each.reference_module for each in certain} | {module for each in certain for module in _also(each)}
    wired = [each for each in settled if each.cause == "layer-wiring"]
    shared_layers = {module for each in wired for module in (each.reference_module, *_also(each))}
    failing = [
        endpoint
        for endpoint in sorted(measured.isolated.errors, key=sides.reference.trace.event)
        if not measured.isolated.errors[endpoint] <= PROMOTED_NOISE
        and not (endpoint == LOGITS and measured.shape)
        and not explained & {endpoint.module, *parents(endpoint.module)}
    ]
    shared = _wrong_classes(sides, measured, failing)
    places: dict[str, list[tuple[Finding, Endpoint]]] = {}
    for endpoint in _without_twins(sides.reference, failing):
        finding = _finding(sides, measured, endpoint)
        blamed = {finding.reference_module, *parents(finding.reference_module)}
        if blamed & ((explained & never) | shared_layers):
            continue
        if endpoint in shared:
            finding = replace(finding, title=shared[endpoint])
        place = shared.get(endpoint) or f"{template(endpoint.module)} {endpoint.kind}"
        places.setdefault(place, []).append((finding, endpoint))
    return (
        *map(Located, special),
        *(
            Located(merged([finding for finding, _ in group]), tuple(endpoint for _, endpoint in group))
            for group in places.values()
        ),
    )


def _wrong_classes(sides: Sides, measured: Forward, failing: Sequence[Endpoint]) -> dict[Endpoint, str]:
    """Failing leaves whose class, one of the port's own, is wrong wherever it was compared: one fault, not many."""
    by_class: dict[type, list[tuple[Endpoint, str]]] = {}
    for wire in measured.wires:
        module = sides.port.modules[wire.port.module]
        own = not type(module).__module__.startswith("torch.")
        if wire.reference.kind == "output" and own and sides.port.is_leaf(wire.port.module):
            by_class.setdefault(type(module), []).append(
                (wire.reference, type(sides.reference.modules[wire.reference.module]).__name__)
            )
    titles: dict[Endpoint, str] = {}
    for kind, places in by_class.items():
        ends = {endpoint for endpoint, _ in places}
        names = {name for _, name in places}
        if len(ends) > 1 and len(names) == 1 and ends <= set(failing):
            title = f"every {kind.__name__} gives another result than {names.pop()} on the same input"
            titles |= dict.fromkeys(ends, title)
    return titles


def _also(finding: Finding) -> list[str]:
    return [line.removeprefix("also ") for line in finding.evidence if line.startswith("also ")]


def _without_twins(reference: Side, failing: Sequence[Endpoint]) -> list[Endpoint]:
    """One of several modules that take the same value stands for all of them."""
    kept: list[Endpoint] = []
    for endpoint in failing:
        twins = [
            other
            for other in kept
            if other.kind == endpoint.kind == "input" and module_of(other.module) == module_of(endpoint.module)
        ]
        value = reference.trace.at(endpoint)
        if not (value and any(identical(value[0], (reference.trace.at(twin) or value)[0]) for twin in twins)):
            kept.append(endpoint)
    return kept


def _special(sides: Sides, measured: Forward) -> list[Finding]:
    """Faults that make figures meaningless: no logits to compare, NaN, a port that differs from itself."""
    found = []
    if measured.shape:
        found.append(_unknown(measured.shape, "lm_head", "", "the reference returns one row of logits per token"))
    for side, endpoint, where in zip(
        (sides.reference, sides.port), measured.broken, ("reference", "port"), strict=True
    ):
        if endpoint is not None:
            title = f"NaN or infinity on the {where}'s side, first in {_place(endpoint)} ({endpoint.kind})"
            evidence = f"{_count_not_finite(side, endpoint)} values are not finite there"
            found.append(_unknown(title, *_both(measured, endpoint, where), evidence))
    if measured.unstable is not None:
        title = f"the port gives other results on the same input in eval mode, first in {_place(measured.unstable)}"
        evidence = "two runs with different random seeds differ; look for dropout that ignores self.training"
        found.append(_unknown(title, *_both(measured, measured.unstable, "port"), evidence))
    return found


def _unknown(title: str, reference: str, port: str, evidence: str) -> Finding:
    return Finding("forward", "unknown", title, reference, port, evidence=(evidence,))


def _place(endpoint: Endpoint) -> str:
    return endpoint.module or "the returned logits"


def _both(measured: Forward, endpoint: Endpoint, side: str) -> tuple[str, str]:
    """The reference's and the port's module of an endpoint that one of them has."""
    if side == "reference":
        return endpoint.module, next((pair.port for pair in measured.pairs if pair.reference == endpoint.module), "")
    partners = {pair.port: pair.reference for pair in measured.pairs}
    around = (endpoint.module, *parents(endpoint.module))
    return next((partners[name] for name in around if name in partners), ""), endpoint.module


def _count_not_finite(side: Side, endpoint: Endpoint) -> int:
    tensors = (side.trace.logits,) if endpoint == LOGITS else side.trace.at(endpoint) or ()
    return sum(int((~torch.isfinite(tensor)).sum()) for tensor in tensors[:1])


def _finding(sides: Sides, measured: Forward, endpoint: Endpoint) -> Finding:
    """One own error, attributed to the module that makes it, or to the one around the stretch that does."""
    error = measured.isolated.errors[endpoint]
    inner = first_unwitnessed(sides.reference, measured, endpoint)
    ours, theirs = _blamed(sides, measured, endpoint, inner)
    evidence = [f"relative error {error:.1e} in promoted float64, with the reference's own values before it"]
    if error < _FLOAT32_ROUNDING:
        evidence.append("as small as float32 rounding: an eps, or a constant or table made in float32 outside torch")
    evidence += _shape_of_error(sides, measured, endpoint)
    return Finding(
        "forward", "unknown", _title(sides, measured, endpoint, inner, theirs), ours, theirs, evidence=tuple(evidence)
    )


def _blamed(sides: Sides, measured: Forward, endpoint: Endpoint, inner: Endpoint | None) -> tuple[str, str]:
    """The reference's and the port's module that a failing boundary speaks against."""
    reference = sides.reference
    partners = {pair.reference: pair.port for pair in measured.pairs if not pair.partial}
    ports = [wire.port.module for wire in measured.wires if wire.reference == endpoint]
    if inner is not None:
        ours = inner.module if inner.kind == "output" else around(reference, inner)
        nearest = next((partners[name] for name in (ours, *parents(ours)) if name in partners), "")
        return ours, nearest or (ports[0] if ports else "")
    if endpoint == LOGITS:
        head = [name for name in reference.modules if not name.count(".")][-1]
        return head, partners.get(head, "")
    if endpoint.kind == "output":
        return endpoint.module, ports[0]
    if _meant_for(sides, measured, endpoint):
        return endpoint.module, ports[0]  # the wrong module is called here, rather than a right one given a wrong value
    place = _given_right(reference, measured, endpoint) or around(reference, endpoint)
    return place, partners.get(place) or module_of(ports[0]) or ports[0]


def _given_right(reference: Side, measured: Forward, endpoint: Endpoint) -> str:
    """The module around an input that is given the same value, by the port the right one; empty if there is none."""
    value = reference.trace.at(endpoint)
    for outer in parents(endpoint.module):
        given = endpoint._replace(module=outer)
        own = reference.trace.at(given)
        if not value or not own or not identical(own[0], value[0]):
            return ""
        if measured.isolated.errors.get(given, 1.0) <= PROMOTED_NOISE:
            return outer
    return ""


def _title(sides: Sides, measured: Forward, endpoint: Endpoint, inner: Endpoint | None, theirs: str) -> str:
    """What is wrong, in the port's names for places and the reference's for what they are measured against."""
    if inner is not None:
        where = "is given" if inner.kind == "input" else "gives"
        return f"{theirs or 'the port'} computes no such value as {inner.module} {where}"
    if endpoint == LOGITS:
        return "the returned logits go wrong after the last module"
    port = next(wire.port.module for wire in measured.wires if wire.reference == endpoint)
    before = _before(sides.reference, measured, endpoint)
    if endpoint.kind == "output":
        if sides.reference.is_leaf(endpoint.module) or not before:
            return f"{port} gives another result than {endpoint.module} on the same input"
        return f"{port} goes wrong after {before}"
    other = _meant_for(sides, measured, endpoint)
    if other:
        return f"{port} is given what the reference gives to {other}, not to {endpoint.module}"
    last = endpoint.module.rpartition(".")[2]
    return f"{theirs} goes wrong " + (f"between {before} and {last}" if before else f"before {last}")


def _before(reference: Side, measured: Forward, endpoint: Endpoint) -> str:
    """The modules beside or inside a place that were right last before it went wrong, in the reference's names."""
    call = reference.trace.calls[endpoint.module][endpoint.number]
    around = endpoint.module if endpoint.kind == "output" else module_of(endpoint.module)
    until = call.ended if endpoint.kind == "output" else call.began
    done = [
        reference.trace.calls[end.module][end.number]
        for end, error in measured.isolated.errors.items()
        if end.kind == "output" and end != LOGITS and error <= PROMOTED_NOISE and module_of(end.module) == around
    ]
    last = sorted((other for other in done if other.ended < until), key=lambda other: other.ended)
    last = last[-1:] if endpoint.kind == "output" else last[-3:]
    return ", ".join(dict.fromkeys(other.module.rpartition(".")[2] for other in last))


def _shape_of_error(sides: Sides, measured: Forward, endpoint: Endpoint) -> list[str]:
    """What the difference looks like: a constant factor, a value meant for another module, positions from which on."""
    reference = sides.reference.trace
    if endpoint == LOGITS:
        own = measured.isolated.trace.logits
        fitted = isolation.fitted(reference.logits, own)
        values = None if fitted is None else (own, fitted)
    else:
        wire = next(wire for wire in measured.wires if wire.reference == endpoint)
        values = wire.compared(measured.isolated.trace, reference)
    if values is None:
        return []
    own, expected = values
    if not own.is_floating_point():
        return []
    lines = []
    factor = float((own * expected).sum() / (expected * expected).sum().clamp_min(1e-300))
    if bool(torch.linalg.vector_norm(own - factor * expected) <= PROMOTED_NOISE * torch.linalg.vector_norm(own)):
        lines.append(f"it is {factor:.6g} times the reference's value everywhere")
    lines += _positions(own, expected, sides.reference.trace.logits.shape[1])
    return lines


def _meant_for(sides: Sides, measured: Forward, endpoint: Endpoint) -> str:
    """Another module of the same container to which the reference hands what the port hands here; empty if none."""
    wire = next((wire for wire in measured.wires if wire.reference == endpoint), None)
    found = wire.compared(measured.isolated.trace, sides.reference.trace) if wire else None
    if endpoint.kind != "input" or found is None:
        return ""
    own, expected = found
    for module, calls in sides.reference.trace.calls.items():
        if module == endpoint.module or module_of(module) != module_of(endpoint.module) or not calls[0].inputs:
            continue
        value = calls[0].inputs[0]
        if value.shape == own.shape and value.is_floating_point() and not torch.equal(value, expected):
            size = torch.linalg.vector_norm(value)
            if bool(torch.linalg.vector_norm(own - value) <= PROMOTED_NOISE * size):
                return module
    return ""


def _positions(own: Tensor, expected: Tensor, length: int) -> list[str]:
    """From which token on, where a dimension of the value counts tokens and the first ones agree."""
    axes = [axis for axis in range(own.ndim - 1) if own.shape[axis] == length]
    if len(axes) != 1:
        return []
    difference = (own - expected).abs().movedim(axes[0], 0).flatten(1).amax(1)
    wrong = (difference > PROMOTED_NOISE * expected.abs().max()).nonzero().flatten().tolist()
    if not wrong or len(wrong) == length:
        return []
    return [f"tokens before position {wrong[0]} agree, {len(wrong)} of {length} differ"]


def merged(group: Sequence[Finding]) -> Finding:
    """One finding for several of a kind, at the first one's place."""
    first = group[0]
    others = [finding.reference_module or finding.port_module for finding in group[1:]]
    shown = tuple(f"also {name}" for name in others)
    return replace(first, evidence=(*first.evidence, *shown))
