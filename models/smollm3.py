"""SmolLM3, from scratch: 3B.

Read from the report (https://huggingface.co/blog/smollm3) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size.

What makes it SmolLM3:
  - every fourth layer has no position encoding at all (https://arxiv.org/abs/2501.18795): its keys are told apart by
    content and by the causal mask alone;
  - every layer attends to everything, several query heads sharing one key/value head;
  - two norms per layer, before attention and before the MLP, each scaling by its weight;
  - the embedding is shared with the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("smollm3",)

WEIGHTS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{}.input_layernorm.weight": "layers.{}.pre_attention_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.attention.q_proj.weight",
    "model.layers.{}.self_attn.q_proj.bias": "layers.{}.attention.q_proj.bias",
    "model.layers.{}.self_attn.k_proj.weight": "layers.{}.attention.k_proj.weight",
    "model.layers.{}.self_attn.k_proj.bias": "layers.{}.attention.k_proj.bias",
    "model.layers.{}.self_attn.v_proj.weight": "layers.{}.attention.v_proj.weight",
    "model.layers.{}.self_attn.v_proj.bias": "layers.{}.attention.v_proj.bias",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.attention.o_proj.weight",
    "model.layers.{}.self_attn.o_proj.bias": "layers.{}.attention.o_proj.bias",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.pre_mlp_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.gate_proj.bias": "layers.{}.mlp.gate_proj.bias",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.up_proj.bias": "layers.{}.mlp.up_proj.bias",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",
    "model.layers.{}.mlp.down_proj.bias": "layers.{}.mlp.down_proj.bias",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Config:
    """What SmolLM3 reads from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotated: tuple[bool, ...]
    rope_theta: float
    rms_norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Read a parsed config.json.

        Raises:
            ValueError: the config asks for something this file does not implement.
        """
        activation = hf.get("hidden_act") or "silu"
        if activation != "silu":
            raise ValueError(f"hidden_act {activation!r} is not implemented, only 'silu'")
        if hf.get("use_sliding_window"):
            raise ValueError("use_sliding_window is not implemented, every layer attends to everything")
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            num_attention_heads=hf["num_attention_heads"],
            num_key_value_heads=hf.get("num_key_value_heads", 4) or hf["num_attention_heads"],
            head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
            rotated=_rotated(hf),
            rope_theta=_rope_theta(hf),
            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
            attention_bias=hf.get("attention_bias", False),
            mlp_bias=hf.get("mlp_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
        )


def _rotated(hf: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which layers rotate: those with a 1 in `no_rope_layers`, by default all but each fourth."""
    layers = range(hf["num_hidden_layers"])
    if hf.get("no_rope_layers"):
        return tuple(bool(hf["no_rope_layers"][layer]) for layer in layers)
    interval = hf.get("no_rope_layer_interval", 4)
    return tuple((layer + 1) % interval != 0 for layer in layers)


def _rope_theta(hf: Mapping[str, Any]) -> float:
    """The rotary base, from `rope_parameters` or from the older flat fields."""
    settings = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default'")
    return settings.get("rope_theta", hf.get("rope_theta", 2_000_000.0))


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before it scales by weight."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> `[..., size]`."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position encoding (https://arxiv.org/abs/2104.09864)."""

    def __init__(self, head_dim: int, theta: float):
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.inv_freq = nn.Buffer(1.0 / (theta**exponents), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[1, T]` -> cos and sin `[1, T, D]`, in x's dtype."""
        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[B, heads, T, D]` by cos and sin `[1, T, D]`; the first half of D pairs with the second."""
    cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class LayerCache:
    """Keys and values of one layer."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[B, K, T, D]`; return what these T queries may see, `[B, K, S, D]`, oldest first."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Cache:
    """The decoding state of all layers: how many tokens went in, which were real, and their keys and values."""

    def __init__(self, config: Config):
        self.layers = [LayerCache() for _ in config.rotated]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class Attention(nn.Module):
    """Grouped-query attention, with rotated queries and keys or without."""

    def __init__(self, config: Config, rotated: bool):
        super().__init__()
        self.rotated = rotated
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.scale = config.head_dim**-0.5
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)
        k = self.k_proj(x).view(heads).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)

        if self.rotated:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))


class MLP(nn.Module):
    """Gated MLP: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config):
        super().__init__()
        bias = config.mlp_bias
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each normed before, each added to the residual stream."""

    def __init__(self, config: Config, rotated: bool):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.pre_attention_norm = RMSNorm(size, eps)
        self.attention = Attention(config, rotated)
        self.pre_mlp_norm = RMSNorm(size, eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        x = x + self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)
        return x + self.mlp(self.pre_mlp_norm(x))


class Model(nn.Module):
    """SmolLM3 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryEmbedding(config.head_dim, config.rope_theta)
        self.layers = nn.ModuleList(DecoderLayer(config, rotated) for rotated in config.rotated)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def new_cache(self, batch_size: int) -> Cache:
        """An empty cache; its tensors take their batch size from the first call."""
        return Cache(self.config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """`[B, T]` int64 -> logits `[B, T, V]`.

        attention_mask `[B, T]` is 1 for real tokens and 0 for padding. Rotary attention depends on the distance
        between positions alone, so padding on the left needs no positions of its own.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        start = 0 if cache is None else cache.length
        real = (real if cache is None else cache.extend(real)).bool()
        visible = self._visible(real, start)

        x = self.embed_tokens(input_ids)
        positions = torch.arange(start, real.shape[1], device=x.device)[None]
        cos, sin = self.rotary(x, positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, visible, None if cache is None else cache.layers[index])
        return self.lm_head(self.norm(x))

    def _visible(self, real: Tensor, start: int) -> Tensor:
        """`[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        return (distance >= 0) & real[:, None, None]
