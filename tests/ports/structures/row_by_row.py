"""Llama that runs each row of the batch by itself."""

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


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        D, T = self.c.head_dim, len(x)
        q, k, v = (w(x).view(T, -1, D).transpose(0, 1) for w in (self.q_proj, self.k_proj, self.v_proj))
        rot = lambda z: z * cos + torch.cat((-z[..., D // 2 :], z[..., : D // 2]), -1) * sin
        g = self.c.num_attention_heads // self.c.num_key_value_heads
        k, v = rot(k).repeat_interleave(g, 0), v.repeat_interleave(g, 0)
        s = (rot(q) @ k.mT / math.sqrt(D)).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
        return self.o_proj((s.softmax(-1) @ v).transpose(0, 1).reshape(T, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(c.hidden_size, c.intermediate_size, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (
            nn.RMSNorm(c.hidden_size, c.rms_norm_eps),
            nn.RMSNorm(c.hidden_size, c.rms_norm_eps),
        )
        self.self_attn, self.mlp = Attention(c), MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Single(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, tokens):
        c, s = self.c, self.c.rope_scaling
        f = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        k = (
            (s["original_max_position_embeddings"] * f / (2 * math.pi) - s["low_freq_factor"])
            / (s["high_freq_factor"] - s["low_freq_factor"])
        ).clamp(0, 1)
        a = torch.arange(len(tokens)).float()[:, None] * (f * (k + (1 - k) / s["factor"])).repeat(2)
        x = self.embed_tokens(tokens)
        for l in self.layers:
            x = l(x, a.cos(), a.sin())
        return self.norm(x) @ self.embed_tokens.weight.T


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = Single(c)

    def forward(self, ids):
        return torch.stack([self.model(row) for row in ids])


WEIGHTS = {"model.embed_tokens.weight": "model.embed_tokens.weight", "model.norm.weight": "model.norm.weight"} | {
    f"model.layers.{{}}.{n}.weight": f"model.layers.{{}}.{n}.weight"
    for n in (
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
}
