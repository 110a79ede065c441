"""Qwen3 with TorchScript helpers that cast to float32, and half-width cosines and sines inside each attention."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

MODEL_TYPES = ("qwen3",)


class Config(SimpleNamespace):
    @classmethod
    def from_hf(cls, hf):
        return cls(**hf)


@dataclass
class Output:
    logits: torch.Tensor
    last_hidden: torch.Tensor


@torch.jit.script
def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x.float(), 2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).type_as(x)


@torch.jit.script
def swiglu(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(a) * b


class Rotary(nn.Module):
    def __init__(self, dim, base):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim)), persistent=True)

    def forward(self, seq_len):
        freqs = torch.outer(torch.arange(seq_len, dtype=self.inv_freq.dtype), self.inv_freq)
        return freqs.cos()[None, :, None], freqs.sin()[None, :, None]


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm, self.k_norm = (
            nn.RMSNorm(c.head_dim, eps=c.rms_norm_eps),
            nn.RMSNorm(c.head_dim, eps=c.rms_norm_eps),
        )
        self.rotary = Rotary(c.head_dim, c.rope_theta)

    def forward(self, x):
        c = self.c
        B, T, _ = x.size()
        q = self.q_norm(self.q_proj(x).view(B, T, -1, c.head_dim))
        k = self.k_norm(self.k_proj(x).view(B, T, -1, c.head_dim))
        v = self.v_proj(x).view(B, T, -1, c.head_dim)
        cos, sin = self.rotary(T)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        g = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(g, 2), v.repeat_interleave(g, 2)
        y = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        return self.o_proj(y.transpose(1, 2).contiguous().view(B, T, -1))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention_norm, self.ffn_norm = (
            nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
            nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
        )
        self.attention = Attention(c)
        self.gate = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        y = self.ffn_norm(x)
        return (x + self.down(swiglu(self.gate(y), self.up(y))),)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.tok_emb = nn.Embedding(c.vocab_size, c.hidden_size)
        self.transformer = nn.ModuleDict({"h": nn.ModuleList([Block(c) for _ in range(c.num_hidden_layers)])})
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)

    @torch.inference_mode()
    def forward(self, ids):
        x = self.tok_emb(ids)
        for b in self.transformer["h"]:
            x = b(x)[0]
        x = self.norm(x)
        return Output(logits=torch.nn.functional.linear(x, self.tok_emb.weight), last_hidden=x)


WEIGHTS = {
    "model.embed_tokens.weight": "tok_emb.weight",
    "model.norm.weight": "norm.weight",
    "model.layers.{}.input_layernorm.weight": "transformer.h.{}.attention_norm.weight",
    "model.layers.{}.post_attention_layernorm.weight": "transformer.h.{}.ffn_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "transformer.h.{}.attention.q_proj.weight",
    "model.layers.{}.self_attn.k_proj.weight": "transformer.h.{}.attention.k_proj.weight",
    "model.layers.{}.self_attn.v_proj.weight": "transformer.h.{}.attention.v_proj.weight",
    "model.layers.{}.self_attn.o_proj.weight": "transformer.h.{}.attention.o_proj.weight",
    "model.layers.{}.self_attn.q_norm.weight": "transformer.h.{}.attention.q_norm.weight",
    "model.layers.{}.self_attn.k_norm.weight": "transformer.h.{}.attention.k_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "transformer.h.{}.gate.weight",
    "model.layers.{}.mlp.up_proj.weight": "transformer.h.{}.up.weight",
    "model.layers.{}.mlp.down_proj.weight": "transformer.h.{}.down.weight",
}
