"""Mutations of sparse attention: how an indexer weighs its heads, and whose choice of keys a layer attends to."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from parity.explain.edit_common import mutation_of
from parity.explain.match import is_layout
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step
from parity.names import numbers

_SUMMING = ("matmul", "__matmul__", "bmm", "einsum", "functional.einsum")
_MARKING = ("scatter", "scatter_", "index_fill", "index_fill_", "masked_fill", "masked_fill_")

_SQUASHING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "a softmax": lambda weights: weights.softmax(-1),
    "a sigmoid": torch.sigmoid,
}


def propose(context: Context, step: Step) -> Iterator[Mutation]:
    """Everything that goes wrong in the choice of keys and not elsewhere."""
    if step.name in _SUMMING and context.role_of(step.module) == Role.mask:
        yield from _unweighed(context, step)
    if step.name in _MARKING and numbers(step.module):
        yield from _joined(context, step)


def _unweighed(context: Context, step: Step) -> Iterator[Mutation]:
    """Heads that are weighed by one factor each, added up as they are."""
    for at, argument in enumerate(step.arguments):
        if not isinstance(argument, Ref) or 1 not in context.tape.value(argument).shape[-2:]:
            continue

        def alike(playing: Playing, step: Step, at: int = at) -> Tensor:
            return _computed(playing, step, at, torch.ones_like)

        text = "the indexer's heads were added up without their weights"
        yield mutation_of(context, step, f"operand {at} of ones", text, alike, 1.0, "attention-mask")
        yield from _squashed(context, step, at)


def _squashed(context: Context, step: Step, at: int) -> Iterator[Mutation]:
    """Weights of heads as they are projected, put through what makes shares of them."""
    raw = _projected(context, step.arguments[at])
    for name, change in _SQUASHING.items() if raw is not None else ():

        def edit(playing: Playing, step: Step, change: Callable[[Tensor], Tensor] = change) -> Tensor:
            assert raw is not None
            weights = change(playing.value(raw, step))
            return _computed(playing, step, at, lambda given: weights.reshape(given.shape))

        text = f"the weights of the indexer's heads went through {name}"
        yield mutation_of(context, step, f"operand {at} through {name}", text, edit, 1.0, "attention-mask")


def _computed(playing: Playing, step: Step, at: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """What a step gives with one of its operands changed."""
    arguments, keywords = playing.given(step)
    return playing.compute(step, *arguments[:at], change(arguments[at]), *arguments[at + 1 :], **keywords)[0]


def _projected(context: Context, ref: Ref) -> Ref | None:
    """What a projection gave before it was moved or scaled by a number; None if there was none."""
    while (made := context.producer(ref)).name != "nn.functional.linear":
        inputs = [other for other in made.inputs if context.tape.value(other).numel() > 1]
        if len(inputs) != 1 or not (is_layout(made.name) or made.name in ("mul", "div")):
            return None
        ref = inputs[0]
    return ref


def _joined(context: Context, step: Step) -> Iterator[Mutation]:
    """The keys that a layer chose, beside those that the layer before it that chooses had chosen."""
    value = step.values[0]
    if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
        return
    before = [other for other in context.tape.steps[: step.number] if _same_code(context, other, step)]
    if not before:
        return
    earlier = before[-1].refs[0]

    def both(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        own = playing.compute(step, *arguments, **keywords)[0]
        other = playing.value(earlier, step)
        result: Tensor = own | other if own.dtype == torch.bool else own.maximum(other)
        return result

    text = "keys that the layer before had chosen were seen beside the layer's own choice"
    yield mutation_of(context, step, "choice of two layers", text, both, 1.0, "layer-wiring")


def _same_code(context: Context, other: Step, step: Step) -> bool:
    """Whether the same line ran for another layer."""
    if other.name != step.name or not step.frames or numbers(other.module) == numbers(step.module) or not other.frames:
        return False
    same_line = (other.frames[0].file, other.frames[0].line) == (step.frames[0].file, step.frames[0].line)
    return same_line and other.values[0].shape == step.values[0].shape
