"""OLMo 3, from scratch: 7B, 32B.

Read from the report (https://arxiv.org/abs/2512.13961) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size.

What makes it OLMo 3:
  - norms stand behind attention and behind the MLP, before each is added; nothing is normed on the way in;
  - queries and keys are normalised over all heads together, before they are rotated;
  - three layers out of four attend to a sliding window only;
  - the full layers stretch slow rotations by YaRN (https://arxiv.org/abs/2309.00071), the sliding ones stretch none;
  - rotations are done in float32, and a norm casts back only after it has scaled by its weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("olmo3",)

WEIGHTS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.attention.q_proj.weight",
    "model.layers.{}.self_attn.q_proj.bias": "layers.{}.attention.q_proj.bias",
    "model.layers.{}.self_attn.k_proj.weight": "layers.{}.attention.k_proj.weight",
    "model.layers.{}.self_attn.k_proj.bias": "layers.{}.attention.k_proj.bias",
    "model.layers.{}.self_attn.v_proj.weight": "layers.{}.attention.v_proj.weight",
    "model.layers.{}.self_attn.v_proj.bias": "layers.{}.attention.v_proj.bias",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.attention.o_proj.weight",
    "model.layers.{}.self_attn.o_proj.bias": "layers.{}.attention.o_proj.bias",
    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attention.q_norm.weight",
    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attention.k_norm.weight",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.post_attention_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",
    "model.layers.{}.post_feedforward_layernorm.weight": "layers.{}.post_mlp_norm.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Yarn:
    """How slow rotations are stretched, told by the turns they make within the original context.

    Those of more than beta_fast turns are kept, those of fewer than beta_slow are divided by factor, with a ramp
    between. attention_factor multiplies cosines and sines.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    attention_factor: float


@dataclass(frozen=True)
class Rope:
    """One rotary position encoding: its base, and how it is stretched."""

    theta: float
    yarn: Yarn | None


@dataclass(frozen=True)
class Config:
    """What OLMo 3 reads from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    sliding_window: int
    rope: Mapping[str, Rope]
    rms_norm_eps: float
    attention_bias: bool
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
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            num_attention_heads=hf["num_attention_heads"],
            num_key_value_heads=hf.get("num_key_value_heads") or hf["num_attention_heads"],
            head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
            layer_types=_layer_types(hf),
            sliding_window=hf.get("sliding_window", 4096),
            rope={kind: _rope(hf, kind) for kind in ("sliding_attention", "full_attention")},
            rms_norm_eps=hf.get("rms_norm_eps", 1e-5),
            attention_bias=hf.get("attention_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
        )


def _layer_types(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of each layer, by default every fourth one full."""
    if hf.get("layer_types"):
        unknown = set(hf["layer_types"]) - {"sliding_attention", "full_attention"}
        if unknown:
            raise ValueError(f"layer type {sorted(unknown)[0]!r} is not implemented")
        return tuple(hf["layer_types"])
    layers = range(1, hf["num_hidden_layers"] + 1)
    return tuple("sliding_attention" if layer % 4 else "full_attention" for layer in layers)


def _rope(hf: Mapping[str, Any], kind: str) -> Rope:
    """The rotary settings of one kind of layer, from `rope_parameters` or from the older flat fields."""
    settings = dict((hf.get("rope_parameters") or {}).get(kind) or {})
    if kind == "full_attention":
        settings.update(hf.get("rope_scaling") or {})
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    if rope_type not in ("default", "yarn"):
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default' and 'yarn'")
    theta = settings.get("rope_theta", hf.get("rope_theta", 500_000.0))
    return Rope(theta, _yarn(settings) if rope_type == "yarn" else None)


def _yarn(settings: Mapping[str, Any]) -> Yarn:
    """The stretch; without an attention_factor it follows from factor."""
    if settings.get("mscale") or settings.get("mscale_all_dim"):
        raise ValueError("mscale of YaRN is not implemented")
    factor = settings["factor"]
    inferred = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    return Yarn(
        factor=factor,
        beta_fast=settings.get("beta_fast") or 32.0,
        beta_slow=settings.get("beta_slow") or 1.0,
        original_max_position_embeddings=settings["original_max_position_embeddings"],
        attention_factor=settings.get("attention_factor") or inferred,
    )


