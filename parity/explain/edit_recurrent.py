"""Mutations of layers that keep a state: their convolution, how steps and decays are made, the gated norm behind."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from parity.explain.edit_common import mutation_of
from parity.explain.match import moves
from parity.explain.mutations import Context, Mutation, Region, again
from parity.explain.play import Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step

_CONVOLUTIONS = ("conv1d", "nn.functional.conv1d")
_ONE_TO_ONE = {"nn.functional.softplus", "softplus", "sigmoid", "nn.functional.sigmoid", "exp"}
_GATES = {"nn.functional.silu", "silu", "sigmoid", "nn.functional.sigmoid"}
_NORMED_TOGETHER = 4096  # widths up to which a norm is tried in other groups


def propose(context: Context, step: Step) -> Iterator[Mutation]:
    """Everything that goes wrong in one operation of a recurrent layer and not elsewhere."""
    if step.name in _CONVOLUTIONS:
        yield from _convolution(context, step)
    if context.place(step).role == Role.recurrent and step.name in _ONE_TO_ONE:
        yield from _one_to_one(context, step)
    if context.place(step).role == Role.recurrent and step.name == "mul":
        yield from _scaled_too(context, step)
    if context.place(step).role == Role.gated_norm and step.name == "mean":
        yield from _other_groups(context, step)


def _convolution(context: Context, step: Step) -> Iterator[Mutation]:
    """A short convolution over time: turned round, shifted, left out, without its bias."""
    given, result = context.tape.value(step.arguments[0]), step.values[0]
    bias = step.keywords.get("bias", step.arguments[2] if len(step.arguments) > 2 else None)

    def made(playing: Playing, step: Step, turned: bool = False) -> tuple[Tensor, Tensor]:
        """The result, and what it is where all inputs are zero."""
        arguments, keywords = playing.given(step)
        x, rest = arguments[0], list(arguments[1:])
        named = {} if rest else {"weight": keywords["weight"]}
        weight = rest[0] if rest else named["weight"]
        if turned:
            weight = weight.flip(-1)
        if rest:
            rest[0] = weight
        else:
            keywords["weight"] = weight
        return (
            playing.compute(step, x, *rest, **keywords)[0],
            playing.compute(step, torch.zeros_like(x), *rest, **keywords)[0],
        )

    def backwards(playing: Playing, step: Step) -> Tensor:
        return made(playing, step, turned=True)[0]

    def later(playing: Playing, step: Step) -> Tensor:
        value, nothing = made(playing, step)
        return torch.cat((nothing[..., :1], value[..., :-1]), -1)

    def sooner(playing: Playing, step: Step) -> Tensor:
        value, nothing = made(playing, step)
        return torch.cat((value[..., 1:], nothing[..., -1:]), -1)

    def left_out(playing: Playing, step: Step) -> Tensor:
        value: Tensor = playing.given(step)[0][0]
        return F.pad(value, (0, step.values[0].shape[-1] - value.shape[-1]))

    def unbiased(playing: Playing, step: Step) -> Tensor:
        value, nothing = made(playing, step)
        return value - nothing

    changes: list[tuple[str, str, Callable[[Playing, Step], Tensor]]] = [
        ("backwards", "the kernel of the convolution were the other way round", backwards),
        ("later", "the convolution saw everything one token later", later),
        ("sooner", "the convolution saw everything one token sooner, the next token too", sooner),
    ]
    if result.shape[:2] == given.shape[:2] and result.shape[-1] >= given.shape[-1]:
        changes.append(("left out", "the convolution is left out", left_out))
    for name, text, change in changes:
        yield mutation_of(context, step, f"convolution {name}", text, change, 1.0, "ssm-delta-math")
    if isinstance(bias, Ref):
        text = "the bias of the convolution is left out"
        yield mutation_of(context, step, "bias left out", text, unbiased, 0.95, "bias-dropped")


def _one_to_one(context: Context, step: Step) -> Iterator[Mutation]:
    """What makes steps, decays and shares of what is written: made twice, doubled, left out."""
    last = step.name.rpartition(".")[2]

    def twice(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        once = playing.compute(step, *arguments, **keywords)[0]
        return playing.compute(step, once, *arguments[1:], **keywords)[0]

    def doubled(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        return 2 * playing.compute(step, *arguments, **keywords)[0]

    def bare(playing: Playing, step: Step) -> Tensor:
        value: Tensor = playing.given(step)[0][0]
        return value

    cause = "ssm-delta-math"
    if last == "exp":
        yield mutation_of(context, step, "exp left out", "exp is left out", bare, 1.0, cause)
        return
    yield mutation_of(context, step, f"{last} twice", f"{last} were applied twice", twice, 1.0, cause)
    yield mutation_of(context, step, f"{last} doubled", f"what {last} gives were doubled", doubled, 1.05, cause)


def _scaled_too(context: Context, step: Step) -> Iterator[Mutation]:
    """What is scaled to length one, scaled by its width as well."""
    made = [context.maker(ref).name for ref in step.inputs]
    if "rsqrt" not in made or len(made) != 2:
        return

    def scaled(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        result: Tensor = playing.compute(step, *arguments, **keywords)[0] * float(step.values[0].shape[-1]) ** -0.5
        return result

    text = "what has length one were divided by the root of its width as well"
    yield mutation_of(context, step, "scaled as well", text, scaled, 1.0, "ssm-delta-math")


def _other_groups(context: Context, step: Step) -> Iterator[Mutation]:
    """A norm taken over the whole width, over several groups at once, or over smaller ones."""
    square = context.tape.value(step.arguments[0])
    size = square.shape[-1]
    seen = {context.tape.value(ref).shape for ref in _origins(context, step)}
    counts = {shape[-2] for shape in seen if len(shape) > 2 and shape[-1] == size and shape[-2] > 1}
    for count in sorted(counts):

        def wide(playing: Playing, step: Step, count: int = count) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            together = value.reshape(-1, count, size).mean((-1, -2), keepdim=True)
            return together.expand(-1, count, 1).reshape(step.values[0].shape)

        text = "the gated norm ran over all heads or groups at once, not over each by itself"
        yield mutation_of(context, step, f"over {count} at once", text, wide, 1.0, "ssm-gated-norm")
    numbers = {int(number) for name, number in context.numbers.items() if "head" in name or "group" in name}
    parts = {size // number for number in numbers if number > 1 and size % number == 0}
    parts |= {number for number in numbers if 1 < number < size and size % number == 0}
    parts |= {size * count // number for count in counts for number in numbers if number > count}
    for part in sorted(part for part in parts if 1 < part < size <= _NORMED_TOGETHER and size % part == 0):

        def narrow(playing: Playing, step: Step, part: int = part) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            groups = value.reshape(*value.shape[:-1], -1, part)
            result: Tensor = groups.mean(-1, keepdim=True).expand_as(groups).flatten(-2)
            return result

        text = f"the gated norm ran over groups of {part}, not of {size}"
        yield mutation_of(context, step, f"in groups of {part}", text, narrow, 1.0, "ssm-gated-norm")


def _origins(context: Context, step: Step) -> Iterator[Ref]:
    """The value whose squares are averaged, before it was only moved or squared."""
    squared = context.producer(step.arguments[0])
    for ref in (step.arguments[0], *squared.inputs):
        for moved in moves(context.tape, ref):
            yield moved
            yield from context.producer(moved).inputs


def gated(context: Context, region: Region) -> Iterator[Mutation]:
    """One call of a norm with a gate: the gate on its other side, or left out."""
    steps = [context.tape.steps[number] for number in region.steps]
    if len(region.outputs) != 1 or not any(step.name == "mean" for step in steps):
        return
    output = region.outputs[0]
    averaged = next(step.number for step in steps if step.name == "mean")
    for step in steps:
        refs = [ref for ref in step.arguments[:2] if isinstance(ref, Ref)]
        gates = [ref for ref in refs if context.maker(ref).name in _GATES and context.maker(ref).number in region.steps]
        if step.name != "mul" or len(refs) != 2 or len(gates) != 1:
            continue
        other = next(ref for ref in refs if ref != gates[0])
        if context.tape.value(other).shape != context.tape.value(gates[0]).shape:
            continue
        yield from _sides(context, region, step, (gates[0], other), output, averaged)
        return


def _sides(
    context: Context, region: Region, step: Step, factors: tuple[Ref, Ref], output: Ref, averaged: int
) -> Iterator[Mutation]:
    gate, value = factors
    first = step.number < averaged  # the gate comes before the norm
    given = (
        [ref for ref in region.inputs if ref in set(moves(context.tape, value))] if first else _main(context, region)
    )

    def bare(playing: Playing, taken: Tensor) -> Tensor:
        """The norm without its gate, of some value."""
        if first:
            return again(playing, context, region, {step.refs[0]: taken}, output)
        return again(playing, context, region, {given[0]: taken}, value)

    def open_gate(playing: Playing, made: Step) -> Tensor:
        return playing.value(gate, step)

    def plain(playing: Playing, made: Step) -> Tensor:
        return playing.value(value, step) if first else playing.value(given[0], made)

    def other_side(playing: Playing, made: Step) -> tuple[Tensor, ...]:
        opened, x = open_gate(playing, made), plain(playing, made)
        if first:
            return ((bare(playing, x).reshape(opened.shape) * opened).reshape(made.values[0].shape),)
        return (bare(playing, x * opened.reshape(x.shape)).reshape(made.values[0].shape),)

    def without(playing: Playing, made: Step) -> tuple[Tensor, ...]:
        return (bare(playing, plain(playing, made)).reshape(made.values[0].shape),)

    last = output.step
    if first or len(given) == 1:
        told = "after the norm, not before it" if first else "before the norm, not after it"
        for name, text, edit in (
            ("gate on the other side", f"the gate came {told}", other_side),
            ("ungated", "the gate of the norm is left out", without),
        ):
            yield Mutation("ssm-gated-norm", name, f"behaves as if {text}", {last: edit}, last, 0.9)


def _main(context: Context, region: Region) -> list[Ref]:
    """The value that is normed: of the region's inputs that which its squares are made of."""
    tape = context.tape
    averaged = next(tape.steps[number] for number in region.steps if tape.steps[number].name == "mean")
    squared = context.producer(averaged.arguments[0])
    chain = {moved for ref in squared.inputs for moved in moves(tape, ref)}
    return [ref for ref in region.inputs if ref in chain]
