"""A recorded run played again with changes, and which of its values were made from which."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from parity.explain.trace import Ref, Step, Tape, each_value, written_into

Edit = Callable[["Playing", Step], Sequence[Tensor]]


@dataclass(frozen=True)
class Pins:
    """Values handed on as recorded, whatever was made there: to every later step, or to those inside some calls."""

    everywhere: frozenset[Ref] = frozenset()
    inside: Mapping[Ref, frozenset[tuple[str, int]]] = field(default_factory=dict)

    def hold(self, ref: Ref, step: Step) -> bool:
        """Whether a step is given the recorded value."""
        return ref in self.everywhere or not self.inside.get(ref, frozenset()).isdisjoint(step.modules)


class Playing:
    """A tape played again: values that changed, by reference to the recorded ones."""

    def __init__(self, tape: Tape, pins: Pins):
        self.tape = tape
        self.pins = pins
        self.changed: dict[Ref, Tensor] = {}

    def value(self, ref: Ref, step: Step) -> Tensor:
        """A value as a step is given it."""
        if ref not in self.changed or self.pins.hold(ref, step):
            return self.tape.value(ref)
        return self.changed[ref]

    def own(self, ref: Ref) -> Tensor:
        """A value as the changed run made it."""
        return self.changed.get(ref, self.tape.value(ref))

    def given(self, step: Step) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a step is called with."""

        def filled(value: Any) -> Any:
            return self.value(value, step) if isinstance(value, Ref) else value

        return tuple(each_value(filled, value) for value in step.arguments), {
            name: each_value(filled, value) for name, value in step.keywords.items()
        }

    def compute(self, step: Step, *arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        """Call a step's function."""
        assert step.function is not None
        if written_into(step.name, arguments, keywords) is not None:
            arguments = (arguments[0].clone(), *arguments[1:])
            result = step.function(*arguments, **keywords)
            result = arguments[0]
        else:
            result = step.function(*arguments, **keywords)
        if isinstance(result, Tensor):
            return (result.detach(),)
        leaves, _ = tree_flatten(result)
        return tuple(leaf.detach() for leaf in leaves if isinstance(leaf, Tensor))

    def settle(self, step: Step, values: Sequence[Tensor]) -> None:
        """Take what a step gives now, where it differs."""
        for ref, value, recorded in zip(step.refs, values, step.values, strict=True):
            if value.shape != recorded.shape or not torch.equal(value, recorded):
                self.changed[ref] = value
            else:
                self.changed.pop(ref, None)


def play(
    tape: Tape,
    edits: Mapping[int, Edit],
    users: Mapping[Ref, Sequence[int]],
    pins: Pins = Pins(),
    until: int | None = None,
    most: int | None = None,
) -> Playing:
    """Play a tape with some steps changed. Call it with float64 as the default dtype.

    Args:
        tape: what was recorded.
        edits: step number -> what it gives instead.
        users: the steps that take a value, `uses(tape)`.
        pins: values that are handed on as recorded, whatever was made there.
        until: the last step that matters.
        most: so many steps that come out otherwise are enough.

    Raises:
        Exception: whatever torch raises on an edit that does not fit.
    """
    playing = Playing(tape, pins)
    waiting = sorted(edits)
    queued = set(waiting)
    computed = 0
    while waiting:
        number = heapq.heappop(waiting)
        if (until is not None and number > until) or (most is not None and computed >= most):
            break
        step = tape.steps[number]
        before = {ref for ref in step.refs if ref in playing.changed}
        computed += 1
        if number in edits:
            values = edits[number](playing, step)
        elif step.function is None:
            values = _written(playing, step)
        else:
            arguments, keywords = playing.given(step)
            values = _rounds(step, playing.compute(step, *arguments, **keywords))
        playing.settle(step, values)
        for ref in step.refs:
            if ref in playing.changed or ref in before:
                for user in users.get(ref, ()):
                    if user not in queued and not pins.hold(ref, tape.steps[user]):
                        queued.add(user)
                        heapq.heappush(waiting, user)
    return playing


def _rounds(step: Step, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rounds of a loop over numbers that were looked for, such as those of the experts that have tokens.

    As many are played as were recorded: where fewer are found now, an expert without tokens has its round, and adds
    nothing.
    """
    if len(values) >= len(step.values) or any(value.is_floating_point() for value in step.values):
        return values
    recorded = {tuple(value.reshape(-1).tolist()) for value in step.values}
    return step.values if {tuple(value.reshape(-1).tolist()) for value in values} < recorded else values


def _written(playing: Playing, step: Step) -> tuple[Tensor, ...]:
    """Something that was written into, as a whole or in a part: it follows what was written if that still fits."""
    if not step.arguments:
        return step.values
    return (overwritten(step, playing.value(step.arguments[0], step), playing.value(step.arguments[-1], step)),)


def overwritten(step: Step, before: Tensor, latest: Tensor) -> Tensor:
    """What a step named `written` gives, from what was there before and from what was written last."""
    recorded, span = step.values[0], step.keywords.get("span")
    if latest.shape == recorded.shape:
        return latest
    if span is None or tuple(latest.shape) != span[0] or before.shape != recorded.shape:
        return recorded
    result = before.clone(memory_format=torch.contiguous_format)
    result.as_strided(*span).copy_(latest)
    return result


def uses(tape: Tape) -> dict[Ref, list[int]]:
    """The steps that take each value."""
    found: dict[Ref, list[int]] = {}
    for step in tape.steps:
        for ref in step.inputs:
            found.setdefault(ref, []).append(step.number)
    return found


def backward(tape: Tape, start: Iterable[Ref], stop: Callable[[Ref, Step], bool]) -> Iterator[Ref]:
    """The values that `start` was made from, itself included, latest first.

    Not behind those where `stop` holds, which is asked of a value and of the step that takes it.
    """
    waiting = set(start)
    seen = set(waiting)
    while waiting:
        ref = max(waiting)
        waiting.discard(ref)
        yield ref
        step = tape.steps[ref.step]
        for other in step.inputs:
            if other not in seen and not stop(other, step):
                seen.add(other)
                waiting.add(other)
