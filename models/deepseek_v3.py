"""DeepSeek V3, from scratch: V3, V3.1, R1.

Read from the technical report (https://arxiv.org/abs/2412.19437) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H heads, P features of a head without position, R rotated
ones, D = P + R, U features of a value, L of the latent, C hidden_size, F intermediate_size, V vocab_size,
N tokens of all rows, E experts, X experts per token.

What makes it DeepSeek V3:
  - keys and values of all heads come from one small latent per token, which is all that a cache keeps of them (MLA);
  - position stands in R extra features of each query, and in one rotated key that all heads share; they pair up next to
    each other, not half with half;
  - slow rotations are stretched by YaRN (https://arxiv.org/abs/2309.00071), and scores are scaled up for it;
  - the first layers are dense, all others have routed experts and one that sees every token;
  - the router scores each expert by itself, with a sigmoid: a correction that balances the load takes part in the
    choice and not in the shares, and a choice is within the best groups of experts only;
  - the shares of the chosen are brought to a sum of one, then scaled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("deepseek_v3",)

WEIGHTS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{}.input_layernorm.weight": "layers.{}.pre_attention_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.attention.q_proj.weight",
    "model.layers.{}.self_attn.q_a_proj.weight": "layers.{}.attention.q_a_proj.weight",
    "model.layers.{}.self_attn.q_a_proj.bias": "layers.{}.attention.q_a_proj.bias",
    "model.layers.{}.self_attn.q_a_layernorm.weight": "layers.{}.attention.q_a_norm.weight",
    "model.layers.{}.self_attn.q_b_proj.weight": "layers.{}.attention.q_b_proj.weight",
    "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight": "layers.{}.attention.kv_a_proj.weight",
    "model.layers.{}.self_attn.kv_a_proj_with_mqa.bias": "layers.{}.attention.kv_a_proj.bias",
    "model.layers.{}.self_attn.kv_a_layernorm.weight": "layers.{}.attention.kv_a_norm.weight",
    "model.layers.{}.self_attn.kv_b_proj.weight": "layers.{}.attention.kv_b_proj.weight",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.attention.o_proj.weight",
    "model.layers.{}.self_attn.o_proj.bias": "layers.{}.attention.o_proj.bias",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.pre_mlp_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",
    "model.layers.{}.mlp.gate.weight": "layers.{}.mlp.router.weight",
    "model.layers.{}.mlp.gate.e_score_correction_bias": "layers.{}.mlp.router.correction",
    "model.layers.{}.mlp.experts.{}.gate_proj.weight": "layers.{}.mlp.experts.{}.gate_proj.weight",
    "model.layers.{}.mlp.experts.{}.up_proj.weight": "layers.{}.mlp.experts.{}.up_proj.weight",
    "model.layers.{}.mlp.experts.{}.down_proj.weight": "layers.{}.mlp.experts.{}.down_proj.weight",
    "model.layers.{}.mlp.shared_experts.gate_proj.weight": "layers.{}.mlp.shared.gate_proj.weight",
    "model.layers.{}.mlp.shared_experts.up_proj.weight": "layers.{}.mlp.shared.up_proj.weight",
    "model.layers.{}.mlp.shared_experts.down_proj.weight": "layers.{}.mlp.shared.down_proj.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}


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
class Rope:
    """One rotary position encoding: its base, and how it is stretched."""

    theta: float
    yarn: Yarn | None


@dataclass(frozen=True)
class Config:
    """What DeepSeek V3 reads from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    first_k_dense_replace: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rope: Rope
    rope_interleave: bool
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
        if hf.get("scoring_func", "sigmoid") != "sigmoid":
            raise ValueError(f"scoring_func {hf['scoring_func']!r} is not implemented, only 'sigmoid'")
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            moe_intermediate_size=hf["moe_intermediate_size"],
            n_routed_experts=hf["n_routed_experts"],
            n_shared_experts=hf.get("n_shared_experts", 1),
            num_experts_per_tok=hf["num_experts_per_tok"],
            n_group=hf.get("n_group", 8),
            topk_group=hf.get("topk_group", 4),
            norm_topk_prob=hf.get("norm_topk_prob", True),
            routed_scaling_factor=hf.get("routed_scaling_factor", 2.5),
            first_k_dense_replace=hf.get("first_k_dense_replace", 3),
            num_hidden_layers=hf["num_hidden_layers"],
            num_attention_heads=hf["num_attention_heads"],
            q_lora_rank=hf.get("q_lora_rank"),
            kv_lora_rank=hf["kv_lora_rank"],
            qk_nope_head_dim=hf["qk_nope_head_dim"],
            qk_rope_head_dim=hf["qk_rope_head_dim"],
            v_head_dim=hf["v_head_dim"],
            rope=_rope(hf),
            rope_interleave=hf.get("rope_interleave", True),
            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
            attention_bias=hf.get("attention_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
        )


def _rope(hf: Mapping[str, Any]) -> Rope:
    """The rotary settings, from `rope_parameters` or from the older flat fields."""
    settings = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    if rope_type not in ("default", "yarn"):
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default' and 'yarn'")
    theta = settings.get("rope_theta", hf.get("rope_theta", 10_000.0))
    return Rope(theta, _yarn(settings) if rope_type == "yarn" else None)


