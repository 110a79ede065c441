"""Mutations of single operations: left out, replaced by a near relative, or given another value at hand."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from parity.explain.mutations import Context, Mutation
from parity.explain.roles import Role
from parity.explain.trace import Edit, Playing, Ref, Step

_BINARY = {"mul", "add", "sub", "div", "__mul__", "__add__", "__sub__", "__and__", "__or__", "truediv", "__truediv__"}
_COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gt": torch.ge, "ge": torch.gt, "lt": torch.le, "le": torch.lt,
}  # fmt: skip
_UNARY = {
    "tanh",
    "nn.functional.softplus",
    "sigmoid",
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
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": F.mish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "nothing": lambda x: x,
}
_ACTIVATION_STEPS = {"nn.functional.gelu", "nn.functional.silu", "nn.functional.relu", "relu", "silu", "gelu"}


def propose(context: Context, step: Step) -> Iterator[Mutation]:  # noqa: PLR0912 (a list of cases, one line each)
    """Everything that can go wrong in one operation, its numbers apart."""
    name = step.name
    if name in _BINARY:
        yield from _one_operand(context, step)
    if name in _COMPARISONS:
        yield _of(context, step, "comparison", "a comparison counts its own end the other way", _compare, 1.0)
        yield from _shifted(context, step)
    if name == "mul":
        yield from _softcap(context, step)
    if name in ("mul", "matmul", "nn.functional.linear", "div"):
        yield from _capped(context, step)
    if name == "add":
        yield from _masks(context, step)
        yield from _scaled_operand(context, step)
    if name in ("rsub", "__rsub__"):
        yield from _blend(context, step)
    if name in _UNARY:
        yield _of(context, step, f"{name} left out", f"{name.rpartition('.')[2]} is left out", _first_input, 1.0)
    if name in _ACTIVATION_STEPS:
        yield from _activations(context, step)
    if name == "nn.functional.linear":
        yield from _linear(context, step)
    if name in ("addmm", "baddbmm"):
        yield from _addmm(context, step)
    if name == "nn.functional.embedding":
        yield from _scaled_embedding(context, step)
    if name == "nn.functional.layer_norm":
        yield from _layer_norm(context, step)
    if name == "rsqrt":
        yield _of(
            context, step, "eps outside", "the eps is added to the root, not under it", _eps_outside(context), 1.0
        )
    if name == "mean":
        yield from _mean(context, step)
    if name in ("reshape", "view", "flatten"):
        yield from _merged_axes(context, step)
        yield from _read_in_another_order(context, step)
    if name in ("chunk", "split", "unbind", "split_with_sizes"):
        yield from _parts(context, step)
    if name in ("cat", "concat"):
        yield from _repeated(context, step)
        yield _of(context, step, "cat order", "the parts are put together in another order", _cat_reversed, 1.1)
    if name in ("add", "sub", "mul", "matmul", "__and__", "nn.functional.embedding"):
        yield from _rewired(context, step)
    if name == "nn.functional.softmax":
        yield _of(context, step, "softmax over queries", "softmax runs along the queries", _softmax_over_queries, 1.1)


Change = Callable[[Playing, Step], Tensor]
Variant = Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]


def _of(context: Context, step: Step, name: str, text: str, change: Change, weight: float, cause: str = "") -> Mutation:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        return (change(playing, step),)

    edit_: Edit = edit
    cause = cause or _cause(context, step, name)
    said, omits = f"behaves as if {text}", "left out" in text
    return Mutation(cause, f"{step.name} {name}", said, {step.number: edit_}, step.number, weight, omits)


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
        yield _of(context, step, f"without operand {1 - at}", text, change, 1.0, cause)
    if len(refs) == 2 and step.name in ("add", "sub"):

        def flipped(playing: Playing, step: Step) -> Tensor:
            first, second = playing.given(step)[0][:2]
            result: Tensor = first - second if step.name == "add" else first + second
            return result

        yield _of(context, step, "sign", "the sign is the other one", flipped, 1.1)
    if len(refs) == 2 and step.name == "mul" and context.place(step).role in (Role.mlp, Role.experts):

        def summed(playing: Playing, step: Step) -> Tensor:
            first, second = playing.given(step)[0][:2]
            result: Tensor = first + second
            return result

        yield _of(context, step, "sum", "the two factors are added, not multiplied", summed, 1.1)
    if len(refs) == 2 and step.name == "mul":
        yield from _norm_offset(context, step)
        yield from _other_side(context, step)


def _norm_offset(context: Context, step: Step) -> Iterator[Mutation]:
    """A norm's weight taken as an offset from one."""
    for at in (0, 1):
        argument = step.arguments[at]
        if context.tape.value(argument).ndim != 1:
            continue

        def change(playing: Playing, step: Step, at: int = at) -> Tensor:
            arguments = playing.given(step)[0]
            result: Tensor = (1.0 + arguments[at]) * arguments[1 - at]
            return result

        if "orm" in context.place(step).role:
            text = "a norm scales by (1 + weight) once more than it should"
            yield _of(context, step, "weight + 1", text, change, 1.0, "norm-offset")


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
        yield _of(context, step, "gate and up exchanged", text, change, 0.9, "gate-up-order")


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

        yield _of(context, step, f"-> {name}", f"the activation were {name}", change, 1.0, "activation")


