"""Boundaries of a run at full size: their names, their order, and what was measured at each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.compare import isolate as isolation
from parity.compare.boundaries import ELSEWHERE
from parity.compare.capture import LOGITS, Endpoint, Trace
from parity.compare.tally import Tally, tallies, tally
from parity.compare.wires import Wire, by_endpoint


@dataclass(frozen=True)
class Place:
    """What was measured at one boundary; own and total are None where the port ends at another point.

    own: relative error with the reference's values handed on everywhere else; total: of the port's own run. largest,
    mean: absolute differences of that run.
    """

    name: str
    reference: Endpoint
    port: str
    own: float | None
    total: float | None
    largest: float | None = None
    mean: float | None = None
    note: str = ""


def places_of(
    wires: Sequence[Wire],
    elsewhere: frozenset[Endpoint],
    ours: Trace,
    free: Mapping[Endpoint, Tally],
    own: Mapping[Endpoint, Tally],
) -> tuple[Place, ...]:
    """Boundaries in the order in which the reference passes them.

    Args:
        wires: between the two sides.
        elsewhere: boundaries at which the port ends at another point.
        ours: the reference's run.
        free: of the port's own run; own: with the reference's values handed on.
    """
    ports = {end: meeting[0].port.module for end, meeting in by_endpoint(wires, "reference").items()}
    places = []
    for end in sorted(free, key=lambda end: _when(ours, end)):
        name, port = _name(ours, end), ports.get(end, "")
        if end in elsewhere:
            places.append(Place(name, end, port, None, None, note=ELSEWHERE))
        else:
            alone = own[end].relative if end in own else None
            places.append(Place(name, end, port, alone, free[end].relative, free[end].largest, free[end].mean))
    return tuple(places)


def ended(wires: Sequence[Wire], theirs: Trace, ours: Trace) -> dict[Endpoint, Tally]:
    """The boundaries after the blocks, and the logits."""
    expected = isolation.fitted(ours.logits, theirs.logits)
    misfit = Tally(float("inf"), 1.0, centred=(float("inf"), 1.0))
    logits = misfit if expected is None else tally(theirs.logits, expected, logits=True)
    return {**tallies(wires, theirs, ours), LOGITS: logits}


def _when(trace: Trace, end: Endpoint) -> float:
    """When a run passed an endpoint; what follows a run of a part of the model comes last."""
    return trace.event(end) if end.module in trace.calls else float("inf")


def _name(trace: Trace, end: Endpoint) -> str:
    """The module's name, told apart by label or number where it is called more than once."""
    if end == LOGITS:
        return "logits"
    calls = trace.calls.get(end.module, ())
    labels = [call.label for call in calls]
    name = end.module
    if len(calls) > 1:
        name += f"[{labels[end.number] if all(labels) and len(set(labels)) == len(labels) else end.number}]"
    return f"{name} (input)" if end.kind == "input" else name