class RMSNorm(nn.Module):
    """Root-mean-square norm that scales by weight, all of it in float32 before the cast back."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> `[..., size]`."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position encoding (https://arxiv.org/abs/2104.09864)."""

    def __init__(self, head_dim: int, rope: Rope):
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        inv_freq = 1.0 / (rope.theta**exponents)
        self.scale = 1.0
        if rope.yarn is not None:
            stretched = 1.0 / (rope.yarn.factor * rope.theta**exponents)
            kept = _kept(head_dim, rope.theta, rope.yarn)
            inv_freq = stretched * (1 - kept) + inv_freq * kept
            self.scale = rope.yarn.attention_factor
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[1, T]` -> cos and sin `[1, T, D]`, float32."""
        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scale, angles.sin() * self.scale


def _kept(head_dim: int, theta: float, yarn: Yarn) -> Tensor:
    """How much of each rotation stays as it is, `[D/2]`: 1 for the fast ones, 0 for the slow ones, a ramp between."""
    original = yarn.original_max_position_embeddings

    def feature(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(feature(yarn.beta_fast)), 0)
    last = min(math.ceil(feature(yarn.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - first) / max(last - first, 0.001)
    return 1 - ramp.clamp(0, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[B, heads, T, D]` by cos and sin `[1, T, D]` in float32; the first half of D pairs with the second."""
    cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class LayerCache:
    """Keys and values of one layer; a sliding layer keeps no more than its window can still see."""

    def __init__(self, keep: int | None):
        self.keep = keep
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[B, K, T, D]`; return what these T queries may see, `[B, K, S, D]`, oldest first."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        oldest = 0 if self.keep is None else max(0, keys.shape[2] - self.keep)
        self.keys, self.values = keys[:, :, oldest:], values[:, :, oldest:]
        return keys, values


class Cache:
    """The decoding state of all layers: how many tokens went in, which were real, and their keys and values."""

    def __init__(self, config: Config):
        # A query sees itself and the window - 1 keys before it, so more than that never needs keeping.
        kept = {"sliding_attention": config.sliding_window - 1, "full_attention": None}
        self.layers = [LayerCache(kept[kind]) for kind in config.layer_types]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class Attention(nn.Module):
    """Grouped-query attention with q/k norm over all heads together."""

    def __init__(self, config: Config):
        super().__init__()
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
        self.q_norm = RMSNorm(q_size, config.rms_norm_eps)
        self.k_norm = RMSNorm(kv_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_norm(self.q_proj(x)).view(heads).transpose(1, 2)
        k = self.k_norm(self.k_proj(x)).view(heads).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)

        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible[..., -k.shape[2] :], torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))


class MLP(nn.Module):
    """Gated MLP: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each normed behind, each added to the residual stream."""

    def __init__(self, config: Config):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention = Attention(config)
        self.post_attention_norm = RMSNorm(size, eps)
        self.mlp = MLP(config)
        self.post_mlp_norm = RMSNorm(size, eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        x = x + self.post_attention_norm(self.attention(x, cos, sin, visible, cache))
        return x + self.post_mlp_norm(self.mlp(x))


class Model(nn.Module):
    """OLMo 3 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = nn.ModuleDict(
            {kind: RotaryEmbedding(config.head_dim, rope) for kind, rope in config.rope.items()}
        )
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in config.layer_types)
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
        rotations = {kind: rotary(positions) for kind, rotary in self.rotary.items()}
        for index, (kind, layer) in enumerate(zip(self.config.layer_types, self.layers, strict=True)):
            x = layer(x, *rotations[kind], visible[kind], None if cache is None else cache.layers[index])
        return self.lm_head(self.norm(x))

    def _visible(self, real: Tensor, start: int) -> dict[str, Tensor]:
        """Per kind of layer, `[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        causal = (distance >= 0) & real[:, None, None]
        return {"full_attention": causal, "sliding_attention": causal & (distance < self.config.sliding_window)}
