"""Mutations of norms: where the eps goes, what is averaged, how the weight is taken."""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from parity.explain.edit_common import Change, mutation_of
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step

Variant = Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]


def norm_offset(context: Context, step: Step) -> Iterator[Mutation]:
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
            yield mutation_of(context, step, "weight + 1", text, change, 1.0, "norm-offset")


def _of_width(context: Context, step: Step) -> str:
    return "ssm-gated-norm" if context.place(step).role == Role.gated_norm else "qknorm-missing-or-width"


def layer_norm(context: Context, step: Step) -> Iterator[Mutation]:
    """What authors make of torch's own layer norm."""

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
        "rms without bias": ("norm-eps", lambda x, w, b, e: scaled(normed(x, e, centre=False), w, None)),
        "eps outside": ("norm-eps", lambda x, w, b, e: scaled(normed(x, e, outside=True), w, b)),
        "unbiased variance": ("norm-eps", lambda x, w, b, e: scaled(normed(x, e, unbiased=True), w, b)),
        "bias left out": ("bias-dropped", lambda x, w, b, e: scaled(normed(x, e), w, None)),
        "weight and bias left out": ("norm-offset", lambda x, w, b, e: normed(x, e)),
        "weight left out": ("norm-offset", lambda x, w, b, e: scaled(normed(x, e), None, b)),
        "weight + 1": ("norm-offset", lambda x, w, b, e: scaled(normed(x, e), None if w is None else 1 + w, b)),
    }
    for name, (cause, norm) in variants.items():
        yield mutation_of(context, step, name, f"the norm: {name}", partial(change, norm=norm), 1.0, cause)


def _of_each_head(context: Context, step: Step) -> Iterator[Mutation]:
    """A norm over all heads, taken over each by itself."""
    width = context.tape.value(step.arguments[0]).shape[-1]
    numbers = {int(number) for name, number in context.numbers.items() if "head" in name and number == int(number)}
    sizes = numbers | {width // number for number in numbers if number > 1 and width % number == 0}
    for size in sorted(size for size in sizes if 1 < size < width and width % size == 0):

        def narrow(playing: Playing, step: Step, size: int = size) -> Tensor:
            given: Tensor = playing.given(step)[0][0]
            heads = given.reshape(*given.shape[:-1], -1, size)
            result: Tensor = heads.mean(-1, keepdim=True).expand_as(heads).flatten(-2)
            return result

        text = f"heads were normalised each by itself, {size} features, not together"
        yield mutation_of(context, step, f"in heads of {size}", text, narrow, 1.0, "qknorm-missing-or-width")


def eps_outside(context: Context) -> Change:
    """The eps added to the root, not under it."""

    def change(playing: Playing, step: Step) -> Tensor:
        inner = context.producer(step.arguments[0])
        number = inner.arguments[1] if len(inner.arguments) > 1 else 0.0
        square = playing.value(inner.arguments[0], inner)
        eps = playing.value(number, inner) if isinstance(number, Ref) else number
        result: Tensor = 1.0 / (square.sqrt() + eps)
        return result

    return change


def mean(context: Context, step: Step) -> Iterator[Mutation]:
    """A norm over all heads at once, or one that centres first."""
    value = context.tape.value(step.arguments[0])
    if value.ndim == 4:
        for axis in (1, 2):

            def wide(playing: Playing, step: Step, axis: int = axis) -> Tensor:
                given: Tensor = playing.given(step)[0][0]
                return given.mean((axis, -1), keepdim=True).expand_as(step.values[0])

            text = "heads are normalised together, not each by itself"
            yield mutation_of(context, step, f"over axis {axis}", text, wide, 1.0, _of_width(context, step))

    if value.ndim == 3 and context.place(step).role == Role.qk_norm:
        yield from _of_each_head(context, step)

    def total(playing: Playing, step: Step) -> Tensor:
        arguments, keywords = playing.given(step)
        result: Tensor = arguments[0].sum(*arguments[1:], **keywords)
        return result

    yield mutation_of(context, step, "sum", "the norm takes the sum of squares, not their mean", total, 1.0)
    inner = context.producer(step.arguments[0])
    if inner.name in ("pow", "square") and "orm" in context.place(step).role:

        def centred(playing: Playing, step: Step) -> Tensor:
            x = playing.value(inner.arguments[0], inner)
            arguments, keywords = playing.given(step)
            result: Tensor = (x - x.mean(-1, keepdim=True)).pow(2).mean(*arguments[1:], **keywords)
            return result

        yield mutation_of(
            context, step, "centred", "the norm takes the variance, not the mean square", centred, 1.0, "norm-eps"
        )
