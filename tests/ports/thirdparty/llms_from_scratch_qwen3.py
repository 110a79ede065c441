"""Adapter for the dense `Qwen3Model` of the PyPI package llms-from-scratch 1.0.19, unchanged, with its own loader."""

from llms_from_scratch.qwen3 import Qwen3Model, load_weights_into_qwen
from torch import float32

Model = Qwen3Model
MODEL_TYPES = ("qwen3",)
# setting, the one value that the model implements; absence from config.json means the same value
_IMPLEMENTED = (
    ("rms_norm_eps", 1e-6),
    ("hidden_act", "silu"),
    ("attention_bias", False),
    ("use_sliding_window", False),
)


class Config(dict):
    """The package's own configuration dict."""

    @classmethod
    def from_hf(cls, hf):
        """Translate a parsed config.json; ValueError on what the model does not implement."""
        for name, implemented in _IMPLEMENTED:
            if hf.get(name, implemented) != implemented:
                raise ValueError(f"{name} {hf[name]!r} is not implemented, only {implemented!r}")
        if set(hf.get("layer_types") or ()) - {"full_attention"}:
            raise ValueError(f"layer_types {hf['layer_types']!r} is not implemented, only full attention")
        rope = {"rope_theta": hf.get("rope_theta", 10_000.0)}
        rope |= hf.get("rope_scaling") or hf.get("rope_parameters") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ValueError(f"rope_type {kind!r} is not implemented, only 'default'")
        return cls(
            vocab_size=hf["vocab_size"],
            context_length=hf["max_position_embeddings"],
            emb_dim=hf["hidden_size"],
            n_heads=hf["num_attention_heads"],
            n_layers=hf["num_hidden_layers"],
            hidden_dim=hf["intermediate_size"],
            head_dim=hf.get("head_dim", 128),
            qk_norm=True,
            n_kv_groups=hf["num_key_value_heads"],
            rope_base=rope["rope_theta"],
            dtype=float32,
        )


def load_weights(model, tensors):
    """Fill the model with the package's loader, which reads the checkpoint's own names."""
    load_weights_into_qwen(model, model.cfg, tensors)
