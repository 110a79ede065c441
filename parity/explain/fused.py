"""Values that an operation of torch's own works out on the way, and that an author may work out step by step."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from parity.explain.trace import Ref, Step, Tape


def within(tape: Tape, step: Step) -> list[Tensor]:
    """What a layer norm, an activation or a softmax of torch's computes before its result; empty for others."""
    work = _FUSED.get(step.name)
    given = step.arguments[0] if step.arguments else None
    if work is None or not isinstance(given, Ref):
        return []
    return work(tape, step, tape.value(given))


def _layer_norm(tape: Tape, step: Step, x: Tensor) -> list[Tensor]:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = dict(zip(names, step.arguments, strict=False)) | dict(step.keywords)
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    raised = variance + given.get("eps", 1e-5)
    normed = centred * raised.rsqrt()
    weight = given.get("weight")
    scaled = [normed * tape.value(weight)] if isinstance(weight, Ref) else []
    moments = [x.mean(-1, keepdim=True), centred, centred.pow(2), variance]
    return [*moments, raised, raised.sqrt(), raised.rsqrt(), normed, *scaled]


def _gelu(tape: Tape, step: Step, x: Tensor) -> list[Tensor]:
    if step.keywords.get("approximate") == "tanh":
        cube = x.pow(3)
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * cube)
        return [x * x, cube, 0.044715 * cube, x + 0.044715 * cube, inner, inner.tanh(), 1 + inner.tanh(), 0.5 * x]
    inner = torch.erf(x / math.sqrt(2))
    return [x / math.sqrt(2), inner, 1 + inner, 0.5 * x]


def _silu(tape: Tape, step: Step, x: Tensor) -> list[Tensor]:
    return [x.sigmoid(), (-x).exp(), 1 + (-x).exp()]


_FUSED: Mapping[str, Callable[[Tape, Step, Tensor], list[Tensor]]] = {
    "nn.functional.layer_norm": _layer_norm,
    "nn.functional.gelu": _gelu,
    "nn.functional.silu": _silu,
}
