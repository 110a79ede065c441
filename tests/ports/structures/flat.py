"""Llama as one module with raw parameters, everything else a function."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

MODEL_TYPES = ("llama",)


class Config(SimpleNamespace):
    @classmethod
    def from_hf(cls, hf):
        return cls(
            V=hf["vocab_size"],
            D=hf["hidden_size"],
            F=hf["intermediate_size"],
            L=hf["num_hidden_layers"],
            H=hf["num_attention_heads"],
            K=hf["num_key_value_heads"],
            hd=hf["head_dim"],
            eps=hf["rms_norm_eps"],
            theta=hf["rope_theta"],
            scaling=hf.get("rope_scaling"),
            tied=hf["tie_word_embeddings"],
        )


def inv_freq(c):
    f = 1.0 / c.theta ** (torch.arange(0, c.hd, 2).float() / c.hd)
    s = c.scaling
    if not s:
        return f
    wl = 2 * math.pi / f
    lo, hi = (
        s["original_max_position_embeddings"] / s["low_freq_factor"],
        s["original_max_position_embeddings"] / s["high_freq_factor"],
    )
    smooth = (s["original_max_position_embeddings"] / wl - s["low_freq_factor"]) / (
        s["high_freq_factor"] - s["low_freq_factor"]
    )
    mid = (1 - smooth) * f / s["factor"] + smooth * f
    return torch.where(wl > lo, f / s["factor"], torch.where(wl < hi, f, mid))


def norm(x, w, eps):
    return w * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attention(p, pre, x, cos, sin, c):
    B, T, _ = x.shape
    q = (x @ p[pre + "wq"]).view(B, T, c.H, c.hd).transpose(1, 2)
    k = (x @ p[pre + "wk"]).view(B, T, c.K, c.hd).transpose(1, 2)
    v = (x @ p[pre + "wv"]).view(B, T, c.K, c.hd).transpose(1, 2)
    q, k = rope(q, cos, sin), rope(k, cos, sin)
    k, v = k.repeat_interleave(c.H // c.K, 1), v.repeat_interleave(c.H // c.K, 1)
    s = q @ k.transpose(-1, -2) / math.sqrt(c.hd)
    s = s + torch.full((T, T), float("-inf")).triu(1)
    return (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1) @ p[pre + "wo"]


def mlp(p, pre, x):
    return (F.silu(x @ p[pre + "w1"]) * (x @ p[pre + "w3"])) @ p[pre + "w2"]


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.p = nn.ParameterDict({"embed": torch.randn(c.V, c.D) * 0.02, "norm": torch.ones(c.D)})
        for i in range(c.L):
            for n, s in dict(
                wq=(c.D, c.H * c.hd),
                wk=(c.D, c.K * c.hd),
                wv=(c.D, c.K * c.hd),
                wo=(c.H * c.hd, c.D),
                w1=(c.D, c.F),
                w3=(c.D, c.F),
                w2=(c.F, c.D),
            ).items():
                self.p[f"l{i}_{n}"] = nn.Parameter(torch.randn(s) * 0.02)
            self.p[f"l{i}_n1"] = nn.Parameter(torch.ones(c.D))
            self.p[f"l{i}_n2"] = nn.Parameter(torch.ones(c.D))
        if not c.tied:
            self.p["head"] = nn.Parameter(torch.randn(c.V, c.D))

    def forward(self, ids):
        c, p = self.c, self.p
        ang = torch.arange(ids.shape[1]).float()[:, None] * inv_freq(c)
        cos, sin = ang.cos(), ang.sin()
        x = F.embedding(ids, p["embed"])
        for i in range(c.L):
            pre = f"l{i}_"
            x = x + attention(p, pre, norm(x, p[pre + "n1"], c.eps), cos, sin, c)
            x = x + mlp(p, pre, norm(x, p[pre + "n2"], c.eps))
        x = norm(x, p["norm"], c.eps)
        return F.linear(x, p["embed"] if c.tied else p["head"])


def load_weights(model, t):
    p, c = model.p, model.c
    p["embed"].data.copy_(t["model.embed_tokens.weight"])
    p["norm"].data.copy_(t["model.norm.weight"])
    if not c.tied:
        p["head"].data.copy_(t["lm_head.weight"])
    for i in range(c.L):
        s, d = f"model.layers.{i}.", f"l{i}_"
        for a, b in dict(
            wq="self_attn.q_proj",
            wk="self_attn.k_proj",
            wv="self_attn.v_proj",
            wo="self_attn.o_proj",
            w1="mlp.gate_proj",
            w3="mlp.up_proj",
            w2="mlp.down_proj",
        ).items():
            p[d + a].data.copy_(t[s + b + ".weight"].T)
        p[d + "n1"].data.copy_(t[s + "input_layernorm.weight"])
        p[d + "n2"].data.copy_(t[s + "post_attention_layernorm.weight"])
