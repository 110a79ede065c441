"""Boundaries and what has no counterpart, as records."""

from parity.compare.capture import LOGITS, Endpoint
from parity.compare.sides import Side, parents
from parity.compare.stages import Forward, Sides
from parity.compare.wires import by_endpoint
from parity.records import Boundary, Unmatched

ELSEWHERE = "the port's module ends at another point; the next boundary vouches for both"

UNSTABLE = "the port gives other results on the same input"


def boundaries(sides: Sides, measured: Forward) -> tuple[Boundary, ...]:
    """Every wired boundary in the order in which the reference passes it, the logits last."""
    reference = sides.reference
    wires = by_endpoint(measured.wires, "reference")
    ordered = sorted(wires, key=reference.trace.event)
    found = [_boundary(reference, measured, endpoint, wires[endpoint][0].port.module) for endpoint in ordered]
    for module, reason in measured.reasons.items():
        partner = next(pair.port for pair in measured.pairs if pair.reference == module)
        found.append(Boundary("forward", module, module, partner, "output", note=reason))
    return (*found, _logits(reference, measured))


def _boundary(reference: Side, measured: Forward, endpoint: Endpoint, port: str) -> Boundary:
    elsewhere = endpoint in measured.isolated.elsewhere
    plain = measured.plain.get(endpoint)
    return Boundary(
        stage="forward",
        name=name_of(reference, endpoint),
        reference_module=endpoint.module,
        port_module=port,
        kind=endpoint.kind,
        max_abs=None if plain is None or elsewhere else plain[0],
        mean_abs=None if plain is None or elsewhere else plain[1],
        own=measured.isolated.errors.get(endpoint),
        total=None if elsewhere else measured.total.get(endpoint),
        note=ELSEWHERE if elsewhere else UNSTABLE if measured.unstable else "",
    )


def name_of(reference: Side, endpoint: Endpoint) -> str:
    """The module's name, told apart by label or number where it is called more than once."""
    calls = reference.trace.calls[endpoint.module]
    name = endpoint.module
    if len(calls) > 1:
        labels = [call.label for call in calls]
        tells_apart = all(labels) and len(set(labels)) == len(labels)
        name += f"[{labels[endpoint.number] if tells_apart else endpoint.number}]"
    return f"{name} (input)" if endpoint.kind == "input" else name


def _logits(reference: Side, measured: Forward) -> Boundary:
    plain = measured.plain.get(LOGITS)
    return Boundary(
        stage="forward",
        name="logits",
        reference_module=type(reference.model).__name__,
        port_module="Model",
        kind="output",
        max_abs=None if plain is None else plain[0],
        mean_abs=None if plain is None else plain[1],
        own=measured.isolated.errors.get(LOGITS),
        total=measured.total.get(LOGITS),
        note=measured.shape,
    )


def unmatched(sides: Sides, measured: Forward) -> Unmatched:
    """Modules and tensors without a counterpart; what does nothing in eval mode is left out."""
    loading, uncalled = sides.loading, _uncalled(sides)
    return Unmatched(
        reference=_unpaired(sides.reference, {pair.reference for pair in measured.pairs} | uncalled.keys()),
        port=_unpaired(sides.port, {pair.port for pair in measured.pairs} | set(uncalled.values())),
        tensors=tuple(sorted({*loading.unused, *loading.partly, *loading.dropped})),
    )


def _uncalled(sides: Sides) -> dict[str, str]:
    """Modules of the reference that are never called, their tensors used by others, and the port's that hold the same.

    They correspond, and have no values to compare.
    """
    reference, port = sides.reference, sides.port
    theirs = {frozenset(port.tensors_of(module)): module for module in port.owned if module and port.is_leaf(module)}
    held = {module: frozenset(reference.tensors_of(module)) for module in reference.owned}
    return {
        module: theirs[tensors]
        for module, tensors in held.items()
        if module and tensors in theirs and tensors and not reference.calls(module)
    }


def _unpaired(side: Side, paired: set[str]) -> tuple[str, ...]:
    """Modules that were called or hold tensors and are in no pair.

    A container is named only if nothing in it is paired, and then stands for all that it contains.
    """
    around_paired = {outer for name in paired for outer in parents(name)}
    alone = [
        name
        for name in side.modules
        if name not in paired
        and not side.is_identity(name)
        and (side.calls(name) or side.keeps_weights(name))
        and (name not in around_paired or side.keeps_weights(name))
    ]
    return tuple(name for name in alone if not any(outer in alone for outer in parents(name)))
