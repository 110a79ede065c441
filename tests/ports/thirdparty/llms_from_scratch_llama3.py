"""Adapter for `Llama3Model` of the PyPI package llms-from-scratch 1.0.19, unchanged, with its own loader."""

from llms_from_scratch.llama3 import Llama3Model, load_weights_into_llama
from torch import float32

Model = Llama3Model
MODEL_TYPES = ("llama",)
FIELDS = {
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "emb_dim": "hidden_size",
    "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
    "n_kv_groups": "num_key_value_heads",
}  # fmt: skip


class Config(dict):
    """The package's own configuration dict."""

    @classmethod
    def from_hf(cls, hf):
        """Translate a parsed config.json; ValueError on what the model does not implement."""
        if hf.get("rms_norm_eps", 1e-6) != 1e-5 or hf.get("attention_bias") or hf.get("mlp_bias"):
            raise ValueError("only rms_norm_eps 1e-5 and no biases are implemented")
        if (
            hf.get("head_dim", hf["hidden_size"] / hf["num_attention_heads"]) * hf["num_attention_heads"]
            != hf["hidden_size"]
        ):
            raise ValueError(f"head_dim {hf['head_dim']} is not implemented, only hidden_size / heads")
        rope = hf.get("rope_parameters") or {"rope_theta": hf["rope_theta"], **(hf.get("rope_scaling") or {})}
        if rope.get("rope_type", "default") not in ("default", "llama3"):
            raise ValueError(f"rope_type {rope['rope_type']!r} is not implemented")
        scaled = (
            {**rope, "original_context_length": rope["original_max_position_embeddings"]} if "factor" in rope else None
        )
        names = {ours: hf[theirs] for ours, theirs in FIELDS.items()}
        return cls(**names, rope_base=rope["rope_theta"], rope_freq=scaled, dtype=float32)


def load_weights(model, tensors):
    """The package's loader reads the checkpoint's own names."""
    load_weights_into_llama(model, model.cfg, tensors)
