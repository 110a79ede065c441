"""Adapter for `Llama3Model` of the PyPI package llms-from-scratch 1.0.19, unchanged, with its own loader."""

from llms_from_scratch.llama3 import Llama3Model, load_weights_into_llama
from torch import float32

Model = Llama3Model
MODEL_TYPES = ("llama",)
# setting, what the model implements, what its absence from config.json means
_IMPLEMENTED = (
    ("rms_norm_eps", 1e-5, 1e-6),
    ("hidden_act", "silu", "silu"),
    ("attention_bias", False, False),
    ("mlp_bias", False, False),
)


class Config(dict):
    """The package's own configuration dict."""

    @classmethod
    def from_hf(cls, hf):
        """Translate a parsed config.json; ValueError on what the model does not implement."""
        for name, implemented, absent in _IMPLEMENTED:
            if hf.get(name, absent) != implemented:
                raise ValueError(f"{name} {hf.get(name, absent)!r} is not implemented, only {implemented!r}")
        heads, width = hf["num_attention_heads"], hf["hidden_size"]
        if (hf.get("head_dim") or width // heads) * heads != width:
            raise ValueError(f"head_dim {hf.get('head_dim')!r} is not implemented, only hidden_size / heads")
        rope = {"rope_theta": hf.get("rope_theta", 10_000.0)}
        rope |= hf.get("rope_scaling") or hf.get("rope_parameters") or {}
        return cls(
            vocab_size=hf["vocab_size"],
            context_length=hf["max_position_embeddings"],
            emb_dim=width,
            n_heads=heads,
            n_layers=hf["num_hidden_layers"],
            hidden_dim=hf["intermediate_size"],
            n_kv_groups=hf.get("num_key_value_heads") or heads,
            rope_base=rope["rope_theta"],
            rope_freq=_rope_freq(rope),
            dtype=float32,
        )


def _rope_freq(rope):
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(f"rope_type {kind!r} is not implemented, only 'default' and 'llama3'")
    if kind == "default":
        return None
    names = ("factor", "low_freq_factor", "high_freq_factor")
    return {name: rope[name] for name in names} | {"original_context_length": rope["original_max_position_embeddings"]}


def load_weights(model, tensors):
    """Fill the model with the package's loader, which reads the checkpoint's own names."""
    load_weights_into_llama(model, model.cfg, tensors)