def _linear(context: Context, step: Step) -> Iterator[Mutation]:
    weight = context.tape.value(step.arguments[1])
    bias = step.arguments[2] if len(step.arguments) > 2 else step.keywords.get("bias")
    if isinstance(bias, Ref):

        def unbiased(playing: Playing, step: Step) -> Tensor:
            arguments, _ = playing.given(step)
            return F.linear(arguments[0], arguments[1])

        yield _of(context, step, "bias left out", "the bias is left out", unbiased, 1.0, "bias-dropped")
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:

        def turned(playing: Playing, step: Step) -> Tensor:
            arguments, _ = playing.given(step)
            return F.linear(arguments[0], arguments[1].T, *arguments[2:])

        yield _of(context, step, "weight transposed", "a square weight is transposed", turned, 1.0, "weight-transposed")


def _addmm(context: Context, step: Step) -> Iterator[Mutation]:
    """A projection as its bias plus x times a weight that is stored as `[in, out]`."""

    def unbiased(playing: Playing, step: Step) -> Tensor:
        arguments, _ = playing.given(step)
        result: Tensor = arguments[1] @ arguments[2]
        return result

    yield _of(context, step, "bias left out", "the bias is left out", unbiased, 1.0, "bias-dropped")
    weight = context.tape.value(step.arguments[2])
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:

        def turned(playing: Playing, step: Step) -> Tensor:
            arguments, _ = playing.given(step)
            result: Tensor = arguments[0] + arguments[1] @ arguments[2].T
            return result

        yield _of(context, step, "weight transposed", "a square weight is transposed", turned, 1.0, "weight-transposed")


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
        yield _of(context, step, f"times {factor:g}", text, change, 1.0, "embed-scale")


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
    yield Mutation(_cause(context, step, "blend"), "blend reversed", text, {share.step: reversed_}, step.number)


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
        yield _of(context, step, "embeddings scaled", text, change, 1.0, "embed-scale")


