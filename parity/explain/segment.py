"""Inside a stretch that goes wrong: the first value of the reference that the port never computes.

Between two boundaries that were compared, the reference may call modules that the port has not, or has as plain
functions. Whether the port computes their values all the same is known (`Forward.witnessed`).
"""

from torch import Tensor

from parity.compare.capture import LOGITS, Endpoint
from parity.compare.measure import identical
from parity.compare.sides import Side, parents
from parity.compare.stages import Forward
from parity.records import PROMOTED_NOISE


def first_unwitnessed(reference: Side, measured: Forward, endpoint: Endpoint) -> Endpoint | None:
    """The first endpoint in the stretch before `endpoint` whose value the port lacks, and whose lack nothing excuses.

    None if every module in the stretch was compared. A value that is missing is excused if a later one that was made
    from new values is there: the port then computes the same thing in another way.
    """
    stretch = _stretch(reference, measured, endpoint)
    fresh = _fresh_inputs(reference, stretch)
    # What the port lacks at the boundary was handed on to it there, so that it is seen after that is no witness.
    witnessed = {end for end in stretch if end in measured.witnessed and not _same_value(reference, end, endpoint)}
    for place, end in enumerate(stretch):
        if end not in witnessed and not any(later in witnessed and later in fresh for later in stretch[place + 1 :]):
            return end
    return None


def _same_value(reference: Side, first: Endpoint, second: Endpoint) -> bool:
    ours, theirs = reference.trace.at(first), reference.trace.at(second)
    return bool(ours and theirs and identical(ours[0], theirs[0]))


def _stretch(reference: Side, measured: Forward, endpoint: Endpoint) -> list[Endpoint]:
    """Endpoints without a wire that lead to `endpoint`, in the order the reference passes them.

    They lie in the same module, and in none inside it whose result was compared and right. Tables, such as cosines and
    sines, are left out: ports keep them in forms too different to be recognised.
    """
    place = endpoint.module if endpoint.kind == "output" else _enclosing(reference, endpoint)[1]
    until = reference.trace.event(endpoint)
    since = min((call.began for call in reference.trace.calls.get(place, ())), default=0)
    errors = measured.isolated.errors
    settled = {
        end.module
        for end, error in errors.items()
        if end.kind == "output"
        and end != LOGITS
        and error <= PROMOTED_NOISE
        and (not place or end.module.startswith(f"{place}."))
    }
    wired = {wire.reference for wire in measured.wires}
    return [
        end
        for end in reference.trace.endpoints()
        if since < reference.trace.event(end) < until
        and end not in wired
        and not settled & set(parents(end.module))
        and _is_value(reference, end.module)
        and _floats(reference, end)
    ]


def _floats(reference: Side, endpoint: Endpoint) -> bool:
    value = reference.trace.at(endpoint)
    return bool(value) and value is not None and value[0].is_floating_point()


def around(reference: Side, endpoint: Endpoint) -> str:
    """The called module in which the value of an input was made, or the outermost that takes it."""
    entered, outer = _enclosing(reference, endpoint)
    return outer or entered


def _enclosing(reference: Side, endpoint: Endpoint) -> tuple[str, str]:
    """The outermost module that takes an input unchanged, and the called one around that, else the root ("")."""
    value = reference.trace.at(endpoint)
    entered = endpoint.module
    for outer in parents(endpoint.module):
        calls = reference.trace.calls.get(outer, ())
        if calls:
            if not (value and calls[0].inputs and identical(calls[0].inputs[0], value[0])):
                break
            entered = outer
    return entered, next((name for name in parents(entered) if name and reference.calls(name)), "")


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
        new = not any(identical(other, value) for other in values)
        if new and (end.kind == "input" or not reference.is_leaf(end.module)):
            fresh.add(end)
        values.append(value)
    return fresh
