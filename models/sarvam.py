"""Sarvam, from scratch: Sarvam 30B (`sarvam_moe`) and Sarvam 105B (`sarvam_mla`).

Read from the released config.json files and from what the code released beside the weights computes; the papers are
those of the parts (https://arxiv.org/abs/2412.19437).
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size, N tokens of all rows, E experts, X experts per token, G groups of
experts; in the larger model P features of a head without position, R rotated ones, D = P + R, U features of a value,
L of the latent.

What makes it Sarvam:
  - the smaller one has grouped-query attention: queries, keys and values come from one matrix, each head's queries and
    keys are normed, and all of a head is rotated, with a base of 8 million;
  - the larger one has latent attention (MLA) whose queries are not compressed, features that pair with their
    neighbours in a rotation, and slow rotations stretched by YaRN (https://arxiv.org/abs/2309.00071);
  - in both the first layer is dense, all others have routed experts and one that sees every token;
  - the router scores each expert by itself, with a sigmoid: a bias that balances the load takes part in the choice and
    not in the shares, which are brought to a sum of one, then scaled;
  - the larger one chooses within the best 2 of its groups of 8 experts, which its config.json does not say;
  - what the chosen experts give is added up in float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("sarvam_moe", "sarvam_mla")

COMMON = {
    "model.layers.{}.input_layernorm.weight": "layers.{}.pre_attention_norm.weight",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.pre_mlp_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",
    "model.layers.{}.mlp.gate.weight": "layers.{}.mlp.router.weight",
    "model.layers.{}.mlp.experts.{}.gate_proj.weight": "layers.{}.mlp.experts.{}.gate_proj.weight",
    "model.layers.{}.mlp.experts.{}.up_proj.weight": "layers.{}.mlp.experts.{}.up_proj.weight",
    "model.layers.{}.mlp.experts.{}.down_proj.weight": "layers.{}.mlp.experts.{}.down_proj.weight",
    "model.layers.{}.mlp.shared_experts.gate_proj.weight": "layers.{}.mlp.shared.gate_proj.weight",
    "model.layers.{}.mlp.shared_experts.up_proj.weight": "layers.{}.mlp.shared.up_proj.weight",
    "model.layers.{}.mlp.shared_experts.down_proj.weight": "layers.{}.mlp.shared.down_proj.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}
GROUPED = {
    "model.word_embeddings.weight": "embed_tokens.weight",
    "model.layers.{}.attention.query_key_value.weight": "layers.{}.attention.qkv_proj.weight",
    "model.layers.{}.attention.query_key_value.bias": "layers.{}.attention.qkv_proj.bias",
    "model.layers.{}.attention.query_layernorm.weight": "layers.{}.attention.q_norm.weight",
    "model.layers.{}.attention.key_layernorm.weight": "layers.{}.attention.k_norm.weight",
    "model.layers.{}.attention.dense.weight": "layers.{}.attention.o_proj.weight",
    "model.layers.{}.mlp.gate.expert_bias": "layers.{}.mlp.router.correction",
}
LATENT = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.attention.q_proj.weight",
    "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight": "layers.{}.attention.kv_a_proj.weight",
    "model.layers.{}.self_attn.kv_a_layernorm.weight": "layers.{}.attention.kv_a_norm.weight",
    "model.layers.{}.self_attn.kv_b_proj.weight": "layers.{}.attention.kv_b_proj.weight",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.attention.o_proj.weight",
    "model.layers.{}.mlp.gate.e_score_correction_bias": "layers.{}.mlp.router.correction",
}
WEIGHTS = COMMON | GROUPED | LATENT


@dataclass(frozen=True)
class Yarn:
    """How slow rotations are stretched, told by the turns they make within the original context.

    Those of more than beta_fast turns are kept, those of fewer than beta_slow are divided by factor, with a ramp
    between. mscale says how much cosines and sines grow with the factor, mscale_all_dim how much of that is left to the
    scores.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    mscale: float
    mscale_all_dim: float