def _layer_norm(context: Context, step: Step) -> Iterator[Mutation]:
    def parts(playing: Playing, step: Step) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
        arguments, keywords = playing.given(step)
        values = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), arguments, strict=False)) | keywords
        return values["input"], values.get("weight"), values.get("bias"), values.get("eps", 1e-5)

    def normed(x: Tensor, eps: float, centre: bool = True, outside: bool = False, unbiased: bool = False) -> Tensor:
        centred = x - x.mean(-1, keepdim=True) if centre else x
        square = centred.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - unbiased)
        return centred / (square.sqrt() + eps) if outside else centred / (square + eps).sqrt()

    def scaled(value: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        value = value if weight is None else value * weight
        return value if bias is None else value + bias

    def change(playing: Playing, step: Step, norm: Variant) -> Tensor:
        return norm(*parts(playing, step))

    variants: dict[str, tuple[str, Variant]] = {
        "rms": ("norm-eps", lambda x, w, b, e: scaled(normed(x, e, centre=False), w, b)),
        "eps outside": ("norm-eps", lambda x, w, b, e: scaled(normed(x, e, outside=True), w, b)),
        "unbiased variance": ("norm-eps", lambda x, w, b, e: scaled(normed(x, e, unbiased=True), w, b)),
        "bias left out": ("bias-dropped", lambda x, w, b, e: scaled(normed(x, e), w, None)),
        "weight left out": ("norm-offset", lambda x, w, b, e: scaled(normed(x, e), None, b)),
        "weight + 1": ("norm-offset", lambda x, w, b, e: scaled(normed(x, e), None if w is None else 1 + w, b)),
    }
    for name, (cause, norm) in variants.items():
        yield _of(context, step, name, f"the norm: {name}", partial(change, norm=norm), 1.0, cause)


def _eps_outside(context: Context) -> Change:
    def change(playing: Playing, step: Step) -> Tensor:
        inner = context.producer(step.arguments[0])
        number = inner.arguments[1] if len(inner.arguments) > 1 else 0.0
        square = playing.value(inner.arguments[0], inner)
        eps = playing.value(number, inner) if isinstance(number, Ref) else number
        result: Tensor = 1.0 / (square.sqrt() + eps)
        return result

    return change


def _mean(context: Context, step: Step) -> Iterator[Mutation]:
    """A norm over all heads at once, or one that centres first."""
    value = context.tape.value(step.arguments[0])
    if value.ndim == 4:
        for axis in (1, 2):

            def wide(playing: Playing, step: Step, axis: int = axis) -> Tensor:
                given: Tensor = playing.given(step)[0][0]
                return given.mean((axis, -1), keepdim=True).expand_as(step.values[0])

            text = "heads are normalised together, not each by itself"
            yield _of(context, step, f"over axis {axis}", text, wide, 1.0, "qknorm-missing-or-width")

    def total(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        result: Tensor = arguments[0].sum(*arguments[1:], **keywords)
        return result

    yield _of(context, step, "sum", "the norm takes the sum of squares, not their mean", total, 1.0)
    inner = context.producer(step.arguments[0])
    if inner.name in ("pow", "square") and "orm" in context.place(step).role:

        def centred(playing: Playing, step: Step) -> Tensor:
            x = playing.value(inner.arguments[0], inner)
            arguments, keywords = playing.given(step)
            result: Tensor = (x - x.mean(-1, keepdim=True)).pow(2).mean(*arguments[1:], **keywords)
            return result

        yield _of(
            context, step, "centred", "the norm takes the variance, not the mean square", centred, 1.0, "norm-eps"
        )


def _merged_axes(context: Context, step: Step) -> Iterator[Mutation]:
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
            yield _of(context, step, f"merge order {axis}", text, change, 0.95)


def _read_in_another_order(context: Context, step: Step) -> Iterator[Mutation]:
    """Features split into heads with the head index running fastest, or axes read in another order."""
    given, result = context.tape.value(step.arguments[0]), step.values[0]
    if result.ndim == given.ndim + 1 and result.shape[-1] > 1 and result.shape[-2] > 1:

        def fastest(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            *leading, heads, size = step.values[0].shape
            return value.reshape(*leading, size, heads).transpose(-1, -2)

        text = "features are split into heads with the head index running fastest"
        yield _of(context, step, "heads fastest", text, fastest, 1.0, "split-layout")
    if result.ndim == given.ndim + 1 and result.ndim == 4:

        def flat(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            batch, length, heads, size = step.values[0].shape
            return value.reshape(batch, heads, length, size).transpose(1, 2)

        text = "heads are cut out by a view, without exchanging tokens and heads"
        yield _of(context, step, "view for transpose", text, flat, 1.0, "split-layout")
    if result.ndim == given.ndim - 1 and given.ndim == 4:

        def joined(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            return value.transpose(1, 2).reshape(step.values[0].shape)

        text = "heads are joined without exchanging tokens and heads back"
        yield _of(context, step, "joined without transpose", text, joined, 1.0, "split-layout")

        def fastest_joined(playing: Playing, step: Step) -> Tensor:
            value: Tensor = playing.given(step)[0][0]
            return value.transpose(-1, -2).reshape(step.values[0].shape)

        text = "heads are joined with the head index running fastest"
        yield _of(context, step, "joined heads fastest", text, fastest_joined, 1.0, "split-layout")


def _parts(context: Context, step: Step) -> Iterator[Mutation]:
    """Parts of a fused value taken in another order, or read as if they were interleaved."""
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
    sizes = {tuple(value.shape) for value in step.values}
    if len(sizes) == 1 and count > 1:

        def interleaved(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0]
            parts: tuple[Tensor, ...] = value.reshape(*value.shape[:-1], -1, count).unbind(-1)
            return parts

        heads = int(context.numbers.get("num_attention_heads") or context.numbers.get("n_head") or 1)

        def per_head(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            value: Tensor = playing.given(step)[0][0]
            return tuple(part.flatten(-2) for part in value.reshape(*value.shape[:-1], heads, -1).chunk(count, -1))

        for name, text, edit in (
            ("interleaved", "the fused value were interleaved feature by feature", interleaved),
            ("per head", "the fused value were laid out head by head", per_head),
        ):
            yield Mutation(cause, f"{step.name} {name}", f"behaves as if {text}", {step.number: edit}, step.number)


def _repeated(context: Context, step: Step) -> Iterator[Mutation]:
    """A table of two equal halves, laid out in pairs of neighbours."""
    parts = step.arguments[0]
    if isinstance(parts, tuple | list) and len(parts) == 2 and parts[0] == parts[1]:

        def change(playing: Playing, step: Step) -> Tensor:
            return playing.value(parts[0], step).repeat_interleave(2, -1)

        text = "the table were laid out for pairs of neighbours, not for halves"
        yield _of(context, step, "repeated by twos", text, change, 1.0, "rope-pairing")


def _cat_reversed(playing: Playing, step: Step) -> Tensor:
    arguments, keywords = playing.given(step)
    return playing.compute(step, type(arguments[0])(reversed(arguments[0])), *arguments[1:], **keywords)[0]


def _shifted(context: Context, step: Step) -> Iterator[Mutation]:
    """A limit one further or one nearer, or none at all."""

    def change(playing: Playing, step: Step, by: int) -> Tensor:
        arguments, _ = playing.given(step)
        return playing.compute(step, arguments[0], arguments[1] + by)[0]

    for by in (1, -1):
        text = f"the limit of a comparison lay {abs(by)} {'further' if by > 0 else 'nearer'}"
        yield _of(context, step, f"limit {by:+d}", text, partial(change, by=by), 1.0)
    text = "a limit is left out: everything is let through"
    yield _of(context, step, "no limit", text, lambda playing, step: torch.ones_like(step.values[0]), 1.0)


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

    yield _of(context, step, "cap left out", "the soft cap is left out", bare, 0.9, "softcap")
    yield _of(context, step, "x * tanh", "the soft cap multiplied x by its tanh", times, 1.0, "softcap")
    yield _of(context, step, "clamp", "the cap were hard", clamped, 1.0, "softcap")
    if isinstance(step.arguments[1], int | float):
        cap = float(step.arguments[1])
        text = "the soft cap is not multiplied back"
        yield _of(context, step, "not multiplied", text, lambda p, s: torch.tanh(bare(p, s) / cap), 0.95, "softcap")
        text = "the soft cap does not divide first"
        yield _of(context, step, "not divided", text, lambda p, s: torch.tanh(bare(p, s)) * cap, 0.95, "softcap")


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

        yield _of(context, step, f"soft cap {cap:g}", f"a soft cap of {cap:g} were applied", change, 1.0, "softcap")


def _masks(context: Context, step: Step) -> Iterator[Mutation]:
    """Hidden scores that are not hidden: set to zero, or struck out only after the softmax."""
    masks = [at for at, ref in enumerate(step.arguments[:2]) if isinstance(ref, Ref) and _is_mask(context, ref)]
    if len(masks) != 1:
        return
    at = masks[0]

    def zero(playing: Playing, step: Step) -> Tensor:
        arguments, _ = playing.given(step)
        result: Tensor = arguments[1 - at].masked_fill(arguments[at] < 0, 0.0)
        return result

    yield _of(
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


def _compare(playing: Playing, step: Step) -> Tensor:
    arguments, _ = playing.given(step)
    return _COMPARISONS[step.name](*arguments[:2])


def _softmax_over_queries(playing: Playing, step: Step) -> Tensor:
    value: Tensor = playing.given(step)[0][0]
    return value.softmax(-2)


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
            cause = "residual-topology" if role in (Role.layer, Role.model) else _cause(context, step, "rewired")
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


def _cause(context: Context, step: Step, name: str) -> str:
    role = context.place(step).role
    if role == Role.mask or "mask" in name:
        return "attention-mask"
    return {
        Role.embedding: "embed-scale", Role.positions: "position-ids", Role.norm: "norm-eps",
        Role.final_norm: "norm-eps", Role.qk_norm: "norm-eps",
        Role.frequencies: "rope-scaling-details", Role.rope: "rope-pairing", Role.repeat: "gqa-repeat",
        Role.window: "window-off-by-one" if name == "comparison" else "window-pattern",
        Role.attention: "attention-mask" if step.name in ("add", "sub") else "softmax-scale",
        Role.activation: "activation", Role.mlp: "gate-up-order", Role.router: "router-selection",
        Role.experts: "moe-combine", Role.layer: "residual-topology", Role.head: "softcap",
        Role.model: "residual-topology", Role.recurrent: "ssm-delta-math",
    }.get(role, "unknown")  # fmt: skip