def _yarn(settings: Mapping[str, Any]) -> Yarn:
    """The stretch; without both of mscale and mscale_all_dim cosines and sines grow by the usual measure."""
    if settings.get("attention_factor") is not None or settings.get("truncate") is False:
        raise ValueError("attention_factor and truncate of YaRN are not implemented")
    return Yarn(
        factor=settings["factor"],
        beta_fast=settings.get("beta_fast") or 32.0,
        beta_slow=settings.get("beta_slow") or 1.0,
        original_max_position_embeddings=settings["original_max_position_embeddings"],
        mscale=settings.get("mscale") or 0.0,
        mscale_all_dim=settings.get("mscale_all_dim") or 0.0,
    )


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

    def __init__(self, rotary_dim: int, rope: Rope):
        super().__init__()
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        inv_freq = 1.0 / (rope.theta**exponents)
        self.scale = 1.0
        if rope.yarn is not None:
            stretched = 1.0 / (rope.yarn.factor * rope.theta**exponents)
            kept = _kept(rotary_dim, rope.theta, rope.yarn)
            inv_freq = stretched * (1 - kept) + inv_freq * kept
            self.scale = _attention_factor(rope.yarn)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[1, T]` -> cos and sin `[1, T, R]`, in x's dtype."""
        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scale).to(x.dtype), (angles.sin() * self.scale).to(x.dtype)


def _attention_factor(yarn: Yarn) -> float:
    """What cosines and sines are multiplied by."""
    if yarn.mscale and yarn.mscale_all_dim:
        return _growth(yarn.factor, yarn.mscale) / _growth(yarn.factor, yarn.mscale_all_dim)
    return _growth(yarn.factor, 1.0)


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
    """Latents and rotated keys of one layer."""

    def __init__(self) -> None:
        self.latents: Tensor | None = None
        self.turned: Tensor | None = None

    def append(self, latents: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[B, T, L]` and `[B, 1, T, R]`; return what these T queries may see, S of each, oldest first."""
        if self.latents is not None and self.turned is not None:
            latents = torch.cat((self.latents, latents), dim=1)
            turned = torch.cat((self.turned, turned), dim=2)
        self.latents, self.turned = latents, turned
        return latents, turned


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


class Attention(nn.Module):
    """Multi-head latent attention (https://arxiv.org/abs/2405.04434)."""

    def __init__(self, config: Config):
        super().__init__()
        heads, bias = config.num_attention_heads, config.attention_bias
        self.interleaved = config.rope_interleave
        self.latent = config.kv_lora_rank
        self.nope, self.rope, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        head_dim = self.nope + self.rope
        self.scale = head_dim**-0.5
        if config.rope.yarn is not None:
            self.scale *= _growth(config.rope.yarn.factor, config.rope.yarn.mscale_all_dim) ** 2
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(config.hidden_size, heads * head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=bias)
            self.q_a_norm = RMSNorm(config.q_lora_rank, 1e-6)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * head_dim, bias=False)
        self.compressed = config.q_lora_rank is not None
        self.kv_a_proj = nn.Linear(config.hidden_size, self.latent + self.rope, bias=bias)
        self.kv_a_norm = RMSNorm(self.latent, 1e-6)  # rms_norm_eps is not for these two
        self.kv_b_proj = nn.Linear(self.latent, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, config.hidden_size, bias=bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        q = self.q_b_proj(self.q_a_norm(self.q_a_proj(x))) if self.compressed else self.q_proj(x)
        q = q.view(*x.shape[:2], -1, self.nope + self.rope).transpose(1, 2)
        q_kept, q_turned = q.split((self.nope, self.rope), dim=-1)
        latents, turned = self.kv_a_proj(x).split((self.latent, self.rope), dim=-1)
        latents = self.kv_a_norm(latents)

        q_turned = rotate(q_turned, cos, sin, self.interleaved)
        turned = rotate(turned[:, None], cos, sin, self.interleaved)
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
        self.normalised = config.norm_topk_prob
        self.scale = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.correction = nn.Buffer(torch.zeros(config.n_routed_experts))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C]` -> shares `[N, X]`, float32, and the experts they belong to, int64 `[N, X]`."""
        scores = torch.sigmoid(tokens.float() @ self.weight.float().T)
        chosen = torch.topk(self._within_groups(scores + self.correction), self.chosen, dim=-1, sorted=False).indices
        shares = scores.gather(1, chosen)
        if self.normalised:
            shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
        return shares * self.scale, chosen

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
        self.experts = nn.ModuleList(MLP(config, size) for _ in range(config.n_routed_experts))
        self.shared = MLP(config, size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        tokens = x.flatten(0, 1)
        shares, chosen = self.router(tokens)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == index)
            mixed = mixed.index_add(0, rows, (expert(tokens[rows]) * shares[rows, places, None]).to(mixed.dtype))
        return mixed.view_as(x) + self.shared(x)


class DecoderLayer(nn.Module):
    """Attention and experts or MLP, each normed before, each added to the residual stream."""

    def __init__(self, config: Config, sparse: bool):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.pre_attention_norm = RMSNorm(size, eps)
        self.attention = Attention(config)
        self.pre_mlp_norm = RMSNorm(size, eps)
        self.mlp = Experts(config) if sparse else MLP(config, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        x = x + self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)
        return x + self.mlp(self.pre_mlp_norm(x))


class Model(nn.Module):
    """DeepSeek V3 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryEmbedding(config.qk_rope_head_dim, config.rope)
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
