"""Llama with norm weights folded into the projections behind them and 1/sqrt(D) into q; last position only."""

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


def rope_tables(c, n):
    s = c.rope_scaling
    f = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
    r = s["original_max_position_embeddings"] * f / (2 * math.pi)
    k = ((r - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])).clamp(0.0, 1.0)
    f = f * (k + (1 - k) / s["factor"])
    a = torch.arange(n).float()[:, None] * f
    return a.cos(), a.sin()


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.norm1, self.norm2 = nn.RMSNorm(c.hidden_size, c.rms_norm_eps), nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.q = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.gate = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        h = self.norm1(x)
        q, k, v = (m(h).unflatten(-1, (-1, self.c.head_dim)).transpose(1, 2) for m in (self.q, self.k, self.v))

        def turn(z):
            a, b = z.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        o = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, scale=1.0, enable_gqa=True)
        x = x + self.o(o.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        cos, sin = rope_tables(self.c, ids.shape[1])
        for b in self.blocks:
            x = b(x, cos, sin)
        return self.head(self.norm(x[:, -1]))


def load_weights(model, t):
    e = t["model.embed_tokens.weight"]
    sd = {"embed.weight": e, "head.weight": t.get("lm_head.weight", e) * t["model.norm.weight"]}
    for i in range(model.c.num_hidden_layers):
        s, d = f"model.layers.{i}.", f"blocks.{i}."
        n1, n2 = t[s + "input_layernorm.weight"], t[s + "post_attention_layernorm.weight"]
        sd[d + "q.weight"] = t[s + "self_attn.q_proj.weight"] * n1 * model.c.head_dim**-0.5
        sd[d + "k.weight"] = t[s + "self_attn.k_proj.weight"] * n1
        sd[d + "v.weight"] = t[s + "self_attn.v_proj.weight"] * n1
        sd[d + "o.weight"] = t[s + "self_attn.o_proj.weight"]
        sd[d + "gate.weight"], sd[d + "up.weight"] = (
            t[s + "mlp.gate_proj.weight"] * n2,
            t[s + "mlp.up_proj.weight"] * n2,
        )
        sd[d + "down.weight"] = t[s + "mlp.down_proj.weight"]
    assert all("norm" in k for k in model.load_state_dict(sd, strict=False).missing_keys)
