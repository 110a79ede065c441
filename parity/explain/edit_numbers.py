"""Mutations of numbers: constants in the reference's operations nudged, dropped, or set to what is near at hand."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from parity.explain.config_mutations import cause_of
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Edit, Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step

_ARITHMETIC = {
    "mul", "add", "sub", "div", "truediv", "true_divide", "pow", "rsub", "gt", "ge", "lt", "le", "eq", "ne",
    "remainder",
    "floor_divide", "__rsub__", "__rpow__", "__rtruediv__", "__rdiv__", "__pow__", "__mul__", "__add__", "__sub__",
    "__truediv__", "__radd__", "__rmul__", "clamp", "clamp_min", "clamp_max", "float_power", "reciprocal", "multiply",
    "divide", "subtract", "rpow", "full", "arange", "nn.functional.layer_norm", "nn.functional.rms_norm", "topk",
    "tril", "triu", "tensor", "masked_fill",
}  # fmt: skip
_FACTORS = {"mul", "div", "truediv", "__truediv__", "__mul__", "pow", "multiply", "divide"}
_SUMMANDS = {"add", "sub", "__add__", "__sub__"}
_EPS = 1e-3
_LARGE = 1e3
_NORMS = (Role.norm, Role.final_norm, Role.qk_norm, Role.gated_norm)
_COMMON = {"eps": (1e-5, 1e-6, 1e-8, 1e-12, 0.0, 2.220446049250313e-16, 1.1920928955078125e-07)}
_BASES = (10_000.0, 500_000.0, 1_000_000.0)


_IN_PLACE = {
    "__itruediv__": "div", "__idiv__": "div", "__imul__": "mul", "__iadd__": "add", "__isub__": "sub", "mul_": "mul",
    "div_": "div", "add_": "add", "sub_": "sub", "__ipow__": "pow", "pow_": "pow",
}  # fmt: skip


def propose(context: Context, step: Step) -> Iterator[Mutation]:
    """Other values for each number that a step is given, as an argument or as a tensor of one element."""
    if _IN_PLACE.get(step.name, step.name) not in _ARITHMETIC:
        return
    for at, argument in enumerate(step.arguments):
        value = _number(context, argument)
        if value is None or (step.name == "arange" and len(step.arguments) == 1):
            continue
        for other in _others(context, step, value):
            yield _mutation(context, step, at, value, other)
    for name in ("eps", "k"):
        if isinstance(step.keywords.get(name), float | int):
            for other in _others(context, step, step.keywords[name]):
                yield _mutation(context, step, name, step.keywords[name], other)


def _number(context: Context, argument: Any) -> float | None:
    if isinstance(argument, bool):
        return None
    if isinstance(argument, int | float):
        return argument
    if isinstance(argument, Ref):
        value = context.tape.value(argument)
        if value.numel() == 1 and value.is_floating_point():
            return float(value)
    return None


def _mutation(context: Context, step: Step, at: int | str, value: float, other: float) -> Mutation:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        arguments, keywords = playing.given(step)
        if isinstance(at, str):
            keywords[at] = other
        else:
            old = arguments[at]
            new = old.new_tensor(other) if isinstance(old, Tensor) else other
            arguments = (*arguments[:at], new, *arguments[at + 1 :])
        return playing.compute(step, *arguments, **keywords)

    edit_: Edit = edit
    field = _field(context, value)
    cause, text = _worded(context, step, at, value, other, field)
    likely = _likelihood(context, value, other, field)
    name = f"{step.name} {value:.6g} -> {other:.6g}"
    neutral = (other == 1 and step.name in _FACTORS) or (other == 0 and step.name in _SUMMANDS)
    edits = {step.number: edit_}
    return Mutation(cause, name, text, edits, step.number, likely, neutral, float(value), instead=float(other))


def _others(context: Context, step: Step, value: float) -> list[float]:
    """Values that a slip could put in the place of one."""
    if step.name == "masked_fill":
        return [0.0, -1.0, 1.0] if value not in (0.0, 1.0) and abs(value) > _LARGE else []
    whole = isinstance(value, int)
    role = context.place(step).role
    if whole and role in (Role.window, Role.mask) and step.name in ("sub", "add", "gt", "ge", "lt", "le"):
        candidates = [value + 1, value - 1, value + 2, value // 2, value * 2, 1 << 20]
    elif 0 < value <= _EPS:
        candidates = [value * 10, value / 10, value * 100, value / 100, *_COMMON["eps"]]
    elif step.name in ("arange", "tril", "triu", "topk"):
        candidates = [value + 1, value - 1, value * 2, 0]
    else:
        candidates = [1, 0, 2 * value, value / 2, -value]
        exponent = step.name in ("pow", "float_power")
        candidates += [value + 1, value - 1, 10 * value] if whole or exponent or role == Role.frequencies else []
        candidates += [math.sqrt(value), value**-0.5, 1 / value, value * value] if value > 0 else []
        if role in (Role.frequencies, Role.rope):
            given = [number for number in context.numbers.values() if isinstance(number, float) and number >= 1]
            candidates += [*given, *(1 / number for number in given)]
            candidates += _BASES if value > 1000 else ()
        elif role not in (*_NORMS, Role.repeat) and step.name != "pow":
            candidates += context.derived
        if role in (Role.attention, Role.frequencies):
            growths = _growths(context)
            candidates += [value * growth for growth in growths]
            candidates += [other * growth for other in context.derived for growth in growths] if value < 1 else []
    if step.name not in ("pow", "topk", "arange"):
        candidates += [*context.at_hand, *(1 / number for number in context.at_hand if number)]
    own = {value}
    return [other for other in dict.fromkeys(candidates) if other not in own and not (whole and other != int(other))]


def _growths(context: Context) -> list[float]:
    """Factors by which attention is sharpened for stretched positions, and what a slip makes of them."""
    factors = [number for name, number in context.numbers.items() if name.endswith("factor") and number > 1]
    scales = [number for name, number in context.numbers.items() if "mscale" in name]
    if not scales:
        return []
    grown = {0.1 * scale * math.log(factor) + 1.0 for factor in factors for scale in (*scales, 1.0)}
    powers = (1, 2, 4, -1, -2)
    ratios = [first / second for first in grown for second in grown if first != second]
    return [growth**power for growth in (*grown, *ratios) for power in powers]


def _is_growth(context: Context, value: float, other: float) -> bool:
    ratio = other / value if value else 0.0
    return any(math.isclose(ratio, growth, rel_tol=1e-9) for growth in _growths(context))


def _field(context: Context, value: float) -> str:
    """The one field of the config that has this value, if it is a telling one."""
    if value in (0, 1, 2, -1):
        return ""
    names = [name for name, number in context.numbers.items() if number == value]
    return names[0] if len(names) == 1 else ""


def _likelihood(context: Context, value: float, other: float, field: str) -> float:
    """Lighter for what a slip makes of a number: dropping it, or taking another one of the config."""
    if field:
        return 0.9 if other in context.at_hand else 0.92
    if other in (0, 1):
        return 1.0
    if other in context.numbers.values() or other in (value + 1, value - 1):
        return 1.05
    return 1.1


def _worded(context: Context, step: Step, at: int | str, value: float, other: float, field: str) -> tuple[str, str]:
    """The cause that a changed number stands for, and what to say."""
    said = f"behaves as if {_said(step, at)} {value:.6g} were {other:.6g}"
    if field:
        said = f"behaves as if `{field}` were {other:.6g} (config: {value:.6g})"
    return _cause(context, step, value, other, field), said


def _said(step: Step, at: int | str) -> str:
    return {
        "mul": "the factor", "div": "the divisor", "add": "the summand", "sub": "the subtrahend", "pow": "the power",
        "__rpow__": "the base", "truediv": "the divisor",
    }.get(step.name, f"the {at if isinstance(at, str) else 'number'} of {step.name}")  # fmt: skip


def _cause(context: Context, step: Step, value: float, other: float, field: str) -> str:  # noqa: PLR0911 (cases)
    role = context.place(step).role
    if role in (Role.attention, Role.frequencies) and _is_growth(context, value, other):
        return "mla-yarn-mscale"
    if 0 < value <= _EPS and role in _NORMS:
        return "norm-eps"
    if step.name in ("nn.functional.layer_norm", "nn.functional.rms_norm"):
        return "norm-eps"
    if role in _NORMS:
        return "norm-offset" if step.name in ("add", "__radd__", "sub") else "norm-eps"
    if role in (Role.frequencies, Role.rope):
        return _rope_cause(context, step, value, other, field)
    if role == Role.window:
        return "window-off-by-one" if abs(other - value) <= 2 else "window-pattern"
    by_role = {
        Role.embedding: "embed-scale", Role.attention: "softmax-scale", Role.mask: "attention-mask",
        Role.activation: "activation", Role.router: "router-norm-topk", Role.experts: "moe-combine",
        Role.mlp: "moe-combine", Role.positions: "position-ids", Role.head: "scalar-multipliers",
        Role.recurrent: "ssm-delta-math", Role.layer: "scalar-multipliers", Role.model: "position-ids",
        Role.repeat: "gqa-repeat",
    }  # fmt: skip
    if role == Role.model and step.name in ("mul", "div"):
        taken = {context.place(context.maker(ref)).role for ref in step.inputs}
        return "embed-scale" if Role.embedding in taken else "scalar-multipliers"
    if role == Role.head and "cap" in field:
        return "softcap"
    if role == Role.router:
        return _router_cause(step, field)
    return by_role.get(role, "unknown")


def _router_cause(step: Step, field: str) -> str:
    """How many are picked, what is hidden, a factor on all shares, or how they are normalised."""
    if step.name == "topk" or step.name.startswith("masked_fill"):
        return "router-selection"
    known = cause_of(field) if field else ""
    if known in ("router-selection", "moe-combine"):
        return known
    return "moe-combine" if _IN_PLACE.get(step.name, step.name) == "mul" else "router-norm-topk"


def _rope_cause(context: Context, step: Step, value: float, other: float, field: str) -> str:
    name = _IN_PLACE.get(step.name, step.name)
    thetas = {number for name, number in context.numbers.items() if "theta" in name or "base_freq" in name}
    if value in thetas or field.endswith("rope_theta"):
        return "rope-layer-type" if other in thetas else "rope-theta-config"
    if step.name in ("pow", "__rpow__", "rpow"):
        return "rope-theta-config"
    if "arange" in step.name or (step.name in ("div", "truediv") and {value, other} & _widths(context)):
        return "partial-rotary"
    if step.name == "__rtruediv__" and other not in (0, 1) and 1 / other in _factors(context):
        return "rope-layer-type"
    if "factor" in field or name in ("div", "mul", "truediv", "__rtruediv__"):
        alone = sum(value in other_step.arguments for other_step in context.tape.steps) == 1
        whole = value in _factors(context) and alone
        return "rope-scaling-dropped" if other == 1 and whole else "rope-scaling-details"
    return "rope-scaling-details"


def _widths(context: Context) -> set[float]:
    """Widths of a head, told by the config or worked out from it."""
    named = {number for name, number in context.numbers.items() if "head_dim" in name}
    heads = context.numbers.get("num_attention_heads") or context.numbers.get("n_head") or 1
    hidden = context.numbers.get("hidden_size") or context.numbers.get("n_embd") or 0
    return named | {hidden // heads}


def _factors(context: Context) -> set[float]:
    return {number for name, number in context.numbers.items() if name.endswith("factor")}