@dataclass(frozen=True)
class Grouped:
    """Attention in groups of heads that share a key, and its plain rotary position encoding."""

    num_key_value_heads: int
    head_dim: int
    use_qk_norm: bool
    use_qkv_bias: bool


@dataclass(frozen=True)
class Latent:
    """Attention whose keys and values come from a latent, and how its rotations are stretched."""

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    yarn: Yarn


@dataclass(frozen=True)
class Config:
    """What Sarvam reads from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_experts: int
    num_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    first_k_dense_replace: int
    num_hidden_layers: int
    num_attention_heads: int
    attention: Grouped | Latent
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Read a parsed config.json.

        Raises:
            ValueError: the config asks for something this file does not implement.
        """
        for name, value in (("hidden_act", "silu"), ("score_function", "sigmoid"), ("norm_topk_prob", True)):
            if hf.get(name, value) != value:
                raise ValueError(f"{name} {hf[name]!r} is not implemented, only {value!r}")
        if not hf.get("num_shared_experts", 1):
            raise ValueError("num_shared_experts 0 is not implemented, one expert at least sees every token")
        if hf["num_experts_per_tok"] == 1:
            raise ValueError("num_experts_per_tok 1 is not implemented, its share would not be brought to one")
        latent = hf["model_type"] == "sarvam_mla"
        experts = hf["num_experts"]
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            moe_intermediate_size=hf["moe_intermediate_size"],
            num_experts=experts,
            num_shared_experts=hf.get("num_shared_experts", 1),
            num_experts_per_tok=hf["num_experts_per_tok"],
            n_group=hf.get("n_group", experts // 8 if latent else 1),
            topk_group=hf.get("topk_group", 2 if latent else 1),
            routed_scaling_factor=hf.get("routed_scaling_factor", 2.5),
            first_k_dense_replace=hf.get("first_k_dense_replace", 1),
            num_hidden_layers=hf["num_hidden_layers"],
            num_attention_heads=hf["num_attention_heads"],
            attention=_latent(hf) if latent else _grouped(hf),
            rope_theta=_rope(hf).get("rope_theta", hf.get("rope_theta", 10_000.0)),
            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
        )


def _grouped(hf: Mapping[str, Any]) -> Grouped:
    """Attention of the smaller model, whose positions are not stretched."""
    if hf.get("use_bias"):
        raise ValueError("use_bias is not implemented, what heads give is projected without a bias")
    rope_type = _rope_type(hf)
    if rope_type != "default":
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default'")
    return Grouped(
        num_key_value_heads=hf["num_key_value_heads"],
        head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
        use_qk_norm=hf.get("use_qk_norm", True),
        use_qkv_bias=hf.get("use_qkv_bias", False),
    )


def _latent(hf: Mapping[str, Any]) -> Latent:
    """Attention of the larger model, whose positions are always stretched."""
    for name in ("q_lora_rank", "attention_bias"):
        if hf.get(name):
            raise ValueError(f"{name} {hf[name]!r} is not implemented, queries are not compressed and have no bias")
    rope, rope_type = _rope(hf), _rope_type(hf)
    if rope_type not in ("deepseek_yarn", "yarn"):
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'deepseek_yarn'")
    if not rope.get("mscale", 1.0) or not rope.get("mscale_all_dim"):
        raise ValueError("YaRN without mscale and mscale_all_dim is not implemented")
    return Latent(
        kv_lora_rank=hf["kv_lora_rank"],
        qk_nope_head_dim=hf["qk_nope_head_dim"],
        qk_rope_head_dim=hf["qk_rope_head_dim"],
        v_head_dim=hf["v_head_dim"],
        yarn=Yarn(
            factor=rope["factor"],
            beta_fast=rope.get("beta_fast", 32.0),
            beta_slow=rope.get("beta_slow", 1.0),
            original_max_position_embeddings=rope["original_max_position_embeddings"],
            mscale=rope.get("mscale", 1.0),
            mscale_all_dim=rope["mscale_all_dim"],
        ),
    )


