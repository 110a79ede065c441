"""The causes that Parity knows by name, and where each can occur: what a reference must have for it to go wrong."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GROUPED, SQUARE = "fewer key/value heads", "a square matrix"

_ROPE = r"^rope_parameters|^rope_theta"
_SCALED_ROPE = r"rope_type=(?!default)"
_EXPERTS = r"^(num_experts|n_routed_experts|num_local_experts|num_experts_per_tok|top_k_experts)="
_WINDOW = r"^sliding_window="
_RECURRENT = r"^(linear_|ssm_|mamba_|conv_kernel)"


@dataclass(frozen=True)
class Cause:
    """One cause.

    trait: what a reference must have, as a pattern that a field (`name=value`, unless it is off), a parameter or a
    class is searched for; empty where every model has it. elsewhere: why one full forward in float64 cannot show it.
    partly: what of it belongs to other stages, where the rest shows in a full forward.
    """

    code: str
    trait: str = ""
    elsewhere: str = ""
    partly: str = ""

    def fits(self, words: Iterable[str]) -> bool:
        """Whether a reference with these words has what can go wrong."""
        return not self.trait or any(re.search(self.trait, word) for word in words)


def words(settings: Mapping[str, Any], classes: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """What causes are looked up in: fields that are on, names of classes and of tensors, what their shapes say.

    Args:
        settings: every field, inner ones after dots.
        classes: of the reference's modules.
        shapes: of its stored tensors, by name.
    """
    found = {f"{name}={value}" for name, value in settings.items() if value not in (None, False, 0, [], {}, "")}
    found |= {*classes, *shapes}
    heads = settings.get("num_attention_heads")
    if any(name.startswith("num_key_value") and value != heads for name, value in settings.items()):
        found.add(GROUPED)
    if any(len(shape) == 2 and shape[0] == shape[1] for shape in shapes.values()):
        found.add(SQUARE)
    return frozenset(found)


_CACHE = "only in decoding: stage cache"
_LOW = "only in lower precision: stage precision"
_PADDED = "only in a padded batch: stage batch"

CAUSES: tuple[Cause, ...] = (
    Cause("head-dim-config"),
    Cause("embed-scale", r"embedding_multiplier=|scale_embedding=|ScaledWordEmbedding"),
    Cause("input-tokens", elsewhere="before the network: tokenizer and chat template"),
    Cause("window-off-by-one", _WINDOW),
    Cause("window-pattern", _WINDOW),
    Cause("swa-cache", elsewhere=_CACHE),
    Cause("attention-mask", partly=_PADDED),
    Cause("activation"),
    Cause("gate-up-order", r"gate_proj|gate_up|up_proj"),
    Cause("moe-combine", _EXPERTS),
    Cause("router-norm-topk", _EXPERTS),
    Cause("router-dtype", elsewhere=_LOW),
    Cause("router-selection", _EXPERTS),
    Cause("norm-eps"),
    Cause("qknorm-missing-or-width", r"[qk]_norm|qk_norm|[qk]_layernorm|(query|key)_layernorm"),
    Cause("cast-order", elsewhere=_LOW),
    Cause("norm-offset"),
    Cause("qknorm-order", r"[qk]_norm|qk_norm|[qk]_layernorm|(query|key)_layernorm"),
    Cause("position-ids", partly=f"{_CACHE}; {_PADDED}"),
    Cause("alibi", r"alibi="),
    Cause("residual-topology"),
    Cause("scalar-multipliers", r"multiplier=|logits?_scal\w*=|layer_scalar|residual_scale"),
    Cause("final-norm"),
    Cause("layer-wiring"),
    Cause("rope-pairing", _ROPE),
    Cause("rope-scaling-dropped", _SCALED_ROPE),
    Cause("partial-rotary", _ROPE),
    Cause("rope-layer-type", r"^rope_parameters\.\w+\.|rope_local_base_freq="),
    Cause("rope-scaling-details", _SCALED_ROPE),
    Cause("rope-theta-config", _ROPE),
    Cause("nope-and-temperature", _ROPE),
    Cause("rope-precision", elsewhere=_LOW),
    Cause("rope-axis-or-twice", _ROPE),
    Cause("softmax-scale"),
    Cause("softcap", r"softcap\w*="),
    Cause("mla-yarn-mscale", r"mscale"),
    Cause("sinks", r"sinks?$"),
    Cause("ssm-delta-math", _RECURRENT),
    Cause("ssm-gated-norm", _RECURRENT),
    Cause("ssm-state", elsewhere=_CACHE),
    Cause("split-layout"),
    Cause("gqa-repeat", GROUPED),
    Cause("bias-dropped", r"\.bias$"),
    Cause("tied-head", r"tie_word_embeddings="),
    Cause("weights-silently-missing"),
    Cause("weight-transposed", SQUARE),
    Cause("weights-misplaced"),
    Cause("kv-cache", elsewhere=_CACHE),
    Cause("gradient-blocked", elsewhere="only in training: stage gradient"),
)
