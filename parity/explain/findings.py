"""Findings: what to mend, worded from what was measured, the first one first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import torch
from torch import Tensor

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS, Endpoint
from parity.compare.measure import identical
from parity.compare.sides import Side, parents
from parity.compare.stages import Forward, Sides
from parity.explain.segment import around, first_unwitnessed
from parity.names import fold, template
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


def weights(sides: Sides, forward: Forward) -> tuple[Located, ...]:
    """Findings of the load audit, one per kind of place."""
    shared = _shared(sides, forward)
    inside = tuple(f"{template(each.finding.reference_module)}." for each in shared)
    found = [
        *_moved(sides, forward),
        *_misplaced(sides),
        *_mixed(sides, forward),
        *_untouched(sides, forward),
        *_not_held(sides, forward),
    ]
    others = [each for each in found if not template(f"{each.finding.reference_module}.").startswith(inside or ("?",))]
    return (*shared, *_grouped(others))


def _shared(sides: Sides, forward: Forward) -> list[Located]:
    """Layers that are one module in the port, and several in the reference."""
    partners = {pair.port: pair.reference for pair in forward.pairs}
    groups: dict[tuple[int, str], list[str]] = {}
    for name, module in sides.port.model.named_modules(remove_duplicate=False):
        groups.setdefault((id(module), template(name)), []).append(name)
    found: list[Located] = []
    for (_, kind), names in groups.items():
        layers = [name for name in sides.reference.modules if template(name) == template(partners.get(names[0], ""))]
        within = any(kind.startswith(f"{template(each.finding.port_module)}.") for each in found)
        if len(names) < 2 or len(layers) < len(names) or within or not sides.port.holds_weights(names[0]):
            continue
        title = f"{fold(names)[0]} are one module; what was loaded last is in all of them"
        evidence = tuple(f"also {name}" for name in layers[1:])
        finding = Finding("weights", "layer-wiring", title, layers[0], names[0], evidence=evidence)
        found.append(Located(finding, built=names[0].rpartition(".")[0]))
    return found


def _moved(sides: Sides, forward: Forward) -> Iterator[Located]:
    partners = {pair.port: pair.reference for pair in forward.pairs}
    for layer, (number, right) in sides.loading.moved.items():
        ours = next(partners[name] for name in (layer, *partners) if name == layer or name.startswith(f"{layer}."))
        title = f"{layer} runs in the place of layer {right} and holds the tensors of layer {number}"
        inside = [name for name in sides.loading.held if name.startswith(f"{layer}.")]
        yield Located(Finding("weights", "weights-misplaced", title, ours, layer), names=tuple(inside[:1]))


def _misplaced(sides: Sides) -> Iterator[Located]:
    """Tensors in each other's place; where the names say that they belong there, the code that uses them is wrong."""
    loading, reference = sides.loading, sides.reference
    for parameter, (held, expected) in loading.misplaced.items():
        if any(outer in loading.moved for outer in parents(parameter)):
            continue
        title = f"{parameter} holds {held}; what is around it calls for {expected}"
        crosswise = (expected, held) in loading.misplaced.values()
        gated = crosswise and _is_gate_and_up(held, expected)
        module = _serves(reference, expected)
        finding = Finding(
            "weights",
            "gate-up-order" if gated else "weights-misplaced",
            title,
            _module(module) if gated else module,
            _module(parameter),
        )
        if _likeness(parameter, held) > _likeness(parameter, expected):
            yield Located(finding, called=_module(parameter))
        else:
            yield Located(finding, names=(parameter, held))


def _mixed(sides: Sides, forward: Forward) -> Iterator[Located]:
    """A module whose tensors come from two modules of the reference's of one class, in a port that goes wrong."""
    reference = sides.reference
    if not forward.total.get(LOGITS, float("inf")) > PROMOTED_NOISE:
        return
    groups: dict[tuple[str, ...], list[str]] = {}
    for module in dict.fromkeys(_module(name) for name in sides.loading.held):
        own = [tensors for name, tensors in sides.loading.held.items() if _module(name) == module]
        places = sorted({_module(tensors[0]) for tensors in own})
        kinds = {type(reference.modules.get(name)) for name in places}
        mixed = len(own) == len(places) == 2 and all(len(tensors) == 1 for tensors in own)
        if mixed and len(kinds) == 1 and len({_module(name) for name in places}) == 1:
            groups.setdefault(tuple(places), []).append(module)
    for owners, modules in groups.items():
        if len(modules) == len(owners):
            pairs = zip(_in_turn(sides.port, modules), _in_turn(reference, owners), strict=True)
            yield from (_strangers(sides, module, right) for module, right in pairs)


def _in_turn(side: Side, modules: Iterable[str]) -> list[str]:
    """Modules in the order in which they run."""
    began = {name: calls[0].began for name, calls in side.trace.calls.items() if calls}
    return sorted(modules, key=lambda name: began.get(name, len(began)))


def _strangers(sides: Sides, module: str, right: str) -> Located:
    held = {name: tensors[0] for name, tensors in sides.loading.held.items() if _module(name) == module}
    name, tensor = next((name, tensor) for name, tensor in held.items() if _module(tensor) != right)
    title = f"{name} holds {tensor}; {module} runs in the place of {right}"
    return Located(Finding("weights", "weights-misplaced", title, right, module), names=(name, tensor))


def _is_gate_and_up(first: str, second: str) -> bool:
    """The two projections of a gated MLP, of one layer."""
    last = {_module(name).rpartition(".")[2].partition("_")[0] for name in (first, second)}
    return last == {"gate", "up"} and _module(_module(first)) == _module(_module(second))


