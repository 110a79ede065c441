"""What part of a model an operation belongs to, told by what the reference calls its modules and functions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from parity.explain.trace import Step


class Role(StrEnum):
    """Parts of a decoder-only language model."""

    embedding = "embedding"
    positions = "positions"
    norm = "norm"
    qk_norm = "q/k norm"
    final_norm = "final norm"
    gated_norm = "gated norm"
    frequencies = "rope frequencies"
    rope = "rope"
    attention = "attention"
    repeat = "kv repeat"
    mask = "mask"
    window = "window"
    activation = "activation"
    mlp = "mlp"
    router = "router"
    experts = "experts"
    recurrent = "recurrence"
    layer = "layer"
    head = "head"
    model = "model"


@dataclass(frozen=True)
class Place:
    """Where an operation stands: its role, module and function."""

    role: Role
    module: str
    function: str


_FUNCTIONS = (
    (re.compile(r"repeat_kv|repeat_interleave"), Role.repeat),
    (re.compile(r"apply_rot|rotate_half|apply_rope|rotary_pos"), Role.rope),
    (re.compile(r"rope_param|compute_.*rope|inv_freq"), Role.frequencies),
    (re.compile(r"sliding|window|inner_mask|chunked"), Role.window),
    (re.compile(r"mask"), Role.mask),
)
_FINAL = re.compile(r"norm|norm_f|ln_f|\w*final\w*", re.I)
_RECURRENT = re.compile(r"Mamba|Delta|SSM|Mixer2", re.I)
_CLASSES = (
    (re.compile(r"Rotary|Rope"), Role.frequencies),
    (re.compile(r"Indexer"), Role.mask),
    (re.compile(r"Router|Gate$|TopK", re.I), Role.router),
    (re.compile(r"Expert|MoE$|Sparse\w*Block$", re.I), Role.experts),
    (_RECURRENT, Role.recurrent),
    (re.compile(r"Attention", re.I), Role.attention),
    (re.compile(r"MLP|FeedForward|MoE", re.I), Role.mlp),
    (re.compile(r"Layer$|Block$"), Role.layer),
)


def place(step: Step, classes: Mapping[str, str], root_head: str = "lm_head") -> Place:
    """The place of a step.

    Args:
        step: of the reference's tape.
        classes: module name -> class name.
        root_head: the module after which the model scales or caps its logits.
    """
    function = next((frame.code.co_name for frame in step.frames), "")
    names = [frame.code.co_name for frame in step.frames]
    if any("rope" in PurePath(frame.file).stem for frame in step.frames[:2]):
        names.insert(0, "inv_freq")  # a file of nothing but rope's frequencies
    module = step.module
    return Place(_role(module, names, classes, root_head), module, function)


def _role(module: str, functions: list[str], classes: Mapping[str, str], root_head: str) -> Role:  # noqa: PLR0911 (cases)
    for function in functions[:4]:
        for pattern, role in _FUNCTIONS:
            if pattern.search(function):
                return role
    kind = classes.get(module, "")
    last = module.rpartition(".")[2]
    if "Norm" in kind or "norm" in last:
        outer = classes.get(module.rpartition(".")[0], "")
        if "Attention" in outer or "Indexer" in outer:
            return Role.qk_norm
        if "Gated" in kind or _RECURRENT.search(outer):
            return Role.gated_norm
        return Role.final_norm if _FINAL.fullmatch(last) and not re.search(r"\.\d+\.", module) else Role.norm
    if last == root_head:
        return Role.head
    if "Embedding" in kind and "Rotary" not in kind:
        return Role.positions if re.search(r"wpe|pos", last) else Role.embedding
    if re.search(r"^act|act_fn$", last) or re.search(r"Activation|GELU|SiLU|ReLU", kind):
        return Role.activation
    for pattern, role in _CLASSES:
        if pattern.search(kind):
            return role
    return Role.model if module else Role.head


def role_of(module: str, classes: Mapping[str, str]) -> Role:
    """The part of the model that a module is."""
    return _role(module, [], classes, "lm_head")
