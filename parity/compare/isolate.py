"""Own error, not inherited error: the port run with the reference's values handed on at every boundary.

What the port would have passed is recorded first, so each stretch between two boundaries is judged alone.

Two modules that hold the same tensors need not end at the same place: one author scales embeddings inside the module,
another after it. Such a boundary shows by its signature: handing on the reference's value there makes the next
boundary wrong, and leaving the port's own value makes it right. It is then no place to compare, and the next boundary
vouches for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from parity.compare.capture import LOGITS, Endpoint, Observer, Substitute, Trace, run
from parity.compare.measure import find_order, relative_error
from parity.compare.sides import Side
from parity.compare.wires import Connection, Wire, by_endpoint, connect
from parity.names import template
from parity.records import PROMOTED_NOISE

Errors = Mapping[Endpoint, float]
_REORDERINGS = 4  # rounds: a module that is given another order gives another order
_GROWTH = 4  # boundaries in a row that may be elsewhere: a norm folded into the next weights moves what comes after it


@dataclass(frozen=True)
class Isolation:
    """Own errors by reference endpoint, and the endpoints at which the two sides do not end at the same place.

    wires are those given, reorderings found on the way included.
    """

    wires: tuple[Wire, ...]
    errors: Errors
    elsewhere: frozenset[Endpoint]
    trace: Trace


def errors(wires: Sequence[Wire], port: Trace, reference: Trace) -> dict[Endpoint, float]:
    """The relative error at every wired reference endpoint and of the logits; the worst where several wires meet."""
    found: dict[Endpoint, float] = {}
    for endpoint, meeting in by_endpoint(wires, "reference").items():
        pairs = [wire.compared(port, reference) for wire in meeting]
        values = [relative_error(*pair) for pair in pairs if pair is not None]
        if values and len(values) == len(pairs):
            found[endpoint] = max(values, key=lambda value: float("inf") if value != value else value)  # noqa: PLR0124
    found[LOGITS] = logits_error(port.logits, reference.logits)
    return found


def logits_error(port: Tensor, reference: Tensor) -> float:
    """Relative error of the returned logits `[B, T, V]`; a port may return the last position alone.

    Logits that differ by one constant per token mean the same distribution, and count as equal.
    """
    expected = fitted(reference, port)
    if expected is None:
        return float("inf")
    error = relative_error(port, expected)
    if error > PROMOTED_NOISE:
        centred = relative_error(port - port.mean(-1, keepdim=True), expected - expected.mean(-1, keepdim=True))
        error = min(error, centred)
    return error


def fitted(reference: Tensor, port: Tensor) -> Tensor | None:
    """The reference's logits in the port's shape: all positions or the last alone; None if they do not fit."""
    if port.shape == reference.shape:
        return reference
    batch, _, vocabulary = reference.shape
    last = list(port.shape) in ([batch, 1, vocabulary], [batch, vocabulary])
    return reference[:, -1:].reshape(port.shape) if last else None


def isolate(wires: Sequence[Wire], reference: Trace, port: Side, forward: Callable[[], Tensor]) -> Isolation:
    """Run the port in isolation; find and set apart the boundaries that are elsewhere."""

    def attempt(left: frozenset[Endpoint]) -> tuple[dict[Endpoint, float], Trace]:
        handing = [wire for wire in wires if wire.reference not in left]
        trace = run(port.model, forward, _substitutes(handing, reference))
        return errors(wires, trace, reference), trace

    elsewhere: frozenset[Endpoint] = frozenset()
    found, trace = attempt(elsewhere)
    for _ in range(_REORDERINGS):
        reordered = [_reordered(wire, found, trace, reference) for wire in wires]
        if all(new is old for new, old in zip(reordered, wires, strict=True)):
            break
        wires = reordered
        found, trace = attempt(elsewhere)
    wires = _ordered_like_inputs(wires, found)
    for _ in range(_REORDERINGS):  # what is not handed on goes wrong further on in the same rows
        unknown = frozenset(wire.reference for wire in wires if _of_unknown_rows(wire, found, trace, reference))
        if unknown <= elsewhere:
            break
        elsewhere |= unknown
        found, trace = attempt(elsewhere)
    for candidates in _candidates(_failing(found)):
        failing = _failing(found)
        group = candidates & failing
        for _ in range(_GROWTH if group else 0):
            trial, trial_trace = attempt(elsewhere | group)
            left = _failing(trial) - group
            if left < failing - group:
                elsewhere, found, trace = elsewhere | group, trial, trial_trace
                break
            spread = left - failing
            if not spread or LOGITS in spread:
                break
            group |= spread
    return Isolation(
        tuple(wires), {end: error for end, error in found.items() if end not in elsewhere}, elsewhere, trace
    )


def _reordered(wire: Wire, found: Errors, trace: Trace, reference: Trace) -> Wire:
    """A wire that fails, mended if the port only keeps its heads or features in another order there."""
    if (
        found.get(wire.reference, 0.0) <= PROMOTED_NOISE
        or wire.port_features is not None
        or wire.layout.order is not None
    ):
        return wire
    values = wire.compared(trace, reference)
    if values is None or not values[0].is_floating_point():
        return wire
    order = find_order(*values)
    return wire if order is None else replace(wire, layout=replace(wire.layout, order=order))


def settle(connection: Connection, reference: Side, port: Side, forward: Callable[[], Tensor]) -> Connection:
    """Wire what was doubtful by a run in isolation, where values are right up to the modules in question."""
    if not connection.doubtful:
        return connection
    nearer = run(port.model, forward, _substitutes(connection.wires, reference.trace))
    more = connect(reference, replace(port, trace=nearer), connection.doubtful, doubting=False)
    return Connection((*connection.wires, *more.wires), {**connection.reasons, **more.reasons})


def rerun(
    isolated: Isolation,
    reference: Trace,
    model: nn.Module,
    forward: Callable[[], Tensor],
    observer: Observer | None = None,
) -> Trace:
    """Run the port once more in isolation, with the boundaries that were settled, for somebody who watches."""
    handing = [wire for wire in isolated.wires if wire.reference not in isolated.elsewhere]
    return run(model, forward, _substitutes(handing, reference), observer)


def vouched_for(isolated: Isolation, total: Errors) -> Isolation:
    """What the logits vouch for: if the free run returns the reference's, the port computes the same function.

    Boundaries that differ all the same are then elsewhere, wherever the port makes up for them.
    """
    if not total.get(LOGITS, float("inf")) <= PROMOTED_NOISE:
        return isolated
    differing = _failing(isolated.errors) | _failing(total)
    kept = {end: error for end, error in isolated.errors.items() if end not in differing}
    kept[LOGITS] = total[LOGITS]
    return replace(isolated, errors=kept, elsewhere=isolated.elsewhere | differing - {LOGITS})


def failing(isolated: Isolation) -> frozenset[Endpoint]:
    """Boundaries with an error of their own."""
    return _failing(isolated.errors)


def _failing(found: Errors) -> frozenset[Endpoint]:
    return frozenset(end for end, error in found.items() if not error <= PROMOTED_NOISE)


def _ordered_like_inputs(wires: Sequence[Wire], found: Errors) -> Sequence[Wire]:
    """What a call gives is in the order of what it is given, where its own values are too wrong to tell."""
    given = {
        (wire.reference.module, wire.reference.number, wire.port.module, wire.port.number): wire.layout.order
        for wire in wires
        if wire.reference.kind == "input" and wire.layout.order is not None and wire.layout.order.axis == 0
    }

    def ordered(wire: Wire) -> Wire:
        order = given.get((wire.reference.module, wire.reference.number, wire.port.module, wire.port.number))
        wrong = not found.get(wire.reference, 0.0) <= PROMOTED_NOISE
        if order is None or not wrong or wire.reference.kind == "input" or wire.layout.order is not None:
            return wire
        return replace(wire, layout=replace(wire.layout, order=order))

    return [ordered(wire) for wire in wires]


def _of_unknown_rows(wire: Wire, found: Errors, trace: Trace, reference: Trace) -> bool:
    """Whether a wire is of some tokens alone, as an expert's, which the two sides may have in different orders.

    Where its values are wrong, nothing tells which is which: handed on, they would be given to other tokens.
    """
    if found.get(wire.reference, 0.0) <= PROMOTED_NOISE or wire.layout.order is not None:
        return False
    values = wire.compared(trace, reference)
    tokens = reference.logits.shape[0] * reference.logits.shape[1]
    return values is not None and values[1].ndim == 2 and values[1].shape[0] not in (1, *reference.logits.shape, tokens)


def _candidates(failing: frozenset[Endpoint]) -> list[frozenset[Endpoint]]:
    """The same place in all layers together: such places are never next to each other."""
    grouped: dict[tuple[str, str], set[Endpoint]] = {}
    for end in failing - {LOGITS}:
        grouped.setdefault((template(end.module), end.kind), set()).add(end)
    return [frozenset(group) for _, group in sorted(grouped.items())]


def _substitutes(wires: Sequence[Wire], reference: Trace) -> dict[Endpoint, Substitute]:
    def substitute(meeting: Sequence[Wire]) -> Substitute:
        def hand_on(own: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values = list(own)
            with torch._C.DisableTorchFunction():  # no operation of the port's
                for wire in meeting:
                    given = reference.at(wire.reference)
                    if given is not None and wire.port_part < len(values):
                        values[wire.port_part] = wire.handed_on(values[wire.port_part], given[wire.reference_part])
                return tuple(value.clone() for value in values)

        return hand_on

    return {endpoint: substitute(meeting) for endpoint, meeting in by_endpoint(wires, "port").items()}


def first_not_finite(trace: Trace) -> Endpoint | None:
    """Where in a run a NaN first went into or came out of a module; else an infinity, if any reached the logits.

    Scores masked with minus infinity are no fault.
    """
    found = _first(trace, torch.isnan)
    if found is None and not bool(torch.isfinite(trace.logits).all()):
        found = _first(trace, torch.isinf)
    return found


def _first(trace: Trace, is_bad: Callable[[Tensor], Tensor]) -> Endpoint | None:
    for endpoint in trace.endpoints():
        if any(bool(is_bad(tensor).any()) for tensor in (trace.at(endpoint) or ())[:1]):
            return endpoint
    return LOGITS if bool(is_bad(trace.logits).any()) else None
