"""Mutations of layout: axes merged, split and put together in another order."""

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor

from parity.explain.edit_common import mutation_of
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step

_MOST_PARTS = 4


def merged_axes(context: Context, step: Step) -> Iterator[Mutation]:
    """Two axes that are merged into one, in the other order: heads tiled rather than repeated."""
    given, result = context.tape.value(step.arguments[0]), step.values[0]
    for axis in range(given.ndim - 1):
        merged = (*given.shape[:axis], given.shape[axis] * given.shape[axis + 1], *given.shape[axis + 2 :])
        if tuple(result.shape) == merged and given.shape[axis] > 1 and given.shape[axis + 1] > 1:

            def change(playing: Playing, step: Step, axis: int = axis) -> Tensor:
                value: Tensor = playing.given(step)[0][0]
                return value.transpose(axis, axis + 1).reshape(step.values[0].shape)

            text = "two axes are merged in the other order"
            if context.place(step).role == Role.repeat:
                text = "key/value heads are tiled (0 1 0 1), not repeated (0 0 1 1)"
            yield mutation_of(context, step, f"merge order {axis}", text, change, 0.95)


def tiled(context: Context, step: Step) -> Iterator[Mutation]:
    """Heads repeated as a whole, not each by itself."""
    arguments = dict(zip(("input", "repeats", "dim"), step.arguments, strict=False)) | dict(step.keywords)
    count, axis = arguments.get("repeats"), arguments.get("dim")
    if not isinstance(count, int) or not isinstance(axis, int):
        return

    def change(playing: Playing, step: Step) -> Tensor:
        value: Tensor = playing.given(step)[0][0]
        return torch.cat([value] * count, axis)

    cause = "ssm-delta-math" if context.place(step).role == Role.recurrent else "gqa-repeat"
    text = "heads are tiled (0 1 0 1), not repeated (0 0 1 1)"
    yield mutation_of(context, step, "tiled", text, change, 0.95, cause)


