"""Mutations of single operations: left out, replaced by a near relative, or given another value at hand."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from parity.explain.edit_common import GATES, cause_at, mutation_of
from parity.explain.edit_layout import (
    cat_reversed,
    merged_axes,
    parts_of,
    read_in_another_order,
    repeated,
    tiled,
    written_in_parts,
)
from parity.explain.edit_masks import COMPARISONS, compare, masks, shifted, softmax_over_queries
from parity.explain.edit_norms import eps_outside, layer_norm, mean, norm_offset
from parity.explain.edit_wiring import gathered
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step

_BINARY = {
    "div_",
    "mul_",
    "add_",
    "sub_",
    "__itruediv__",
    "__imul__",
    "__iadd__",
    "__isub__",
    "mul",
    "add",
    "sub",
    "div",
    "__mul__",
    "__add__",
    "__sub__",
    "__and__",
    "__or__",
    "truediv",
    "__truediv__",
}
_UNARY = {
    "tanh",
    "nn.functional.softplus",
    "sigmoid",
    "nn.functional.sigmoid",
    "square",
    "nn.functional.softmax",
    "nn.functional.normalize",
    "neg",
    "relu",
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "relu squared": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": F.mish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "nothing": lambda x: x,
}
_ACTIVATION_STEPS = {
    "nn.functional.gelu", "nn.functional.silu", "nn.functional.relu", "relu", "silu", "gelu",
    "nn.functional.sigmoid", "sigmoid", "nn.functional.softplus",
}  # fmt: skip


def propose(context: Context, step: Step) -> Iterator[Mutation]:  # noqa: PLR0912 (a list of cases, one line each)
    """Everything that can go wrong in one operation, its numbers apart."""
    name = step.name
    if name in _BINARY:
        yield from _one_operand(context, step)
    if name in COMPARISONS:
        yield mutation_of(context, step, "comparison", "a comparison counts its own end the other way", compare, 1.0)
        yield from shifted(context, step)
    if name == "mul":
        yield from _softcap(context, step)
    if name in ("mul", "matmul", "nn.functional.linear", "div"):
        yield from _capped(context, step)
    if name == "add":
        yield from masks(context, step)
        yield from _scaled_operand(context, step)
    if name in ("rsub", "__rsub__"):
        yield from _blend(context, step)
    if name in _UNARY:
        yield mutation_of(
            context, step, f"{name} left out", f"{name.rpartition('.')[2]} is left out", _first_input, 1.0
        )
    if name in _ACTIVATION_STEPS:
        yield from _activations(context, step)
    if name == "nn.functional.linear":
        yield from _linear(context, step)
    if name in ("addmm", "baddbmm"):
        yield from _addmm(context, step)
    if name == "nn.functional.embedding":
        yield from _scaled_embedding(context, step)
    if name == "nn.functional.layer_norm":
        yield from layer_norm(context, step)
    if name == "rsqrt":
        yield mutation_of(
            context, step, "eps outside", "the eps is added to the root, not under it", eps_outside(context), 1.0
        )
    if name == "mean":
        yield from mean(context, step)
    if name in ("reshape", "view", "flatten"):
        yield from merged_axes(context, step)
        yield from read_in_another_order(context, step)
    if name in ("chunk", "split", "unbind", "split_with_sizes", "functional.split"):
        yield from parts_of(context, step)
    if name == "repeat_interleave":
        yield from tiled(context, step)
    if name in ("cat", "concat"):
        yield from repeated(context, step)
        yield mutation_of(context, step, "cat order", "the parts are put together in another order", cat_reversed, 1.1)
    yield from written_in_parts(context, step)
    if name == "gather":
        yield from gathered(context, step)
    if name in ("add", "sub", "mul", "matmul", "__and__", "nn.functional.embedding"):
        yield from _rewired(context, step)
    if name == "nn.functional.softmax":
        yield mutation_of(
            context, step, "softmax over queries", "softmax runs along the queries", softmax_over_queries, 1.1
        )


def _first_input(playing: Playing, step: Step) -> Tensor:
    value: Tensor = playing.given(step)[0][0]
    return value.expand_as(step.values[0]) if value.shape != step.values[0].shape else value


def _one_operand(context: Context, step: Step) -> Iterator[Mutation]:
    refs = [at for at, argument in enumerate(step.arguments[:2]) if isinstance(argument, Ref)]
    shape = step.values[0].shape
    for at in refs:
        value = context.tape.value(step.arguments[at])
        other = step.arguments[1 - at] if len(step.arguments) > 1 else None
        if len(refs) < 2 or value.shape != shape or value.dtype != step.values[0].dtype or other is None:
            continue

        def change(playing: Playing, step: Step, at: int = at) -> Tensor:
            result: Tensor = playing.given(step)[0][at]
            return result

        left = context.tape.value(other)
        what = "mask" if left.ndim >= 2 and left.shape[-1] == left.shape[-2] and step.name in ("add", "__and__") else ""
        text = f"{what or 'an operand'} of {step.name} is left out"
        positions = context.place(context.producer(other)).role == Role.positions
        text = "position embeddings are left out" if positions else text
        cause = "position-ids" if positions else ""
        if left.ndim == 1 and context.place(step).role == Role.qk_norm:
            cause = "qknorm-missing-or-width"
        if step.name == "mul" and context.place(step).role == Role.attention and context.maker(other).name in GATES:
            text, cause = "the gate of the output is left out", "activation"
        yield mutation_of(context, step, f"without operand {1 - at}", text, change, 1.0, cause)
    if len(refs) == 2 and step.name in ("add", "sub"):

        def flipped(playing: Playing, step: Step) -> Tensor:
            first, second = playing.given(step)[0][:2]
            result: Tensor = first - second if step.name == "add" else first + second
            return result

        yield mutation_of(context, step, "sign", "the sign is the other one", flipped, 1.1)
    if len(refs) == 2 and step.name == "mul" and context.place(step).role in (Role.mlp, Role.experts):

        def summed(playing: Playing, step: Step) -> Tensor:
            first, second = playing.given(step)[0][:2]
            result: Tensor = first + second
            return result

        yield mutation_of(context, step, "sum", "the two factors are added, not multiplied", summed, 1.1)
    if len(refs) == 2 and step.name == "mul" and context.place(step).role == Role.mlp:
        yield from _half_empty(context, step)
    if len(refs) == 2 and step.name == "mul":
        yield from norm_offset(context, step)
        yield from _other_side(context, step)


def _half_empty(context: Context, step: Step) -> Iterator[Mutation]:
    """act(gate) * up of which only the first half of the features is used: the width of other layers."""

    def halved(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        value = playing.compute(step, *arguments, **keywords)[0]
        return torch.cat((value[..., : value.shape[-1] // 2], torch.zeros_like(value[..., value.shape[-1] // 2 :])), -1)

    text = "only the first half of the features between the projections were used"
    yield mutation_of(context, step, "half empty", text, halved, 1.1, "weights-misplaced")


def _other_side(context: Context, step: Step) -> Iterator[Mutation]:
    """act(gate) * up with the activation on the other factor."""
    for at in (0, 1):
        other = step.arguments[1 - at]
        made = _activation_region(context, step.arguments[at])
        if made is None or context.tape.value(other).shape != context.tape.value(made[0]).shape:
            continue
        given, apply = made

        def change(
            playing: Playing,
            step: Step,
            given: Ref = given,
            other: Ref = other,
            apply: Callable[[Playing, Tensor], Tensor] = apply,
        ) -> Tensor:
            return apply(playing, playing.value(other, step)) * playing.value(given, step)

        text = "the activation is applied to the other factor: gate and up are exchanged"
        yield mutation_of(context, step, "gate and up exchanged", text, change, 0.9, "gate-up-order")


def _activation_region(context: Context, ref: Ref) -> tuple[Ref, Callable[[Playing, Tensor], Tensor]] | None:
    """What an activation was applied to, and the activation, if a value comes out of one."""
    from parity.explain.mutations import again

    step = context.producer(ref)
    if step.name in _ACTIVATION_STEPS:

        def one(playing: Playing, value: Tensor) -> Tensor:
            arguments, keywords = playing.given(step)
            return playing.compute(step, value, *arguments[1:], **keywords)[0]

        return step.arguments[0], one
    call = step.modules[0] if step.modules else None
    region = context.calls.get(call) if call else None
    if region is None or context.place(step).role != Role.activation or len(region.inputs) != 1:
        return None

    def whole(playing: Playing, value: Tensor) -> Tensor:
        return again(playing, context, region, {region.inputs[0]: value}, ref)

    return region.inputs[0], whole


def _activations(context: Context, step: Step) -> Iterator[Mutation]:
    for name, function in ACTIVATIONS.items():

        def change(playing: Playing, step: Step, function: Callable[[Tensor], Tensor] = function) -> Tensor:
            return function(playing.given(step)[0][0])

        gated = context.place(step).role == Role.gated_norm
        dropped = name == "nothing" and _is_recurrent(context, step)
        cause = "ssm-gated-norm" if gated else "ssm-delta-math" if dropped else "activation"
        yield mutation_of(context, step, f"-> {name}", f"the activation were {name}", change, 1.0, cause)


def _is_recurrent(context: Context, step: Step) -> bool:
    """Whether a step stands in a layer that keeps a state, or in a module of one."""
    return Role.recurrent in (context.place(step).role, context.role_of(step.module.rpartition(".")[0]))


def _linear(context: Context, step: Step) -> Iterator[Mutation]:
    weight = context.tape.value(step.arguments[1])
    bias = step.arguments[2] if len(step.arguments) > 2 else step.keywords.get("bias")
    if isinstance(bias, Ref):

        def unbiased(playing: Playing, step: Step) -> Tensor:
            arguments, _ = playing.given(step)
            return F.linear(arguments[0], arguments[1])

        yield mutation_of(context, step, "bias left out", "the bias is left out", unbiased, 1.0, "bias-dropped")
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:

        def turned(playing: Playing, step: Step) -> Tensor:
            arguments, _ = playing.given(step)
            return F.linear(arguments[0], arguments[1].T, *arguments[2:])

        yield mutation_of(
            context, step, "weight transposed", "a square weight is transposed", turned, 1.0, "weight-transposed"
        )


def _addmm(context: Context, step: Step) -> Iterator[Mutation]:
    """A projection as its bias plus x times a weight that is stored as `[in, out]`."""

    def unbiased(playing: Playing, step: Step) -> Tensor:
        arguments, _ = playing.given(step)
        result: Tensor = arguments[1] @ arguments[2]
        return result

    yield mutation_of(context, step, "bias left out", "the bias is left out", unbiased, 1.0, "bias-dropped")
    for part, count in ((part, 3) for part in range(3)):

        def partly(playing: Playing, step: Step, part: int = part, count: int = count) -> Tensor:
            arguments, _ = playing.given(step)
            kept = [each * (place != part) for place, each in enumerate(arguments[0].tensor_split(count))]
            return torch.addmm(torch.cat(kept), arguments[1], arguments[2])

        text = f"the bias of part {part} of the fused projection is left out"
        if step.values[0].shape[-1] % count == 0 and _is_parted(context, step):
            yield mutation_of(context, step, f"bias {part} left out", text, partly, 1.05, "bias-dropped")
    weight = context.tape.value(step.arguments[2])
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:

        def turned(playing: Playing, step: Step) -> Tensor:
            arguments, _ = playing.given(step)
            result: Tensor = arguments[0] + arguments[1] @ arguments[2].T
            return result

        yield mutation_of(
            context, step, "weight transposed", "a square weight is transposed", turned, 1.0, "weight-transposed"
        )


def _is_parted(context: Context, step: Step) -> bool:
    """Whether what a step gives is taken apart next."""
    users = [context.tape.steps[number] for ref in step.refs for number in context.users.get(ref, ())]
    inner = [context.tape.steps[number] for user in users for ref in user.refs for number in context.users.get(ref, ())]
    return any(user.name in ("split", "chunk") for user in (*users, *inner))


def _scaled_embedding(context: Context, step: Step) -> Iterator[Mutation]:
    """Token embeddings multiplied by the root of their width, as some models do."""
    width = step.values[0].shape[-1]
    if context.place(step).role != Role.embedding:
        return
    for factor, words in ((width**0.5, "multiplied by the root of their width"), (width**-0.5, "divided by it")):

        def change(playing: Playing, step: Step, factor: float = factor) -> Tensor:
            arguments, keywords = playing.given(step)
            return playing.compute(step, *arguments, **keywords)[0] * factor

        text = f"embeddings were {words}"
        yield mutation_of(context, step, f"times {factor:g}", text, change, 1.0, "embed-scale")


def _blend(context: Context, step: Step) -> Iterator[Mutation]:
    """Two values mixed as (1 - share) of one and share of the other, with the shares exchanged."""
    shares = [ref for ref in step.inputs if context.tape.value(ref).is_floating_point()]
    if len(shares) != 1 or (1 not in step.arguments and 1.0 not in step.arguments):
        return
    share = shares[0]

    def reversed_(playing: Playing, made: Step) -> tuple[Tensor, ...]:
        values = list(made.values)
        values[share.part] = 1.0 - values[share.part]
        return tuple(values)

    text = "behaves as if the shares of a blend were exchanged"
    yield Mutation(cause_at(context, step, "blend"), "blend reversed", text, {share.step: reversed_}, step.number)


def _scaled_operand(context: Context, step: Step) -> Iterator[Mutation]:
    """Embeddings multiplied by the root of their width before something is added to them."""
    for at, argument in enumerate(step.arguments[:2]):
        if not isinstance(argument, Ref) or context.place(context.producer(argument)).role != Role.embedding:
            continue
        width = context.tape.value(argument).shape[-1]

        def change(playing: Playing, step: Step, at: int = at, factor: float = width**0.5) -> Tensor:
            arguments, keywords = playing.given(step)
            scaled = (*arguments[:at], arguments[at] * factor, *arguments[at + 1 :])
            return playing.compute(step, *scaled, **keywords)[0]

        text = "embeddings were multiplied by the root of their width"
        yield mutation_of(context, step, "embeddings scaled", text, change, 1.0, "embed-scale")


def _softcap(context: Context, step: Step) -> Iterator[Mutation]:
    """tanh(x / cap) * cap with a part of it missing."""
    inner = context.producer(step.arguments[0]) if isinstance(step.arguments[0], Ref) else None
    if inner is None or inner.name != "tanh":
        return
    divided = context.producer(inner.arguments[0])
    if divided.name not in ("div", "mul", "truediv"):
        return

    def bare(playing: Playing, step: Step) -> Tensor:
        return playing.value(divided.arguments[0], divided)

    def times(playing: Playing, step: Step) -> Tensor:
        return bare(playing, step) * playing.value(inner.refs[0], step)

    def clamped(playing: Playing, step: Step) -> Tensor:
        cap = float(playing.given(step)[0][1])
        return bare(playing, step).clamp(-cap, cap)

    yield mutation_of(context, step, "cap left out", "the soft cap is left out", bare, 0.9, "softcap")
    yield mutation_of(context, step, "x * tanh", "the soft cap multiplied x by its tanh", times, 1.0, "softcap")
    yield mutation_of(context, step, "clamp", "the cap were hard", clamped, 1.0, "softcap")
    if isinstance(step.arguments[1], int | float):
        cap = float(step.arguments[1])
        text = "the soft cap is not multiplied back"
        yield mutation_of(
            context, step, "not multiplied", text, lambda p, s: torch.tanh(bare(p, s) / cap), 0.95, "softcap"
        )
        text = "the soft cap does not divide first"
        yield mutation_of(
            context, step, "not divided", text, lambda p, s: torch.tanh(bare(p, s)) * cap, 0.95, "softcap"
        )


def _capped(context: Context, step: Step) -> Iterator[Mutation]:
    """A soft cap where there is none."""
    role, value = context.place(step).role, step.values[0]
    square = value.ndim == 4 and value.shape[-1] == value.shape[-2]
    if not ((role == Role.attention and square) or role == Role.head):
        return
    caps = {number for name, number in context.numbers.items() if "softcap" in name}
    for cap in sorted({*caps, 30.0, 50.0, *context.at_hand}):
        if cap <= 0:
            continue

        def change(playing: Playing, step: Step, cap: float = cap) -> Tensor:
            arguments, keywords = playing.given(step)
            return torch.tanh(playing.compute(step, *arguments, **keywords)[0] / cap) * cap

        yield mutation_of(
            context, step, f"soft cap {cap:g}", f"a soft cap of {cap:g} were applied", change, 1.0, "softcap"
        )


_MOST_REWIRED = 14


def _rewired(context: Context, step: Step) -> Iterator[Mutation]:
    """An operand replaced by another value of its shape: what modules around took and gave, and layer inputs."""
    role = context.place(step).role
    for at, argument in enumerate(step.arguments[:2]):
        if not isinstance(argument, Ref):
            continue
        given = context.tape.value(argument)
        for other in _at_hand(context, step, argument, given):

            def change(playing: Playing, step: Step, at: int = at, other: Ref = other) -> tuple[Tensor, ...]:
                arguments, keywords = playing.given(step)
                arguments = (*arguments[:at], playing.value(other, step), *arguments[at + 1 :])
                return playing.compute(step, *arguments, **keywords)

            what = context.name_of(other)
            cause = "residual-topology" if role in (Role.layer, Role.model) else cause_at(context, step, "rewired")
            name = f"{step.name} operand {at} <- {_relative(context, other, step)}"
            text = f"behaves as if {step.name} were given {what}"
            yield Mutation(cause, name, text, {step.number: change}, step.number, 1.2)


def _at_hand(context: Context, step: Step, argument: Ref, given: Tensor) -> list[Ref]:
    near: dict[Ref, None] = {}
    if given.dtype == torch.bool or (given.ndim >= 4 and given.shape[-1] == given.shape[-2]):
        # masks and tables: the same kind of value made for other layers
        pool = [ref for other in context.tape.steps[: step.number] for ref in other.refs if other.values]
        same = [ref for ref in pool if ref != argument and context.tape.value(ref).shape == given.shape]
        return same[-_MOST_REWIRED:]
    if context.place(step).role not in (Role.layer, Role.model, Role.mlp):
        return []
    for call in context.calls.values():
        for ref in (*call.inputs, *call.outputs):
            value = context.tape.value(ref)
            if ref != argument and ref.step < step.number and value.shape == given.shape and value.ndim > 2:
                near[ref] = None
    return sorted(near, key=lambda ref: -ref.step)[:_MOST_REWIRED]


def _relative(context: Context, ref: Ref, step: Step) -> str:
    """A name for a value that is the same in every layer."""
    return str(context.sites[ref.step])
