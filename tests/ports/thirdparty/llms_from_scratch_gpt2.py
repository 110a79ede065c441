"""Adapter for `GPTModel` of the PyPI package llms-from-scratch 1.0.19, unchanged, with its own loader."""

from llms_from_scratch.ch04 import GPTModel
from llms_from_scratch.ch05 import load_weights_into_gpt

Model = GPTModel
MODEL_TYPES = ("gpt2",)
FIELDS = {
    "vocab_size": "vocab_size", "context_length": "n_positions", "emb_dim": "n_embd", "n_heads": "n_head", "n_layers": "n_layer",
}  # fmt: skip


class Config(dict):
    """The package's own configuration dict."""

    @classmethod
    def from_hf(cls, hf):
        """Translate a parsed config.json; ValueError on what the model does not implement."""
        if hf["layer_norm_epsilon"] != 1e-5 or hf["activation_function"] != "gelu_new":
            raise ValueError("only layer_norm_epsilon 1e-5 and gelu_new are implemented")
        if hf.get("n_inner") not in (None, 4 * hf["n_embd"]) or hf.get("scale_attn_by_inverse_layer_idx"):
            raise ValueError("n_inner and scale_attn_by_inverse_layer_idx are not implemented")
        return cls(**{ours: hf[theirs] for ours, theirs in FIELDS.items()}, drop_rate=0.0, qkv_bias=True)


def load_weights(model, tensors):
    """Hand the checkpoint to the package's loader as the nested numpy arrays of OpenAI's own release."""

    def pair(name, weight="w"):
        return {weight: tensors[f"transformer.{name}.weight"].numpy(), "b": tensors[f"transformer.{name}.bias"].numpy()}

    blocks = [
        {
            "ln_1": pair(f"h.{layer}.ln_1", "g"),
            "attn": {part: pair(f"h.{layer}.attn.{part}") for part in ("c_attn", "c_proj")},
            "ln_2": pair(f"h.{layer}.ln_2", "g"),
            "mlp": {part: pair(f"h.{layer}.mlp.{part}") for part in ("c_fc", "c_proj")},
        }
        for layer in range(len(model.trf_blocks))
    ]
    tables = {name: tensors[f"transformer.{name}.weight"].numpy() for name in ("wte", "wpe")}
    load_weights_into_gpt(model, {**tables, **pair("ln_f", "g"), "blocks": blocks})
