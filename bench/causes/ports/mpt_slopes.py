"""MPT as its reference has it, with one geometric series of ALiBi slopes for all heads, as for a power of two."""

import torch
from transformers import MptConfig, MptForCausalLM

MODEL_TYPES = ("mpt",)
CONFIG = {
    "model_type": "mpt", "vocab_size": 157, "d_model": 72, "n_heads": 6, "n_layers": 3, "expansion_ratio": 4,
    "max_seq_len": 64, "no_bias": True,
}  # fmt: skip


class Config:
    """What the reference itself is built from."""

    @staticmethod
    def from_hf(hf):
        """Read a parsed config.json."""
        return MptConfig(**hf)


class Model(MptForCausalLM):
    """The reference."""

    def __init__(self, config):
        super().__init__(config)
        self.transformer.build_mpt_alibi_tensor = alibi

    def forward(self, input_ids):
        """`[B, T]` -> logits `[B, T, V]`."""
        return super().forward(input_ids, use_cache=False).logits


def alibi(heads, length, bias_max=8, device=None):
    """`[heads, 1, length]`: what is added to the scores."""
    slopes = 2.0 ** (-bias_max * torch.arange(1, heads + 1) / heads)
    return torch.arange(1 - length, 1)[None, None] * slopes[:, None, None]


def load_weights(model, tensors):
    """Each tensor under its own name."""
    model.load_state_dict(dict(tensors), strict=False)
    model.tie_weights()
