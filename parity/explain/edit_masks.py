"""Mutations of masks, and of the comparisons that make them."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from parity.explain.edit_common import mutation_of
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Playing
from parity.explain.trace import Ref, Step

COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gt": torch.ge, "ge": torch.gt, "lt": torch.le, "le": torch.lt,
}  # fmt: skip


def shifted(context: Context, step: Step) -> Iterator[Mutation]:
    """A limit one further or one nearer, or none at all."""

    def change(playing: Playing, step: Step, by: int) -> Tensor:
        arguments, _ = playing.given(step)
        return playing.compute(step, arguments[0], arguments[1] + by)[0]

    for by in (1, -1):
        text = f"the limit of a comparison lay {abs(by)} {'further' if by > 0 else 'nearer'}"
        yield mutation_of(context, step, f"limit {by:+d}", text, partial(change, by=by), 1.0)
    text = "a limit is left out: everything is let through"
    yield mutation_of(context, step, "no limit", text, lambda playing, step: torch.ones_like(step.values[0]), 1.0)


def masks(context: Context, step: Step) -> Iterator[Mutation]:
    """Hidden scores that are not hidden: set to zero, or struck out only after the softmax."""
    masks = [at for at, ref in enumerate(step.arguments[:2]) if isinstance(ref, Ref) and _is_mask(context, ref)]
    if len(masks) != 1:
        return
    at = masks[0]

    def zero(playing: Playing, step: Step) -> Tensor:
        arguments, _ = playing.given(step)
        result: Tensor = arguments[1 - at].masked_fill(arguments[at] < 0, 0.0)
        return result

    yield mutation_of(
        context, step, "hidden scores zero", "hidden scores were 0, not minus infinity", zero, 1.0, "attention-mask"
    )

    mask = step.arguments[at]
    for name, text, change in _OTHER_MASKS:

        def edit(playing: Playing, made: Step, change: Callable[[Tensor], Tensor] = change) -> tuple[Tensor, ...]:
            values = list(made.values)
            values[mask.part] = change(playing.tape.value(mask))
            return tuple(values)

        yield Mutation("attention-mask", name, f"behaves as if {text}", {mask.step: edit}, step.number)


def _both_ways(mask: Tensor) -> Tensor:
    return torch.maximum(mask, mask.transpose(-1, -2))


_OTHER_MASKS: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("mask transposed", "the mask were transposed: tokens see what comes after them", lambda m: m.transpose(-1, -2)),
    ("mask both ways", "tokens saw as far ahead as they see back", _both_ways),
    ("mask lets all through", "the mask let everything through", torch.zeros_like),
)


def _is_mask(context: Context, ref: Ref) -> bool:
    value = context.tape.value(ref)
    return value.is_floating_point() and value.ndim >= 2 and bool((value < -1e9).any())


def compare(playing: Playing, step: Step) -> Tensor:
    """The comparison that counts its own end the other way."""
    arguments, _ = playing.given(step)
    return COMPARISONS[step.name](*arguments[:2])


def softmax_over_queries(playing: Playing, step: Step) -> Tensor:
    """The softmax along the wrong axis."""
    value: Tensor = playing.given(step)[0][0]
    return value.softmax(-2)