def _likeness(first: str, second: str) -> float:
    return SequenceMatcher(None, template(first), template(second)).ratio()


def _untouched(sides: Sides, forward: Forward) -> Iterator[Located]:
    loading, reference = sides.loading, sides.reference
    partners = {pair.port: pair.reference for pair in forward.pairs}
    same_function = forward.total.get(LOGITS, float("inf")) <= PROMOTED_NOISE
    for parameter in loading.untouched:
        module = partners.get(_module(parameter), "")
        fitting = set(loading.waiting[parameter]) - (set(loading.dropped) if same_function else set())
        if not fitting and not shares_a_tensor(reference, module):
            continue  # nothing is missing that it could have held: a constant of the port's own
        module = module or next((_serves(reference, tensor) for tensor in loading.waiting[parameter]), "")
        head = shares_a_tensor(reference, module) or _is_head(reference, module)
        cause = "tied-head" if head else "weights-silently-missing"
        title = f"{parameter} was never loaded, it is as Model(config) left it"
        finding = Finding("weights", cause, title, module, _module(parameter))
        yield Located(finding, names=(*loading.waiting[parameter], parameter))


def _not_held(sides: Sides, forward: Forward) -> Iterator[Located]:
    loading, reference = sides.loading, sides.reference
    partners = {pair.port: pair.reference for pair in forward.pairs}
    counterparts = {theirs: ours for ours, theirs in partners.items()}
    misplaced = {expected for _, expected in loading.misplaced.values()}
    waiting = {
        tensor
        for parameter in loading.untouched
        for tensor in (*_tensors_of(reference, partners.get(_module(parameter), "")), *loading.waiting[parameter])
    }
    for tensor in loading.unused:
        if tensor not in misplaced and tensor not in waiting:
            module = _serves(reference, tensor)
            cause = "bias-dropped" if tensor.endswith(".bias") else "weights-silently-missing"
            if _is_head(reference, module):
                cause = "tied-head"
            title = f"{tensor} is in the checkpoint and nowhere in the port"
            port = counterparts.get(module, "")
            finding = Finding("weights", cause, title, module, port)
            yield Located(finding, names=(tensor, f"{port}.{tensor.rpartition('.')[2]}"))
    for tensor in loading.partly:
        module = _serves(reference, tensor)
        title = f"only a part of {tensor} is in the port"
        finding = Finding("weights", "weights-silently-missing", title, module, counterparts.get(module, ""))
        yield Located(finding, names=(tensor,))


def _is_head(reference: Side, module: str) -> bool:
    """Whether a module makes the logits."""
    calls = reference.trace.calls.get(module, ())
    return bool(calls) and any(identical(value, reference.trace.logits) for value in calls[-1].outputs)


def shares_a_tensor(reference: Side, module: str) -> bool:
    """Whether a module uses a tensor that another one uses too, as a tied head does."""
    own = _tensors_of(reference, module)
    return any(own & _tensors_of(reference, name) for name in reference.owned if name != module)


def _tensors_of(side: Side, module: str) -> set[str]:
    return {holding.tensor for found in side.owned.get(module, {}).values() for holding in found}


def _serves(reference: Side, tensor: str) -> str:
    """The reference module that uses a checkpoint tensor."""
    return next((name for name in reference.owned if tensor in _tensors_of(reference, name)), tensor.rpartition(".")[0])


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def forward(sides: Sides, measured: Forward, settled: Sequence[Finding]) -> tuple[Located, ...]:
    """Findings of the forward stage, in the order data flows; those that `settled` already explains are left out."""
    special = _special(sides, measured)
    never = {_serves(sides.reference, tensor) for found in sides.loading.waiting.values() for tensor in found}
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
            Located(_merged([finding for finding, _ in group]), tuple(endpoint for _, endpoint in group))
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
            if other.kind == endpoint.kind == "input" and _module(other.module) == _module(endpoint.module)
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
    place = around(reference, endpoint)
    return place, partners.get(place) or _module(ports[0]) or ports[0]


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
    around = endpoint.module if endpoint.kind == "output" else _module(endpoint.module)
    until = call.ended if endpoint.kind == "output" else call.began
    done = [
        reference.trace.calls[end.module][end.number]
        for end, error in measured.isolated.errors.items()
        if end.kind == "output" and end != LOGITS and error <= PROMOTED_NOISE and _module(end.module) == around
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
        if module == endpoint.module or _module(module) != _module(endpoint.module) or not calls[0].inputs:
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


def _grouped(found: Iterable[Located]) -> tuple[Located, ...]:
    """The same finding in several layers is one, named by the first."""
    groups: dict[tuple[str, ...], list[Located]] = {}
    for each in found:
        finding = each.finding
        place = (template(finding.reference_module), template(finding.port_module), _plain(finding.title))
        groups.setdefault((finding.cause, *place), []).append(each)
    return tuple(replace(group[0], finding=_merged([each.finding for each in group])) for group in groups.values())


def _plain(title: str) -> str:
    """A title without the numbers in its names, so that layers can be told from kinds."""
    return " ".join(template(word.rstrip(",;")) for word in title.split())


def _merged(group: Sequence[Finding]) -> Finding:
    first = group[0]
    others = [finding.reference_module or finding.port_module for finding in group[1:]]
    shown = tuple(f"also {name}" for name in others)
    return replace(first, evidence=(*first.evidence, *shown))
