"""Mamba 2 as its reference has it, with a cache that the contract of a port knows."""

import torch
from torch import nn
from transformers import Mamba2Config, Mamba2ForCausalLM
from transformers.cache_utils import DynamicCache

MODEL_TYPES = ("mamba2",)
CONFIG = {
    "model_type": "mamba2", "vocab_size": 157, "hidden_size": 48, "state_size": 10, "num_hidden_layers": 3,
    "num_heads": 8, "head_dim": 12, "expand": 2, "n_groups": 4, "conv_kernel": 4, "chunk_size": 16,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


class Config:
    """What the reference itself is built from."""

    @staticmethod
    def from_hf(hf):
        """Read a parsed config.json."""
        return Mamba2Config(**hf)


class Norm(nn.Module):
    """Root-mean-square norm over groups of features, of what the gate lets through."""

    def __init__(self, config):
        super().__init__()
        width = config.expand * config.hidden_size
        self.groups, self.eps = config.n_groups, config.layer_norm_epsilon
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x, gate):
        """`[..., C]`, both -> `[..., C]`."""
        gated = (x.float() * nn.functional.silu(gate.float())).unflatten(-1, (self.groups, -1))
        normed = gated * torch.rsqrt(gated.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.flatten(-2).to(x.dtype)


class Model(Mamba2ForCausalLM):
    """The reference."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.backbone.layers:
            layer.mixer.norm = Norm(config)

    def new_cache(self, batch_size):
        """An empty cache."""
        return DynamicCache(config=self.config)

    def forward(self, input_ids, cache=None):
        """`[B, T]` -> logits `[B, T, V]`."""
        return super().forward(input_ids, cache_params=cache, use_cache=cache is not None).logits


def load_weights(model, tensors):
    """Each tensor under its own name."""
    model.load_state_dict(dict(tensors), strict=False)
    model.tie_weights()
