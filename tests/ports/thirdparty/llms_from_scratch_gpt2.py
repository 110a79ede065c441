"""Adapter for `GPTModel` of the PyPI package llms-from-scratch 1.0.19, unchanged, with its own loader."""

from llms_from_scratch.ch04 import GPTModel
from llms_from_scratch.ch05 import load_weights_into_gpt

Model = GPTModel
MODEL_TYPES = ("gpt2",)
# setting, the one value that the model implements; absence from config.json means the same value
_IMPLEMENTED = (
    ("layer_norm_epsilon", 1e-5),
    ("activation_function", "gelu_new"),
    ("tie_word_embeddings", True),
    ("scale_attn_weights", True),
    ("scale_attn_by_inverse_layer_idx", False),
    ("reorder_and_upcast_attn", False),
    ("add_cross_attention", False),
)


class Config(dict):
    """The package's own configuration dict."""

    @classmethod
    def from_hf(cls, hf):
        """Translate a parsed config.json; ValueError on what the model does not implement."""
        for name, implemented in _IMPLEMENTED:
            if hf.get(name, implemented) != implemented:
                raise ValueError(f"{name} {hf[name]!r} is not implemented, only {implemented!r}")
        if hf.get("n_inner") not in (None, 4 * hf["n_embd"]):
            raise ValueError(f"n_inner {hf['n_inner']!r} is not implemented, only 4 * n_embd")
        return cls(
            vocab_size=hf["vocab_size"],
            context_length=hf["n_positions"],
            emb_dim=hf["n_embd"],
            n_heads=hf["n_head"],
            n_layers=hf["n_layer"],
            drop_rate=0.0,
            qkv_bias=True,
        )


def load_weights(model, tensors):
    """Hand the checkpoint to the package's loader as the nested arrays of OpenAI's own release."""
    # the released checkpoint is the bare transformer, save_pretrained writes it inside the language model
    prefix = "transformer." if "transformer.wte.weight" in tensors else ""

    def array(name):
        return tensors[prefix + name].float().numpy()  # numpy has no bfloat16

    def pair(name, weight="w"):
        return {weight: array(f"{name}.weight"), "b": array(f"{name}.bias")}

    blocks = [
        {
            "ln_1": pair(f"h.{layer}.ln_1", "g"),
            "attn": {part: pair(f"h.{layer}.attn.{part}") for part in ("c_attn", "c_proj")},
            "ln_2": pair(f"h.{layer}.ln_2", "g"),
            "mlp": {part: pair(f"h.{layer}.mlp.{part}") for part in ("c_fc", "c_proj")},
        }
        for layer in range(len(model.trf_blocks))
    ]
    ends = {"wte": array("wte.weight"), "wpe": array("wpe.weight"), **pair("ln_f", "g")}
    load_weights_into_gpt(model, {**ends, "blocks": blocks})
