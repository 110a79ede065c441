"""Gemma 3 with rope tables from numpy in float32, and sliding and full layers in two lists."""

import math
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MODEL_TYPES = ("gemma3_text",)


class Config(SimpleNamespace):
    @classmethod
    def from_hf(cls, hf):
        return cls(**hf)


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Rope(nn.Module):
    def __init__(self, d, theta, n=211):
        super().__init__()
        a = np.outer(np.arange(n), 1.0 / theta ** (np.arange(0, d, 2) / d)).astype(np.float32)
        self.register_buffer("cos", torch.from_numpy(np.cos(a)), persistent=False)
        self.register_buffer("sin", torch.from_numpy(np.sin(a)), persistent=False)

    def forward(self, x):
        """[B, T, H, D]"""
        t = x.shape[1]
        c, s = self.cos[:t, None], self.sin[:t, None]
        a, b = x.chunk(2, -1)
        return torch.cat((a * c - b * s, a * s + b * c), -1)


class Attention(nn.Module):
    def __init__(self, c, rope, window):
        super().__init__()
        self.c, self.rope, self.window = c, rope, window
        self.wq = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.wk = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.wv = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.wo = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.qn, self.kn = RMSNorm(c.head_dim, c.rms_norm_eps), RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(self, x):
        c = self.c
        q = self.rope(self.qn(self.wq(x).unflatten(-1, (-1, c.head_dim)))).transpose(1, 2)
        k = self.rope(self.kn(self.wk(x).unflatten(-1, (-1, c.head_dim)))).transpose(1, 2)
        v = self.wv(x).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
        t = x.shape[1]
        i = torch.arange(t)
        mask = i[None] <= i[:, None]
        if self.window:
            mask &= i[None] > i[:, None] - self.window
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=1 / math.sqrt(c.query_pre_attn_scalar), enable_gqa=True
        )
        return self.wo(y.transpose(1, 2).flatten(2))


class GeGLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.w1 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.w2 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.w3 = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.w3(F.gelu(self.w1(x), approximate="tanh") * self.w2(x))


class Layer(nn.Module):
    def __init__(self, c, rope, window):
        super().__init__()
        self.n1, self.n2, self.n3, self.n4 = (RMSNorm(c.hidden_size, c.rms_norm_eps) for _ in range(4))
        self.attn, self.ff = Attention(c, rope, window), GeGLU(c)

    def forward(self, x):
        x = x + self.n2(self.attn(self.n1(x)))
        return x + self.n4(self.ff(self.n3(x)))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        local, glob = Rope(c.head_dim, c.rope_local_base_freq), Rope(c.head_dim, c.rope_theta)
        self.locals = nn.ModuleList(
            Layer(c, local, c.sliding_window) for k in c.layer_types if k == "sliding_attention"
        )
        self.globals = nn.ModuleList(Layer(c, glob, None) for k in c.layer_types if k == "full_attention")
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)

    def layers(self):
        a, b = iter(self.locals), iter(self.globals)
        return [next(a) if k == "sliding_attention" else next(b) for k in self.c.layer_types]

    def forward(self, ids):
        x = self.embed(ids)
        x = x * math.sqrt(self.c.hidden_size)
        for l in self.layers():
            x = l(x)
        x = self.head(self.norm(x))
        cap = self.c.final_logit_softcapping
        return x if not cap else cap * torch.tanh(x / cap)


def load_weights(m, t):
    with torch.no_grad():
        m.embed.weight.copy_(t["model.embed_tokens.weight"])
        m.head.weight.copy_(t["lm_head.weight"] if "lm_head.weight" in t else t["model.embed_tokens.weight"])
        m.norm.weight.copy_(1 + t["model.norm.weight"])
        for i, l in enumerate(m.layers()):
            g = lambda n: t[f"model.layers.{i}.{n}.weight"]
            for a, b in zip(
                (l.n1, l.n2, l.n3, l.n4),
                (
                    "input_layernorm",
                    "post_attention_layernorm",
                    "pre_feedforward_layernorm",
                    "post_feedforward_layernorm",
                ),
            ):
                a.weight.copy_(1 + g(b))
            l.attn.qn.weight.copy_(1 + g("self_attn.q_norm"))
            l.attn.kn.weight.copy_(1 + g("self_attn.k_norm"))
            for a, b in zip((l.attn.wq, l.attn.wk, l.attn.wv, l.attn.wo), "qkvo"):
                a.weight.copy_(g(f"self_attn.{b}_proj"))
            l.ff.w1.weight.copy_(g("mlp.gate_proj"))
            l.ff.w2.weight.copy_(g("mlp.up_proj"))
            l.ff.w3.weight.copy_(g("mlp.down_proj"))
