"""Inside a stretch that goes wrong: the first value of the reference that the port never computes.

Between two boundaries that were compared, the reference may call modules that the port has not, or has as plain
functions. Whether the port computes their values all the same is known (`Forward.witnessed`).
"""

import torch
from torch import Tensor

from parity.compare.capture import KINDS, Endpoint
from parity.compare.isolate import LOGITS
from parity.compare.sides import Side
from parity.compare.stages import Forward


def first_unwitnessed(reference: Side, measured: Forward, endpoint: Endpoint) -> Endpoint | None:
    """The first endpoint in the stretch before `endpoint` whose value the port lacks, and whose lack nothing excuses.

    None if every module in the stretch was compared. A value that is missing is excused if a later one that was made
    from new values is there: the port then computes the same thing in another way.
    """
    stretch = _stretch(reference, measured, endpoint)
    fresh = _fresh_inputs(reference, stretch)
    for place, end in enumerate(stretch):
        if end in measured.witnessed:
            continue
        if not any(later in measured.witnessed and later in fresh for later in stretch[place + 1 :]):
            return end
    return None


def _event(reference: Side, endpoint: Endpoint) -> float:
    if endpoint == LOGITS:
        return float("inf")
    call = reference.trace.calls[endpoint.module][endpoint.number]
    return call.began if endpoint.kind == "input" else call.ended


def _stretch(reference: Side, measured: Forward, endpoint: Endpoint) -> list[Endpoint]:
    """Endpoints without a wire between the last one compared and `endpoint`, in the order the reference passes them.

    Tables, such as cosines and sines, are left out: ports keep them in forms too different to be recognised.
    """
    until = _event(reference, endpoint)
    compared = [end for end in measured.isolated.errors if end != LOGITS]
    since = max((_event(reference, end) for end in compared if _event(reference, end) < until), default=0.0)
    wired = {wire.reference for wire in measured.wires}
    found = [
        Endpoint(call.module, call.number, kind)
        for calls in reference.trace.calls.values()
        for call in calls
        for kind in KINDS
        if call.inputs and call.inputs[0].is_floating_point() | (kind == "output") and _is_value(reference, call.module)
    ]
    inside = [end for end in found if end not in wired and since < _event(reference, end) < until]
    return sorted(inside, key=lambda end: _event(reference, end))


def _is_value(reference: Side, module: str) -> bool:
    bare = reference.is_leaf(module) and not reference.keeps_weights(module)
    return not reference.is_identity(module) and not (bare and len(reference.trace.calls[module][0].outputs) > 1)


def _fresh_inputs(reference: Side, stretch: list[Endpoint]) -> set[Endpoint]:
    """Inputs in a stretch that no endpoint before them has as its value, and outputs of modules around others."""
    fresh = set()
    values: list[Tensor] = []
    for end in stretch:
        value = (reference.trace.at(end) or (None,))[0]
        if value is None:
            continue
        new = not any(other.shape == value.shape and bool(torch.equal(other, value)) for other in values)
        if new and (end.kind == "input" or not reference.is_leaf(end.module)):
            fresh.add(end)
        values.append(value)
    return fresh
