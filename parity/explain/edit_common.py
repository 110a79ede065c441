"""How a mutation of a single operation is put together, and what it stands for."""

from collections.abc import Callable

from torch import Tensor

from parity.explain.mutations import Context, Mutation
from parity.explain.play import Edit, Playing
from parity.explain.roles import Role
from parity.explain.trace import Step

GATES = ("sigmoid", "nn.functional.sigmoid", "nn.functional.silu", "silu")
_ROUTER = 60  # operations of a router, at most
Change = Callable[[Playing, Step], Tensor]


def mutation_of(
    context: Context, step: Step, name: str, text: str, change: Change, weight: float, cause: str = ""
) -> Mutation:
    """One changed operation as a mutation; a text that says "left out" is of something that is not done."""

    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        return (change(playing, step),)

    edit_: Edit = edit
    cause = cause or cause_at(context, step, name)
    said, omits = f"behaves as if {text}", "left out" in text
    return Mutation(cause, f"{step.name} {name}", said, {step.number: edit_}, step.number, weight, omits)


def cause_at(context: Context, step: Step, name: str) -> str:
    """The cause that a change of an operation stands for where nothing more is known of it."""
    role = context.place(step).role
    if role == Role.attention and step.name in GATES:
        return "activation"
    if role == Role.mask or ("mask" in name and role != Role.router):
        return "attention-mask"
    if role == Role.mlp and _sums_experts(context, step):
        return "moe-combine"
    if role == Role.router and step.name in ("mul", "mul_") and _has_chosen(context, step):
        return "moe-combine"
    return {
        Role.embedding: "embed-scale", Role.positions: "position-ids", Role.norm: "norm-eps",
        Role.final_norm: "norm-eps", Role.qk_norm: "norm-eps",
        Role.frequencies: "rope-scaling-details", Role.rope: "rope-pairing", Role.repeat: "gqa-repeat",
        Role.window: "window-off-by-one" if name == "comparison" else "window-pattern",
        Role.attention: "attention-mask" if step.name in ("add", "sub") else "softmax-scale",
        Role.activation: "activation", Role.mlp: "gate-up-order", Role.router: "router-selection",
        Role.experts: "moe-combine", Role.layer: "residual-topology", Role.head: "softcap",
        Role.model: "residual-topology", Role.recurrent: "ssm-delta-math",
        Role.gated_norm: "ssm-gated-norm",
    }.get(role, "unknown")  # fmt: skip


def _has_chosen(context: Context, step: Step) -> bool:
    """Whether a router has picked its experts before an operation, which then has to do with their shares alone."""
    call = step.modules[:1]
    before = context.tape.steps[max(0, step.number - _ROUTER) : step.number]
    return any(other.name == "topk" and other.modules[:1] == call for other in before)


def _sums_experts(context: Context, step: Step) -> bool:
    """Whether an operation stands beside experts, not in one of them."""
    from parity.explain.edit_experts import has_experts

    return has_experts(context, step.module)
