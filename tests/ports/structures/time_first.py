"""Llama with activations [T, B, C], q, k and v fused per kv group, and norms inside the projections behind them."""

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
            vocab=hf["vocab_size"],
            hidden=hf["hidden_size"],
            ffn=hf["intermediate_size"],
            layers=hf["num_hidden_layers"],
            heads=hf["num_attention_heads"],
            groups=hf["num_key_value_heads"],
            kv_channels=hf["head_dim"],
            eps=hf["rms_norm_eps"],
            base=hf["rope_theta"],
            scaling=hf["rope_scaling"],
        )


class LayerNormLinear(nn.Module):
    def __init__(self, n_in, n_out, eps):
        super().__init__()
        self.eps = eps
        self.layer_norm_weight = nn.Parameter(torch.ones(n_in))
        self.weight = nn.Parameter(torch.empty(n_out, n_in).normal_(0, 0.02))

    def forward(self, x):
        h = F.rms_norm(x, (x.shape[-1],), self.layer_norm_weight, self.eps)
        return F.linear(h, self.weight)


class CoreAttention(nn.Module):
    def forward(self, q, k, v):
        """[t, b, h, d] each."""
        t, b, h, d = q.shape
        q = q.reshape(t, b * h, d).transpose(0, 1)
        k = k.reshape(t, b * h, d).permute(1, 2, 0)
        s = torch.baddbmm(torch.zeros(b * h, t, t, dtype=q.dtype), q, k, beta=0.0, alpha=1 / math.sqrt(d))
        m = torch.ones(t, t, dtype=torch.bool).tril().logical_not()
        s = s.masked_fill(m, -10000.0)
        p = torch.softmax(s, -1)
        ctx = torch.bmm(p, v.reshape(t, b * h, d).transpose(0, 1))
        return ctx.transpose(0, 1).reshape(t, b, h * d)


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.linear_qkv = LayerNormLinear(c.hidden, (c.heads + 2 * c.groups) * c.kv_channels, c.eps)
        self.core_attention = CoreAttention()
        self.linear_proj = nn.Linear(c.heads * c.kv_channels, c.hidden, bias=False)

    def forward(self, x, freqs):
        c = self.c
        t, b, _ = x.shape
        per = c.heads // c.groups
        mixed = self.linear_qkv(x).view(t, b, c.groups, (per + 2), c.kv_channels)
        q, k, v = mixed.split([per, 1, 1], dim=3)
        q = q.reshape(t, b, c.heads, c.kv_channels)
        k, v = k.squeeze(3), v.squeeze(3)
        q, k = self.rotate(q, freqs), self.rotate(k, freqs)
        k, v = k.repeat_interleave(per, dim=2), v.repeat_interleave(per, dim=2)
        return self.linear_proj(self.core_attention(q, k, v))

    @staticmethod
    def rotate(x, freqs):
        h = x.shape[-1] // 2
        return x * freqs.cos() + torch.cat((-x[..., h:], x[..., :h]), -1) * freqs.sin()


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.linear_fc1 = LayerNormLinear(c.hidden, 2 * c.ffn, c.eps)
        self.linear_fc2 = nn.Linear(c.ffn, c.hidden, bias=False)

    def forward(self, x):
        a, b = self.linear_fc1(x).chunk(2, -1)
        return self.linear_fc2(F.silu(a) * b)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attention = SelfAttention(c)
        self.mlp = MLP(c)

    def forward(self, x, freqs):
        x = x + self.self_attention(x, freqs)
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.word_embeddings = nn.Embedding(c.vocab, c.hidden)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.final_layernorm = nn.RMSNorm(c.hidden, eps=c.eps)

    def freqs(self, t):
        c, s = self.c, self.c.scaling
        f = 1.0 / c.base ** (torch.arange(0, c.kv_channels, 2, dtype=torch.float32) / c.kv_channels)
        wl = 2 * math.pi / f
        n = s["original_max_position_embeddings"]
        r = ((n / wl - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])).clamp(0, 1)
        f = f * r + f / s["factor"] * (1 - r)
        a = torch.outer(torch.arange(t).float(), f)
        return torch.cat((a, a), -1)[:, None, None, :]

    def forward(self, input_ids):
        ids = input_ids.t().contiguous()
        x = self.word_embeddings(ids)
        fr = self.freqs(ids.shape[0])
        for layer in self.layers:
            x = layer(x, fr)
        x = self.final_layernorm(x)
        logits = x @ self.word_embeddings.weight.t()
        return logits.transpose(0, 1)


def load_weights(model, t):
    c = model.c
    sd = {"word_embeddings.weight": t["model.embed_tokens.weight"], "final_layernorm.weight": t["model.norm.weight"]}
    for i in range(c.layers):
        s, d = f"model.layers.{i}.", f"layers.{i}."
        q = t[s + "self_attn.q_proj.weight"].view(c.groups, -1, c.hidden)
        k = t[s + "self_attn.k_proj.weight"].view(c.groups, -1, c.hidden)
        v = t[s + "self_attn.v_proj.weight"].view(c.groups, -1, c.hidden)
        sd[d + "self_attention.linear_qkv.weight"] = torch.cat((q, k, v), 1).reshape(-1, c.hidden)
        sd[d + "self_attention.linear_qkv.layer_norm_weight"] = t[s + "input_layernorm.weight"]
        sd[d + "self_attention.linear_proj.weight"] = t[s + "self_attn.o_proj.weight"]
        sd[d + "mlp.linear_fc1.layer_norm_weight"] = t[s + "post_attention_layernorm.weight"]
        sd[d + "mlp.linear_fc1.weight"] = torch.cat((t[s + "mlp.gate_proj.weight"], t[s + "mlp.up_proj.weight"]))
        sd[d + "mlp.linear_fc2.weight"] = t[s + "mlp.down_proj.weight"]
    model.load_state_dict(sd)
