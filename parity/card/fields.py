"""Reading a config's fields by what they mean: configs give one thing several names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from parity.errors import ParityError

FULL, SLIDING, LATENT, LINEAR, STATE_SPACE, NONE = "full", "sliding", "latent", "linear", "state_space", "none"
STRANGE = "strange"  # something that mixes tokens in a way that nobody knows

# What a quantity is called, the likeliest name first.
NAMES: dict[str, tuple[str, ...]] = {
    "vocab": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "n_kv_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "kv_channels", "head_size"),
    "inner": ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "d_ff"),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "experts": ("num_experts", "n_routed_experts", "num_local_experts"),
    "per_token": ("num_experts_per_tok", "top_k_experts", "moe_topk", "num_experts_per_token"),
    "expert_inner": ("moe_intermediate_size", "expert_intermediate_size"),
    "shared_experts": ("n_shared_experts", "num_shared_experts"),
    "shared_inner": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    "window": ("sliding_window",),
    "activation": ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"),
    "eps": ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps"),
}
_COUNTS = (
    "vocab",
    "hidden",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "inner",
    "experts",
    "per_token",
    "expert_inner",
)
_KINDS = {
    "full_attention": FULL, "attention": FULL, "*": FULL, "sliding_attention": SLIDING, "chunked_attention": SLIDING,
    "indexed_attention": FULL, "linear_attention": LINEAR, "mamba": STATE_SPACE, "mamba2": STATE_SPACE,
    "M": STATE_SPACE, "moe": NONE, "E": NONE, "mlp": NONE, "-": NONE,
}  # fmt: skip
_FFN_ONLY = {"moe": "experts", "E": "experts", "mlp": "dense", "-": "dense"}
_TABLES = ("layer_types", "layers_block_type")
_PATTERN = "hybrid_override_pattern"
_SIZES = re.compile(r"(_size|_dim|_heads?|_rank|_layers?|_experts|_groups?|_topk|_kernel|sliding_window)$")
_MANY = 10_000  # layers


class Fields:
    """A config's fields, asked for by what they mean.

    settings: every field under the class's own names with its defaults, or the bare config; given: config.json as it
    is, for what a class renames.
    """

    def __init__(self, settings: Mapping[str, Any], given: Mapping[str, Any]):
        self.all: Mapping[str, Any] = {**given, **settings}

    def name(self, quantity: str) -> str | None:
        """The field that holds a quantity, if one does."""
        return next((name for name in NAMES[quantity] if self.all.get(name) is not None), None)

    def get(self, quantity: str) -> Any:
        """Its value; None if there is none."""
        name = self.name(quantity)
        return None if name is None else self.all[name]

    def number(self, quantity: str) -> int | None:
        """A count; None if there is none."""
        value = self.get(quantity)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def on(self, name: str) -> bool:
        """Whether a flag is set."""
        return bool(self.all.get(name))

    def count(self, name: str) -> int:
        """A field of this very name as a number; 0 if it is not there."""
        value = self.all.get(name)
        return value if isinstance(value, int) else 0

    def of_layer(self, layer: int, name: str) -> Any:
        """What the config gives for a single layer; None if it gives nothing."""
        by_layer = self.all.get("per_layer_config")
        if not isinstance(by_layer, Mapping):
            return None
        values = next((each for key, each in by_layer.items() if str(key).isdigit() and int(key) == layer), None)
        return values.get(name) if isinstance(values, Mapping) else None

    @property
    def depth(self) -> int:
        """How many layers there are; 0 if the config does not say."""
        return self.number("layers") or len(self.kinds_given() or ())

    def kinds_given(self) -> Sequence[str] | None:
        """What each layer is, in the config's words; None if it does not list them."""
        for name in _TABLES:
            value = self.all.get(name)
            if isinstance(value, list | tuple) and value:
                return [str(each) for each in value]
        value = self.all.get(_PATTERN)
        return list(value) if isinstance(value, str) and value else None


def mixer_kind(word: str) -> str | None:
    """What mixes tokens in a layer that a config calls this; None for a word that is not known."""
    return _KINDS.get(word)


def only_ffn(word: str) -> str | None:
    """`dense` or `experts` for a layer that is nothing but that; None for others."""
    return _FFN_ONLY.get(word)


def is_pattern(fields: Fields) -> bool:
    """Whether a layer is one thing only: a mixer or a feed-forward part, never both."""
    words = fields.kinds_given() or ()
    return any(word in _FFN_ONLY for word in words)


def check(fields: Fields) -> None:
    """Hold the fields against each other.

    Raises:
        ParityError: they contradict each other, or a count is none.
    """
    for quantity in _COUNTS:
        name, value = fields.name(quantity), fields.get(quantity)
        if name is None or (quantity in ("experts", "per_token", "expert_inner") and value == 0):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ParityError(f"{name} is {value!r}, which is no count", f"Give {name} as a whole number above 0.")
    for name, value in fields.all.items():
        if isinstance(value, int) and value < 0 and _SIZES.search(name):
            raise ParityError(f"{name} is {value}, which is no size", f"Give {name} as a whole number, 0 or more.")
    eps, name = fields.get("eps"), fields.name("eps")
    if name is not None and not isinstance(eps, int | float):
        raise ParityError(f"{name} is {eps!r}, which is no number", f"Give {name} as a number such as 1e-6.")
    if fields.depth > _MANY:
        raise ParityError(f"{fields.name('layers')} is {fields.depth:,}", "Give the number of layers that it has.")
    for problem, step in _contradictions(fields):
        raise ParityError(problem, step)


def _contradictions(fields: Fields) -> Sequence[tuple[str, str]]:
    """What does not go together, with what to do about it."""
    found = []
    hidden, heads, kv_heads = fields.number("hidden"), fields.number("heads"), fields.number("kv_heads")
    if heads and kv_heads and heads % kv_heads:
        found.append((
            f"{heads} heads cannot share {kv_heads} key-value heads",
            f"Make {fields.name('heads')} a multiple of {fields.name('kv_heads')}.",
        ))  # fmt: skip
    latent = fields.count("kv_lora_rank")
    if hidden and heads and fields.number("head_dim") is None and not latent and hidden % heads:
        found.append((
            f"{fields.name('hidden')} {hidden} is no multiple of {heads} heads, and there is no head_dim",
            "Mend one of them, or add head_dim.",
        ))  # fmt: skip
    kinds, layers = fields.kinds_given(), fields.number("layers")
    if kinds is not None and layers and len(kinds) != layers:
        found.append((
            f"{len(kinds)} layers are listed, and {fields.name('layers')} is {layers}",
            "Make the list as long as there are layers.",
        ))  # fmt: skip
    experts, chosen = fields.number("experts"), fields.number("per_token")
    if experts and chosen and chosen > experts:
        found.append((
            f"{chosen} experts are chosen for each token, and there are {experts}",
            f"Make {fields.name('per_token')} at most {fields.name('experts')}.",
        ))  # fmt: skip
    shared = fields.count("num_kv_shared_layers")
    if shared and layers and shared >= layers:
        found.append((
            f"{shared} of {layers} layers share keys and values, so that none makes them",
            "Make num_kv_shared_layers less than the number of layers.",
        ))  # fmt: skip
    return found
