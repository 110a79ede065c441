"""GLM-4.5 (mixture of experts), from scratch: GLM-4.5, GLM-4.5-Air, GLM-4.6, INTELLECT-3.

Read from the technical report (https://arxiv.org/abs/2508.06471) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size, N tokens of all rows, E experts, X experts per token,
G groups of experts, R rotated features of a head.

What makes it GLM-4.5:
  - only the first R features of a head are rotated, the others carry no position;
  - queries, keys and values have a bias; q/k norm is a setting, on in the larger models;
  - the first layers are dense, all others have routed experts and one that sees every token;
  - the router scores each expert by itself, with a sigmoid: a correction that balances the load takes part in the
    choice and not in the shares, and a choice may be within the best groups only (https://arxiv.org/abs/2412.19437);
  - the shares of the chosen are brought to a sum of one, then scaled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("glm4_moe",)

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
    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attention.q_norm.weight",
    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attention.k_norm.weight",
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
class Config:
    """What GLM-4.5 reads from config.json."""

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
    num_key_value_heads: int
    head_dim: int
    use_qk_norm: bool
    rotary_dim: int
    rope_theta: float
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
        head_dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
        rope = _rope(hf)
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            moe_intermediate_size=hf["moe_intermediate_size"],
            n_routed_experts=hf["n_routed_experts"],
            n_shared_experts=hf.get("n_shared_experts", 1),
            num_experts_per_tok=hf["num_experts_per_tok"],
            n_group=hf.get("n_group", 1),
            topk_group=hf.get("topk_group", 1),
            norm_topk_prob=hf.get("norm_topk_prob", True),
            routed_scaling_factor=hf.get("routed_scaling_factor", 1.0),
            first_k_dense_replace=hf.get("first_k_dense_replace", 1),
            num_hidden_layers=hf["num_hidden_layers"],
            num_attention_heads=hf["num_attention_heads"],
            num_key_value_heads=hf["num_key_value_heads"],
            head_dim=head_dim,
            use_qk_norm=hf.get("use_qk_norm", False),
            rotary_dim=int(head_dim * rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 0.5))),
            rope_theta=rope.get("rope_theta", hf.get("rope_theta", 10_000.0)),
            rms_norm_eps=hf.get("rms_norm_eps", 1e-5),
            attention_bias=hf.get("attention_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
        )


def _rope(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, `rope_parameters` or the older `rope_scaling`, if there are any."""
    settings = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default'")
    return settings


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

    def __init__(self, rotary_dim: int, theta: float):
        super().__init__()
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        self.inv_freq = nn.Buffer(1.0 / (theta**exponents), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[1, T]` -> cos and sin `[1, T, R]`, in x's dtype."""
        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R features of `[B, heads, T, D]` by cos and sin `[1, T, R]`; their halves pair."""
    cos, sin = cos[:, None], sin[:, None]
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, kept), dim=-1)


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
        self.layers = [LayerCache() for _ in range(config.num_hidden_layers)]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class Attention(nn.Module):
    """Grouped-query attention, with q/k norm if the config says so."""

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
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.use_qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.use_qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_norm(self.q_proj(x).view(heads).transpose(1, 2))
        k = self.k_norm(self.k_proj(x).view(heads).transpose(1, 2))
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
    """GLM-4.5 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryEmbedding(config.rotary_dim, config.rope_theta)
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