def _rope(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, `rope_parameters` or the older `rope_scaling`, if there are any."""
    return hf.get("rope_scaling") or hf.get("rope_parameters") or {}


def _rope_type(hf: Mapping[str, Any]) -> str:
    """How positions are stretched; `default` if not at all."""
    settings = _rope(hf)
    return settings.get("rope_type", settings.get("type", "default"))


def _growth(factor: float, mscale: float) -> float:
    """By how much attention is sharpened for positions stretched by factor."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


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

    def __init__(self, rotary_dim: int, theta: float, yarn: Yarn | None):
        super().__init__()
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        inv_freq = 1.0 / (theta**exponents)
        self.scale = 1.0
        if yarn is not None:
            stretched = 1.0 / (yarn.factor * theta**exponents)
            kept = _kept(rotary_dim, theta, yarn)
            inv_freq = stretched * (1 - kept) + inv_freq * kept
            self.scale = _growth(yarn.factor, yarn.mscale) / _growth(yarn.factor, yarn.mscale_all_dim)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[1, T]` -> cos and sin `[1, T, R]`, in x's dtype."""
        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scale).to(x.dtype), (angles.sin() * self.scale).to(x.dtype)


def _kept(rotary_dim: int, theta: float, yarn: Yarn) -> Tensor:
    """How much of each rotation stays as it is, `[R/2]`: 1 for the fast ones, 0 for the slow ones, a ramp between."""
    original = yarn.original_max_position_embeddings

    def feature(turns: float) -> float:
        return rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(feature(yarn.beta_fast)), 0)
    last = min(math.ceil(feature(yarn.beta_slow)), rotary_dim - 1)
    ramp = (torch.arange(rotary_dim // 2, dtype=torch.float32) - first) / max(last - first, 0.001)
    return 1 - ramp.clamp(0, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotate `[B, heads, T, R]` by cos and sin `[1, T, R]`; features pair with the next one, or half with half.

    Those that pair with the next one are put half by half, which no product of queries and keys can tell.
    """
    cos, sin = cos[:, None], sin[:, None]
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    return torch.cat((first, second), dim=-1) * cos + torch.cat((-second, first), dim=-1) * sin


class LayerCache:
    """What one layer keeps of each token: keys and values, or a latent and a rotated key."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def append(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[..., T, features]` of each; return what these T queries may see, S of each, oldest first."""
        if self.kept is not None:
            first = torch.cat((self.kept[0], first), dim=-2)
            second = torch.cat((self.kept[1], second), dim=-2)
        self.kept = first, second
        return self.kept


class Cache:
    """The decoding state of all layers: how many tokens went in, which were real, and what layers keep."""

    def __init__(self, config: Config):
        self.layers = [LayerCache() for _ in range(config.num_hidden_layers)]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class GroupedAttention(nn.Module):
    """Grouped-query attention with q/k norm, from one projection."""

    def __init__(self, config: Config, own: Grouped):
        super().__init__()
        self.head_dim = own.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, own.num_key_value_heads
        self.groups = self.heads // self.kv_heads
        self.scale = own.head_dim**-0.5
        qkv_size = (self.heads + 2 * self.kv_heads) * own.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, qkv_size, bias=own.use_qkv_bias)
        self.o_proj = nn.Linear(self.heads * own.head_dim, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(own.head_dim, config.rms_norm_eps) if own.use_qk_norm else nn.Identity()
        self.k_norm = RMSNorm(own.head_dim, config.rms_norm_eps) if own.use_qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        qkv = self.qkv_proj(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        q, k = self.q_norm(q), self.k_norm(k)

        q, k = rotate(q, cos, sin, interleaved=False), rotate(k, cos, sin, interleaved=False)
        if cache is not None:
            k, v = cache.append(k, v)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))


class LatentAttention(nn.Module):
    """Multi-head latent attention (https://arxiv.org/abs/2405.04434)."""

    def __init__(self, config: Config, own: Latent):
        super().__init__()
        heads = config.num_attention_heads
        self.latent = own.kv_lora_rank
        self.nope, self.rope, self.value = own.qk_nope_head_dim, own.qk_rope_head_dim, own.v_head_dim
        head_dim = self.nope + self.rope
        self.scale = head_dim**-0.5 * _growth(own.yarn.factor, own.yarn.mscale_all_dim) ** 2
        self.q_proj = nn.Linear(config.hidden_size, heads * head_dim, bias=False)
        self.kv_a_proj = nn.Linear(config.hidden_size, self.latent + self.rope, bias=False)
        self.kv_a_norm = RMSNorm(self.latent, 1e-6)  # rms_norm_eps is not for this one
        self.kv_b_proj = nn.Linear(self.latent, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        q = self.q_proj(x).view(*x.shape[:2], -1, self.nope + self.rope).transpose(1, 2)
        q_kept, q_turned = q.split((self.nope, self.rope), dim=-1)
        latents, turned = self.kv_a_proj(x).split((self.latent, self.rope), dim=-1)
        latents = self.kv_a_norm(latents)

        q_turned = rotate(q_turned, cos, sin, interleaved=True)
        turned = rotate(turned[:, None], cos, sin, interleaved=True)
        if cache is not None:
            latents, turned = cache.append(latents, turned)
        kv = self.kv_b_proj(latents).view(*latents.shape[:2], -1, self.nope + self.value).transpose(1, 2)
        k_kept, v = kv.split((self.nope, self.value), dim=-1)
        q = torch.cat((q_kept, q_turned), dim=-1)
        k = torch.cat((k_kept, turned.expand(-1, k_kept.shape[1], -1, -1)), dim=-1)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))


class MLP(nn.Module):
    """Gated MLP: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config, size: int):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, size, bias=False)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` -> `[..., C]`."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Scores each expert by itself and picks the best for each token, all of it in float32."""

    def __init__(self, config: Config):
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.groups, self.chosen_groups = config.n_group, config.topk_group
        self.scale = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))
        self.correction = nn.Buffer(torch.zeros(config.num_experts))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C]` -> shares `[N, X]`, float32, and the experts they belong to, int64 `[N, X]`."""
        scores = torch.sigmoid(tokens.float() @ self.weight.float().T)
        chosen = torch.topk(self._within_groups(scores + self.correction), self.chosen, dim=-1, sorted=False).indices
        shares = scores.gather(1, chosen)
        return shares / (shares.sum(-1, keepdim=True) + 1e-20) * self.scale, chosen

    def _within_groups(self, scores: Tensor) -> Tensor:
        """`[N, E]` with -inf outside the best groups, a group being as good as its two best experts together."""
        grouped = scores.view(len(scores), self.groups, -1)
        best = torch.topk(grouped.topk(2, dim=-1).values.sum(-1), self.chosen_groups, dim=-1, sorted=False).indices
        outside = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
        return grouped.masked_fill(outside[..., None], float("-inf")).flatten(1)


class Experts(nn.Module):
    """Each token goes to X of E experts, whose outputs are added up by their shares, and to the shared expert."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.moe_intermediate_size
        self.router = Router(config)
        self.experts = nn.ModuleList(MLP(config, size) for _ in range(config.num_experts))
        self.shared = MLP(config, size * config.num_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        tokens = x.flatten(0, 1)
        shares, chosen = self.router(tokens)
        mixed = torch.zeros_like(tokens, dtype=torch.float32)
        for index, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == index)
            mixed = mixed.index_add(0, rows, expert(tokens[rows]) * shares[rows, places, None])
        return mixed.to(x.dtype).view_as(x) + self.shared(x)


def _attention(config: Config) -> nn.Module:
    """Attention of the kind that the config has."""
    own = config.attention
    return LatentAttention(config, own) if isinstance(own, Latent) else GroupedAttention(config, own)


class DecoderLayer(nn.Module):
    """Attention and experts or MLP, each normed before, each added to the residual stream."""

    def __init__(self, config: Config, sparse: bool):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.pre_attention_norm = RMSNorm(size, eps)
        self.attention = _attention(config)
        self.pre_mlp_norm = RMSNorm(size, eps)
        self.mlp = Experts(config) if sparse else MLP(config, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        x = x + self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)
        return x + self.mlp(self.pre_mlp_norm(x))


class Model(nn.Module):
    """Sarvam for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        own = config.attention
        rotary_dim, yarn = (own.qk_rope_head_dim, own.yarn) if isinstance(own, Latent) else (own.head_dim, None)
        self.rotary = RotaryEmbedding(rotary_dim, config.rope_theta, yarn)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer >= config.first_k_dense_replace) for layer in range(config.num_hidden_layers)
        )
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


def _as_glm4_moe(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a GLM-4.5 that computes what `sarvam_moe` does: q/k norm, and all of a head rotated."""
    return _like(hf, groups=1, chosen_groups=1) | {
        "model_type": "glm4_moe",
        "num_key_value_heads": hf["num_key_value_heads"],
        "head_dim": hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
        "use_qk_norm": hf.get("use_qk_norm", True),
        "attention_bias": hf.get("use_qkv_bias", False),
        "rope_parameters": {**_turned(hf), "partial_rotary_factor": 1.0},
    }


def _as_deepseek_v3(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a DeepSeek V3 that computes what `sarvam_mla` does: queries that are not compressed."""
    return _like(hf, groups=hf["num_experts"] // 8, chosen_groups=2) | {
        "model_type": "deepseek_v3",
        "num_key_value_heads": hf["num_attention_heads"],
        "q_lora_rank": None,
        **{name: hf[name] for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
        "rope_interleave": True,
        "rope_parameters": {"mscale": 1.0, **_turned(hf), "rope_type": "yarn"},
    }


def _turned(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings in the newer form."""
    settings = {name: value for name, value in _rope(hf).items() if name != "type"}
    return {"rope_type": _rope_type(hf), "rope_theta": hf.get("rope_theta", 10_000.0), **settings}


def _like(hf: Mapping[str, Any], groups: int, chosen_groups: int) -> dict[str, Any]:
    """What both stand-ins are given alike; read from the config once more, so that `Config` is on trial as well."""
    same = ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_experts_per_tok")
    same += ("num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    given = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5}
    given |= {"n_group": groups, "topk_group": chosen_groups, "tie_word_embeddings": False}
    return {
        **{name: hf[name] for name in same},
        **{name: hf.get(name, default) for name, default in given.items()},
        "n_routed_experts": hf["num_experts"],
        "n_shared_experts": hf.get("num_shared_experts", 1),
        "norm_topk_prob": True,
    }


# transformers has no class for either model type. Of those that it has, these compute the same functions, from tensors
# of these names: queries, keys and values of the smaller model lie in one tensor on disk, one after another.
STAND_INS = {
    "sarvam_moe": (
        _as_glm4_moe,
        {
            **{name: name for name in COMMON},
            "model.word_embeddings.weight": "model.embed_tokens.weight",
            **{
                f"model.layers.{{}}.attention.query_key_value.{kind}": tuple(
                    f"model.layers.{{}}.self_attn.{part}_proj.{kind}" for part in "qkv"
                )
                for kind in ("weight", "bias")
            },
            "model.layers.{}.attention.query_layernorm.weight": "model.layers.{}.self_attn.q_norm.weight",
            "model.layers.{}.attention.key_layernorm.weight": "model.layers.{}.self_attn.k_norm.weight",
            "model.layers.{}.attention.dense.weight": "model.layers.{}.self_attn.o_proj.weight",
            "model.layers.{}.mlp.gate.expert_bias": "model.layers.{}.mlp.gate.e_score_correction_bias",
        },
    ),
    "sarvam_mla": (_as_deepseek_v3, {name: name for name in COMMON | LATENT}),
}
