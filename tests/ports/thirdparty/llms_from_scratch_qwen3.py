"""Adapter for the dense `Qwen3Model` of the PyPI package llms-from-scratch 1.0.19, unchanged, with its own loader."""

from llms_from_scratch.qwen3 import Qwen3Model, load_weights_into_qwen
from torch import float32

Model = Qwen3Model
MODEL_TYPES = ("qwen3",)
FIELDS = {
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "emb_dim": "hidden_size",
    "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
    "head_dim": "head_dim", "n_kv_groups": "num_key_value_heads",
}  # fmt: skip


class Config(dict):
    """The package's own configuration dict."""

    @classmethod
    def from_hf(cls, hf):
        """Translate a parsed config.json; ValueError on what the model does not implement."""
        if hf.get("rms_norm_eps") != 1e-6 or hf.get("attention_bias") or hf.get("use_sliding_window"):
            raise ValueError("only rms_norm_eps 1e-6, no biases and no sliding window are implemented")
        rope = hf.get("rope_parameters") or {"rope_theta": hf["rope_theta"], **(hf.get("rope_scaling") or {})}
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_type {rope['rope_type']!r} is not implemented")
        names = {ours: hf[theirs] for ours, theirs in FIELDS.items()}
        return cls(**names, qk_norm=True, rope_base=rope["rope_theta"], dtype=float32)


def load_weights(model, tensors):
    """The package's loader reads the checkpoint's own names."""
    load_weights_into_qwen(model, model.cfg, tensors)
