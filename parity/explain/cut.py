"""Heads of another size: features that the port cuts into others than the reference does.

No change to one operation of the reference gives what such a port gives, since everything behind it has another shape.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from parity.compare.capture import Endpoint
from parity.explain.match import same
from parity.explain.play import backward
from parity.explain.room import Room
from parity.explain.trace import Ref, Step, Tape

_CUTTING = ("view", "reshape", "unflatten")


@dataclass(frozen=True)
class Cut:
    """One value cut into heads. step: of the port. size: features of a head. expected: those in the reference.

    site: the reference's own step.
    """

    step: Step
    size: int
    expected: int
    site: Step

    @property
    def text(self) -> str:
        """In words."""
        *_, heads, _ = self.step.values[0].shape
        *_, others, _ = self.site.values[0].shape
        return (
            f"{heads} heads of {self.size} features are cut out where the reference has {others} of {self.expected}: "
            "the size of a head is read from the wrong place"
        )


def wrongly_cut(room: Room, endpoint: Endpoint) -> Cut | None:
    """The first value on the way to a wrong one that is cut into heads of another size; None if all are alike."""
    reference, port = room.tapes.reference, room.tapes.port
    expected = list(_cuts(reference, room.targets(endpoint), room))
    found: list[tuple[Cut, bool]] = []
    for given, step in sorted(_cuts(port, room.port_refs(endpoint), room), key=lambda each: each[1].number):
        value, (heads, size) = port.value(given), step.values[0].shape[-2:]
        alike = [site for other, site in expected if same(reference.value(other), value)]
        shapes = [tuple(site.values[0].shape[-2:]) for site in alike]
        if alike and size not in [expected for _, expected in shapes]:
            found.append((Cut(step, size, shapes[0][1], alike[0]), (size, heads) in shapes))
    sure = {cut.size for cut, turned in found if not turned}  # another order has the same two sizes
    return next((cut for cut, _ in found if cut.size in sure), None)


def _cuts(tape: Tape, ends: list[Ref], room: Room) -> Iterator[tuple[Ref, Step]]:
    """The values that some others are made from and that have their last axis cut in two, and the steps that do it."""
    own = room.pins.hold if tape is room.tapes.reference else lambda ref, step: False
    for number in {ref.step for ref in backward(tape, ends, own)}:
        step = tape.steps[number]
        if step.name not in _CUTTING or not step.inputs or step.function is None:
            continue
        given, result = tape.value(step.inputs[0]), step.values[0]
        whole = result.ndim == given.ndim + 1 and given.ndim > 1
        if whole and result.shape[:-2] == given.shape[:-1] and math.prod(result.shape[-2:]) == given.shape[-1]:
            yield step.inputs[0], step
