"""Values put together piece by piece: `out[..., :n] = a`, then `out[..., n:] = b`.

No reference has them half done. So the pieces are taken together: what stands there when all are in was made from all
of them, and on the way there is nothing that could be right or wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from parity.explain.match import is_layout
from parity.explain.play import uses
from parity.explain.trace import Ref, Step, Tape

_FILLING = ("__setitem__", "copy_", "index_copy_", "index_put_", "scatter_", "written")


def together(tape: Tape) -> Tape:
    """The tape with what stands half done as leaves, each whole made from all its pieces; it can't be played again."""
    users = uses(tape)
    marked = {ref for refs in tape.marks.values() for ref in refs}
    steps = list(tape.steps)
    for step in tape.steps:
        before = _filled_before(step, tape.steps)
        if before is None or Ref(before.number) in marked or not _half_done(before, step, tape.steps, users):
            continue
        pieces = [ref for ref in steps[before.number].inputs if ref not in steps[step.number].inputs]
        steps[before.number] = replace(before, name="leaf", function=None, arguments=(), keywords={}, spec=None)
        steps[step.number] = replace(steps[step.number], arguments=(*steps[step.number].arguments, *pieces))
    return replace(tape, steps=tuple(steps))


def _filled_before(step: Step, steps: Sequence[Step]) -> Step | None:
    """The step that left, not all filled, what this one goes on filling."""
    if step.name not in _FILLING or not step.arguments or not isinstance(step.arguments[0], Ref):
        return None
    before = steps[step.arguments[0].step]
    return before if before.name in _FILLING and before.values[0].shape == step.values[0].shape else None


def _half_done(before: Step, after: Step, steps: Sequence[Step], users: Mapping[Ref, Sequence[int]]) -> bool:
    """Whether nobody reads a value until more is filled in: it is only looked at from places that are written into."""
    for number in users.get(Ref(before.number), ()):
        user = steps[number]
        if number == after.number:
            continue
        writers = [steps[other] for ref in user.refs for other in users.get(ref, ())]
        if not is_layout(user.name) or not all(
            writer.name in _FILLING and writer.arguments[0] in user.refs for writer in writers
        ):
            return False
    return True
