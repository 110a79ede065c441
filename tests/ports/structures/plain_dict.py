"""Llama whose weights are a plain dict of tensors."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

MODEL_TYPES = ("llama",)


class Config(SimpleNamespace):
    @classmethod
    def from_hf(cls, hf):
        return cls(**hf)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.w = c, {}

    def norm(self, x, name):
        return F.rms_norm(x, (x.shape[-1],), self.w[name + ".weight"], self.c.rms_norm_eps)

    def lin(self, x, name):
        return F.linear(x, self.w[name + ".weight"])

    def forward(self, ids):
        c, s = self.c, self.c.rope_scaling
        T, D = ids.shape[1], c.head_dim
        f = c.rope_theta ** (-torch.arange(0, D, 2).float() / D)
        k = (
            (s["original_max_position_embeddings"] * f / (2 * math.pi) - s["low_freq_factor"])
            / (s["high_freq_factor"] - s["low_freq_factor"])
        ).clamp(0, 1)
        a = torch.arange(T).float()[:, None] * (f * (k + (1 - k) / s["factor"])).repeat(2)
        cos, sin = a.cos(), a.sin()
        rot = lambda z: z * cos + torch.cat((-z[..., D // 2 :], z[..., : D // 2]), -1) * sin
        x = F.embedding(ids, self.w["model.embed_tokens.weight"])
        for i in range(c.num_hidden_layers):
            p = f"model.layers.{i}."
            h = self.norm(x, p + "input_layernorm")
            q, k, v = (self.lin(h, p + f"self_attn.{n}_proj").view(*h.shape[:2], -1, D).transpose(1, 2) for n in "qkv")
            o = F.scaled_dot_product_attention(rot(q), rot(k), v, is_causal=True, enable_gqa=True)
            x = x + self.lin(o.transpose(1, 2).flatten(2), p + "self_attn.o_proj")
            h = self.norm(x, p + "post_attention_layernorm")
            x = x + self.lin(
                F.silu(self.lin(h, p + "mlp.gate_proj")) * self.lin(h, p + "mlp.up_proj"), p + "mlp.down_proj"
            )
        return self.lin(self.norm(x, "model.norm"), "lm_head" if "lm_head.weight" in self.w else "model.embed_tokens")


def load_weights(m, t):
    m.w = {k: v for k, v in t.items()}
