"""Llama with activations [B, C, 1, T], 1x1 convolutions for projections, and heads in lists."""

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


class RMSNormANE(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(dim=1, keepdim=True) + self.eps) * self.weight.view(1, -1, 1, 1)


def conv(i, o):
    return nn.Conv2d(i, o, 1, bias=False)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj, self.k_proj = (
            conv(c.hidden_size, c.num_attention_heads * c.head_dim),
            conv(c.hidden_size, c.num_key_value_heads * c.head_dim),
        )
        self.v_proj, self.o_proj = (
            conv(c.hidden_size, c.num_key_value_heads * c.head_dim),
            conv(c.num_attention_heads * c.head_dim, c.hidden_size),
        )

    def forward(self, x, cos, sin, mask):
        c, D = self.c, self.c.head_dim
        rot = lambda z: z * cos + torch.cat((-z[:, D // 2 :], z[:, : D // 2]), 1) * sin
        qs = [rot(z) for z in self.q_proj(x).split(D, dim=1)]
        ks = [rot(z).transpose(1, 3) for z in self.k_proj(x).split(D, dim=1)]
        vs = self.v_proj(x).split(D, dim=1)
        g = c.num_attention_heads // c.num_key_value_heads
        out = []
        for h, q in enumerate(qs):
            w = torch.einsum("bchq,bkhc->bkhq", q, ks[h // g]) * D**-0.5 + mask
            out.append(torch.einsum("bkhq,bchk->bchq", w.softmax(dim=1), vs[h // g]))
        return self.o_proj(torch.cat(out, dim=1))


class FFN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate, self.up, self.down = (
            conv(c.hidden_size, c.intermediate_size),
            conv(c.hidden_size, c.intermediate_size),
            conv(c.intermediate_size, c.hidden_size),
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n1, self.n2 = RMSNormANE(c.hidden_size, c.rms_norm_eps), RMSNormANE(c.hidden_size, c.rms_norm_eps)
        self.attn, self.ffn = Attention(c), FFN(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.attn(self.n1(x), cos, sin, mask)
        return x + self.ffn(self.n2(x))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNormANE(c.hidden_size, c.rms_norm_eps)
        self.heads = nn.ModuleList(conv(c.hidden_size, n) for n in (100, c.vocab_size - 100))

    def forward(self, ids):
        c, s, T = self.c, self.c.rope_scaling, ids.shape[1]
        f = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        k = (
            (s["original_max_position_embeddings"] * f / (2 * math.pi) - s["low_freq_factor"])
            / (s["high_freq_factor"] - s["low_freq_factor"])
        ).clamp(0, 1)
        a = (torch.arange(T).float()[:, None] * (f * (k + (1 - k) / s["factor"])).repeat(2)).T[None, :, None]
        mask = torch.full((T, T), -1e4).tril(-1)[None, :, None]
        x = self.embed(ids).transpose(1, 2).unsqueeze(2)
        for l in self.layers:
            x = l(x, a.cos(), a.sin(), mask)
        x = self.norm(x)
        return torch.cat([h(x) for h in self.heads], 1).squeeze(2).transpose(1, 2)


def load_weights(m, t):
    sd = {"embed.weight": t["model.embed_tokens.weight"], "norm.weight": t["model.norm.weight"]}
    head = t["lm_head.weight"] if "lm_head.weight" in t else t["model.embed_tokens.weight"]
    sd["heads.0.weight"], sd["heads.1.weight"] = head[:100, :, None, None], head[100:, :, None, None]
    for i in range(m.c.num_hidden_layers):
        s, d = f"model.layers.{i}.", f"layers.{i}."
        sd[d + "n1.weight"], sd[d + "n2.weight"] = (
            t[s + "input_layernorm.weight"],
            t[s + "post_attention_layernorm.weight"],
        )
        for n in "qkvo":
            sd[d + f"attn.{n}_proj.weight"] = t[s + f"self_attn.{n}_proj.weight"][:, :, None, None]
        for n in ("gate", "up", "down"):
            sd[d + f"ffn.{n}.weight"] = t[s + f"mlp.{n}_proj.weight"][:, :, None, None]
    m.load_state_dict(sd)
