"""Llama with norms that add the residual and return both, fused projections, and a padded vocabulary."""

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


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps

    def forward(self, x, residual=None):
        if residual is not None:
            x = x + residual
            residual = x
        dtype = x.dtype
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(dim=-1, keepdim=True) + self.variance_epsilon)
        y = y.to(dtype) * self.weight
        return y if residual is None else (y, residual)


class SiluAndMul(nn.Module):
    def forward(self, x):
        d = x.shape[-1] // 2
        return F.silu(x[..., :d]) * x[..., d:]


class RotaryEmbedding(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, base, sc = c.head_dim, c.rope_theta, c.rope_scaling
        inv = 1.0 / (base ** (torch.arange(0, d, 2, dtype=torch.float) / d))
        low = sc["original_max_position_embeddings"] / sc["low_freq_factor"]
        high = sc["original_max_position_embeddings"] / sc["high_freq_factor"]
        wl = 2 * math.pi / inv
        smooth = (sc["original_max_position_embeddings"] / wl - sc["low_freq_factor"]) / (
            sc["high_freq_factor"] - sc["low_freq_factor"]
        )
        inv = torch.where(
            wl < high, inv, torch.where(wl > low, inv / sc["factor"], (1 - smooth) * inv / sc["factor"] + smooth * inv)
        )
        t = torch.arange(256, dtype=torch.float)
        f = torch.einsum("i,j -> ij", t, inv)
        self.register_buffer("cos_sin_cache", torch.cat((f.cos(), f.sin()), dim=-1), persistent=False)
        self.d = d

    def forward(self, positions, query, key):
        cos, sin = self.cos_sin_cache.index_select(0, positions.flatten()).chunk(2, dim=-1)

        def turn(x):
            shape = x.shape
            x = x.view(positions.numel(), -1, self.d)
            a, b = torch.chunk(x, 2, dim=-1)
            c, s = cos.unsqueeze(-2), sin.unsqueeze(-2)
            return torch.cat((a * c - b * s, b * c + a * s), dim=-1).reshape(shape)

        return turn(query), turn(key)


class LlamaMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_up_proj = nn.Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)
        self.act_fn = SiluAndMul()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_up_proj(x)))


class LlamaAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n, self.k, self.d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_size, self.kv_size = self.n * self.d, self.k * self.d
        self.scaling = self.d**-0.5
        self.qkv_proj = nn.Linear(c.hidden_size, self.q_size + 2 * self.kv_size, bias=False)
        self.o_proj = nn.Linear(self.q_size, c.hidden_size, bias=False)
        self.rotary_emb = RotaryEmbedding(c)

    def forward(self, positions, hidden_states):
        q, k, v = self.qkv_proj(hidden_states).split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        b, t, _ = q.shape
        q, k, v = (z.view(b, t, -1, self.d).transpose(1, 2) for z in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling, enable_gqa=True)
        return self.o_proj(o.transpose(1, 2).reshape(b, t, -1))


class LlamaDecoderLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = LlamaAttention(c)
        self.mlp = LlamaMLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, positions, hidden_states, residual):
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


class LlamaModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.padded = (c.vocab_size + 63) // 64 * 64
        self.embed_tokens = nn.Embedding(self.padded, c.hidden_size)
        self.layers = nn.ModuleList([LlamaDecoderLayer(c) for _ in range(c.num_hidden_layers)])
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, input_ids, positions):
        h, residual = self.embed_tokens(input_ids), None
        for layer in self.layers:
            h, residual = layer(positions, h, residual)
        h, _ = self.norm(h, residual)
        return h


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = LlamaModel(c)
        self.lm_head = nn.Linear(c.hidden_size, self.model.padded, bias=False)
        if c.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids):
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        return self.lm_head(self.model(input_ids, positions))[..., : self.c.vocab_size]


def load_weights(model, tensors):
    params = dict(model.named_parameters())
    stacked = [
        ("qkv_proj", "q_proj", "q"),
        ("qkv_proj", "k_proj", "k"),
        ("qkv_proj", "v_proj", "v"),
        ("gate_up_proj", "gate_proj", 0),
        ("gate_up_proj", "up_proj", 1),
    ]
    c = model.c
    q, kv, i = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim, c.intermediate_size
    rows = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv), 0: (0, i), 1: (i, 2 * i)}
    for name, w in tensors.items():
        for new, old, shard in stacked:
            if f".{old}." in name:
                a, b = rows[shard]
                params[name.replace(old, new)].data[a:b] = w
                break
        else:
            params[name].data[: w.shape[0]] = w
