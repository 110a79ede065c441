"""The repair: the smallest change to one operation of the port after which it gives what the reference gives.

The catalogue says how the reference would have to change to go wrong as the port does; this is its mirror image. It
settles on which line something is wrong that the reference has no counterpart of: distances between positions, tables
in an author's own form, a factor that stands on another side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.explain.locate import Values
from parity.explain.match import same
from parity.explain.play import Playing, backward, play
from parity.explain.room import Room
from parity.explain.trace import Ref, Step
from parity.pair.promote import double

_MOST = 24  # operations that are tried
_UNARY = (
    "abs", "neg", "flip", "roll", "tanh", "sigmoid", "exp", "sqrt", "cumsum", "tril", "triu", "clamp", "remainder",
)  # fmt: skip
_COMPARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ge": torch.ge, "gt": torch.gt, "le": torch.le, "lt": torch.lt, "eq": torch.eq, "ne": torch.ne,
}  # fmt: skip
_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": torch.mul, "div": torch.div, "add": torch.add, "sub": torch.sub,
}  # fmt: skip
_COUNTED = ("pow", "__rpow__", "__rtruediv__", "__rsub__", "rsub", "truediv", *_COMPARED, *_OPERATIONS)
_ONE_WAY = ("sub", "div", "pow", "lt", "le", "gt", "ge")
Change = Callable[[Playing, Step], Tensor]


@dataclass(frozen=True)
class Repair:
    """An operation that mends the port if it is changed. number: the one it has, if another one is all it takes."""

    step: Step
    weight: float
    number: float | None = None


@torch.no_grad()
def repairs(
    room: Room,
    values: Values,
    start: Sequence[Ref],
    rights: Mapping[Ref, Tensor],
    numbers: Sequence[float],
    anywhere: bool = False,
) -> list[Repair]:
    """Operations on the way to wrong values, each of which mends some of them if changed; the likeliest first.

    Args:
        room: of this check.
        values: the port's values against those of the reference.
        start: the first wrong value; what leads up to it is tried.
        rights: values that are wrong, in the order they were made, with what the reference has there.
        numbers: that the reference uses.
        anywhere: also behind values that are right, but perhaps not here.
    """
    tape = room.tapes.port
    if not rights:
        return []
    chain = sorted(backward(tape, start, lambda ref, _: not anywhere and values.relation(ref) == "same"))[-_MOST:]
    found = []
    with double():
        for step in (tape.steps[ref.step] for ref in chain):
            if not step.frames or step.function is None:
                continue
            for change, weight, number in _changes(room, step, numbers):
                mended = _mended(room, step, change, rights)
                if mended:
                    found.append((mended, Repair(step, weight, number)))
    ranked = sorted(found, key=lambda each: (-each[0], each[1].weight, each[1].step.number))
    return [repair for _, repair in ranked]


def _mended(room: Room, step: Step, change: Change, rights: Mapping[Ref, Tensor]) -> int:
    """How many wrong values come out as the reference has them."""
    edits = {step.number: lambda playing, step: (change(playing, step),)}
    try:
        playing = play(room.tapes.port, edits, room.port_users, until=max(rights).step)
        changed = [(playing.changed[ref], right) for ref, right in rights.items() if ref in playing.changed]
        return sum(value.numel() == right.numel() and same(value, right) for value, right in changed)
    except Exception:  # a change that does not fit the shapes here
        return 0


def _changes(room: Room, step: Step, numbers: Sequence[float]) -> Iterator[tuple[Change, float, float | None]]:
    """What one operation could be instead, with how likely a slip it is, and the number that is replaced."""
    tape, refs = room.tapes.port, [argument for argument in step.arguments[:2] if isinstance(argument, Ref)]
    shape = step.values[0].shape
    if len(refs) == 2 and step.name in _ONE_WAY:
        yield _turned, 0.95, None
    if step.name in _UNARY and refs and tape.value(refs[0]).shape == shape:
        yield _operand(0), 1.0, None
    for table in (_COMPARED, _OPERATIONS):
        if step.name in table:
            yield from ((_by(function), 1.0, None) for name, function in table.items() if name != step.name)
    for at, argument in enumerate(step.arguments[:2]):
        if isinstance(argument, Ref) and step.name in _OPERATIONS and len(refs) == 2:
            if tape.value(argument).shape == shape:
                yield _operand(at), 1.0, None
        elif isinstance(argument, int | float) and not isinstance(argument, bool) and step.name in _COUNTED:
            whole = isinstance(argument, int)
            for number in numbers:
                if abs(number) != abs(argument) and (not whole or number == int(number)):
                    yield _with(at, int(number) if whole else number), 1.05, float(argument)


def _turned(playing: Playing, step: Step) -> Tensor:
    arguments, keywords = playing.given(step)
    return playing.compute(step, arguments[1], arguments[0], **keywords)[0]


def _operand(at: int) -> Change:
    def change(playing: Playing, step: Step) -> Tensor:
        value: Tensor = playing.given(step)[0][at]
        return value

    return change


def _by(function: Callable[[Tensor, Tensor], Tensor]) -> Change:
    return lambda playing, step: function(*playing.given(step)[0][:2])


def _with(at: int, number: float) -> Change:
    def change(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        return playing.compute(step, *arguments[:at], number, *arguments[at + 1 :], **keywords)[0]

    return change