def read_in_another_order(context: Context, step: Step) -> Iterator[Mutation]:
    """Features split into heads with the head index running fastest, or axes read in another order."""
    given, result = context.tape.value(step.arguments[0]), step.values[0]
    split = result.ndim > 1 and given.ndim > 0 and given.shape[-1] == result.shape[-1] * result.shape[-2]
    if split and result.shape[-1] > 1 and result.shape[-2] > 1:

        def fastest(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            *leading, heads, size = step.values[0].shape
            return value.reshape(*leading, size, heads).transpose(-1, -2)

        text = "features are split into heads with the head index running fastest"
        yield mutation_of(context, step, "heads fastest", text, fastest, 1.0, "split-layout")
    if split and result.ndim == 4 and result.shape[-2] > 1:

        def flat(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            batch, length, heads, size = step.values[0].shape
            return value.reshape(batch, heads, length, size).transpose(1, 2)

        text = "heads are cut out by a view, without exchanging tokens and heads"
        yield mutation_of(context, step, "view for transpose", text, flat, 1.0, "split-layout")
    if result.ndim == given.ndim - 1 and given.ndim == 4:

        def joined(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            return value.transpose(1, 2).reshape(step.values[0].shape)

        text = "heads are joined without exchanging tokens and heads back"
        yield mutation_of(context, step, "joined without transpose", text, joined, 1.0, "split-layout")

        def fastest_joined(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            return value.transpose(-1, -2).reshape(step.values[0].shape)

        text = "heads are joined with the head index running fastest"
        yield mutation_of(context, step, "joined heads fastest", text, fastest_joined, 1.0, "split-layout")


def parts_of(context: Context, step: Step) -> Iterator[Mutation]:
    """Parts of a fused value taken in another order, or read as if they were interleaved."""
    if any(value.ndim == 0 for value in step.values):
        return
    count = len(step.values)
    cause = "gate-up-order" if count == 2 and context.place(step).role in (Role.mlp, Role.experts) else "split-layout"
    for first in range(count):
        for second in range(first + 1, count):
            if step.values[first].shape != step.values[second].shape:
                continue

            def exchanged(playing: Playing, step: Step, first: int = first, second: int = second) -> tuple[Tensor, ...]:
                arguments, keywords = playing.given(step)
                values = list(playing.compute(step, *arguments, **keywords))
                values[first], values[second] = values[second], values[first]
                return tuple(values)

            yield Mutation(
                cause,
                f"{step.name} parts {first} {second}",
                f"behaves as if parts {first} and {second} of the fused value were exchanged",
                {step.number: exchanged},
                step.number,
            )
    yield from _parts_of_other_sizes(step)
    sizes = {tuple(value.shape) for value in step.values}
    for by in (1, 2) if count == 3 and len(sizes) == 1 else ():

        def turned(playing: Playing, step: Step, by: int = by) -> tuple[Tensor, ...]:
            arguments, keywords = playing.given(step)
            values = playing.compute(step, *arguments, **keywords)
            return (*values[by:], *values[:by])

        text = f"behaves as if the parts of the fused value were taken from part {by} on, the first last"
        yield Mutation(cause, f"{step.name} parts from {by}", text, {step.number: turned}, step.number)
    yield from _cut_in_another_order(step, cause)
    if len(sizes) == 1 and count > 1:

        def flat(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0]
            return tuple(part.reshape(step.values[0].shape) for part in value.flatten(-2).chunk(count, -1))

        def interleaved(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0]
            parts: tuple[Tensor, ...] = value.reshape(*value.shape[:-1], -1, count).unbind(-1)
            return parts

        heads = int(context.numbers.get("num_attention_heads") or context.numbers.get("n_head") or 1)

        def per_head(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0]
            return tuple(part.flatten(-2) for part in value.reshape(*value.shape[:-1], heads, -1).chunk(count, -1))

        cuts = [("flat", "all heads of one part came first, then those of the next", flat)]
        for name, text, edit in (
            *(cuts if step.values[0].ndim > 3 else []),
            ("interleaved", "the fused value were interleaved feature by feature", interleaved),
            ("per head", "the fused value were laid out head by head", per_head),
        ):
            yield Mutation(cause, f"{step.name} {name}", f"behaves as if {text}", {step.number: edit}, step.number)


def _parts_of_other_sizes(step: Step) -> Iterator[Mutation]:
    """Two parts of unlike width, taken in the other order, or from all heads one part after the other."""
    if len(step.values) != 2 or step.values[0].shape[-1] == step.values[1].shape[-1]:
        return
    if step.values[0].shape[:-1] != step.values[1].shape[:-1]:
        return

    def exchanged(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        first, second = (value.shape[-1] for value in step.values)
        other, own = playing.given(step)[0][0].split((second, first), dim=-1)
        return own, other

    text = "behaves as if the parts of the fused value were taken in the other order"
    yield Mutation("split-layout", f"{step.name} order", text, {step.number: exchanged}, step.number)
    if step.values[0].ndim != 4:
        return
    for axis in (1, 2):  # of heads

        def one_after_the_other(playing: Playing, step: Step, axis: int = axis) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0].movedim(axis, 2)
            heads, flat = value.shape[2], value.flatten(2)
            widths = [heads * part.shape[-1] for part in step.values]
            parts = torch.split(flat, widths, dim=-1)
            return tuple(part.reshape(*part.shape[:-1], heads, -1).movedim(2, axis) for part in parts)

        text = "behaves as if all heads had their first part before any had its second"
        name = f"{step.name} part after part {axis}"
        yield Mutation("split-layout", name, text, {step.number: one_after_the_other}, step.number)


def _cut_in_another_order(step: Step, cause: str) -> Iterator[Mutation]:
    """Parts of several widths, cut off in another order."""
    widths = [value.shape[-1] for value in step.values]
    places = [place for place, width in enumerate(widths) if width]
    if len(widths) == 2 or not 1 < len(places) <= _MOST_PARTS or len(set(widths)) == 1:
        return
    for order in permutations(places):
        if list(order) == places:
            continue

        def cut(playing: Playing, step: Step, order: tuple[int, ...] = order) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0]
            if value.shape[-1] != sum(widths):
                raise ValueError("not cut along the features")
            parts = dict(zip(order, torch.split(value, [widths[place] for place in order], -1), strict=True))
            return tuple(parts.get(place, own) for place, own in enumerate(step.values))

        told = ", ".join(str(places.index(place)) for place in order)
        text = f"behaves as if the parts of the fused value came in the order {told}"
        yield Mutation(cause, f"{step.name} order {told}", text, {step.number: cut}, step.number, 1.05)


def repeated(context: Context, step: Step) -> Iterator[Mutation]:
    """A table of two equal halves, laid out in pairs of neighbours."""
    parts = step.arguments[0]
    if isinstance(parts, tuple | list) and len(parts) == 2 and parts[0] == parts[1]:

        def change(playing: Playing, step: Step) -> Tensor:
            return playing.value(parts[0], step).repeat_interleave(2, -1)

        text = "the table were laid out for pairs of neighbours, not for halves"
        yield mutation_of(context, step, "repeated by twos", text, change, 1.0, "rope-pairing")


def written_in_parts(context: Context, step: Step) -> Iterator[Mutation]:
    """Features that were written one part after the other, in the other order."""
    given = step.arguments[0] if step.arguments else None
    made = context.producer(given) if isinstance(given, Ref) else None
    if made is None or made.name != "written" or "span" not in made.keywords:
        return
    width = made.keywords["span"][0][-1]
    if not 0 < width < made.values[0].shape[-1]:
        return

    def change(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        (value, *rest), keywords = playing.given(step)
        return playing.compute(step, value.roll(width, -1), *rest, **keywords)

    text = "behaves as if the parts were put together in another order"
    yield Mutation("split-layout", "written parts order", text, {step.number: change}, step.number, 1.05)


def cat_reversed(playing: Playing, step: Step) -> Tensor:
    """The parts in the opposite order."""
    arguments, keywords = playing.given(step)
    return playing.compute(step, type(arguments[0])(reversed(arguments[0])), *arguments[1:], **keywords)[0]
