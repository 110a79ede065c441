"""GLM-5 (sparse attention), from scratch: GLM-5, GLM-5.1, GLM-5.2.

Read from the reports (https://arxiv.org/abs/2602.15763, https://arxiv.org/abs/2512.02556) and the config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H heads, P features of a head without position, R rotated
ones, D = P + R, U features of a value, L of the latent, C hidden_size, F intermediate_size, V vocab_size,
N tokens of all rows, E experts, X experts per token, I heads of the indexer, J features of one.

What makes it GLM-5:
  - keys and values from a latent, a shared rotated key, and an indexer that picks the keys for each query, as in
    DeepSeek V3.2;
  - a layer may have no indexer of its own: it attends to the keys that the last one picked
    (https://arxiv.org/abs/2603.12201);
  - indexer and attention rotate alike, in pairs of neighbours, and no rotation is stretched;
  - dense layers first, then experts that a sigmoid router chooses, and one that sees every token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("glm_moe_dsa",)

WEIGHTS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{}.input_layernorm.weight": "layers.{}.pre_attention_norm.weight",
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
    "model.layers.{}.self_attn.indexer.wq_b.weight": "layers.{}.attention.indexer.q_proj.weight",
    "model.layers.{}.self_attn.indexer.wk.weight": "layers.{}.attention.indexer.k_proj.weight",
    "model.layers.{}.self_attn.indexer.k_norm.weight": "layers.{}.attention.indexer.k_norm.weight",
    "model.layers.{}.self_attn.indexer.k_norm.bias": "layers.{}.attention.indexer.k_norm.bias",
    "model.layers.{}.self_attn.indexer.weights_proj.weight": "layers.{}.attention.indexer.head_weights.weight",
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
    """What GLM-5 reads from config.json."""

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
    sparse_layers: tuple[bool, ...]
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    indexed_layers: tuple[bool, ...]
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
            n_group=hf.get("n_group", 1),
            topk_group=hf.get("topk_group", 1),
            norm_topk_prob=hf.get("norm_topk_prob", True),
            routed_scaling_factor=hf.get("routed_scaling_factor", 2.5),
            sparse_layers=_sparse_layers(hf),
            num_attention_heads=hf["num_attention_heads"],
            q_lora_rank=hf["q_lora_rank"],
            kv_lora_rank=hf["kv_lora_rank"],
            qk_nope_head_dim=hf["qk_nope_head_dim"],
            qk_rope_head_dim=hf["qk_rope_head_dim"],
            v_head_dim=hf["v_head_dim"],
            index_n_heads=hf["index_n_heads"],
            index_head_dim=hf["index_head_dim"],
            index_topk=hf["index_topk"],
            indexed_layers=_indexed_layers(hf),
            rope_theta=_rope_theta(hf),
            rms_norm_eps=hf.get("rms_norm_eps", 1e-5),
            attention_bias=hf.get("attention_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
        )


def _sparse_layers(hf: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which layers have experts, from `mlp_layer_types` or from the number of dense ones, which come first."""
    if hf.get("mlp_layer_types"):
        return tuple(kind == "sparse" for kind in hf["mlp_layer_types"])
    return tuple(layer >= hf.get("first_k_dense_replace", 3) for layer in range(hf["num_hidden_layers"]))


def _indexed_layers(hf: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which layers have an indexer of their own, from `indexer_types` or from a pattern or period."""
    kinds = hf.get("indexer_types") or hf.get("index_topk_pattern")
    if kinds:
        unknown = set(kinds) - {"full", "shared", "F", "S"}
        if unknown:
            raise ValueError(f"indexer type {sorted(unknown)[0]!r} is not implemented")
        return tuple(kind in ("full", "F") for kind in kinds)
    period, first = max(hf.get("index_topk_freq", 1), 1), hf.get("index_skip_topk_offset", 2) - 1
    return tuple(max(layer - first, 0) % period == 0 for layer in range(hf["num_hidden_layers"]))


def _rope_theta(hf: Mapping[str, Any]) -> float:
    """The rotary base, from `rope_parameters` or from the older flat fields."""
    settings = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default'")
    return settings.get("rope_theta", hf.get("rope_theta", 10_000.0))


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
    """Rotate `[B, heads, T, R]` by cos and sin `[1, T, R]`; each feature pairs with the next one.

    They are put half by half, which no product of queries and keys can tell.
    """
    cos, sin = cos[:, None], sin[:, None]
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat((first, second), dim=-1) * cos + torch.cat((-second, first), dim=-1) * sin


class LayerCache:
    """Latents, rotated keys and the indexer's keys of one layer."""

    def __init__(self) -> None:
        self.latents: Tensor | None = None
        self.turned: Tensor | None = None
        self.indexed: Tensor | None = None

    def append(self, latents: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[B, T, L]` and `[B, 1, T, R]`; return what these T queries may see, S of each, oldest first."""
        if self.latents is not None and self.turned is not None:
            latents = torch.cat((self.latents, latents), dim=1)
            turned = torch.cat((self.turned, turned), dim=2)
        self.latents, self.turned = latents, turned
        return latents, turned

    def append_indexed(self, keys: Tensor) -> Tensor:
        """Add the indexer's `[B, T, J]`; return `[B, S, J]`, oldest first."""
        self.indexed = keys if self.indexed is None else torch.cat((self.indexed, keys), dim=1)
        return self.indexed


class Cache:
    """The decoding state of all layers: how many tokens went in, which were real, and what layers keep."""

    def __init__(self, config: Config):
        self.layers = [LayerCache() for _ in config.sparse_layers]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class Indexer(nn.Module):
    """Scores every key for every query by a few light heads, and picks the best; it takes part in no gradient."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.head_dim, self.best = config.index_n_heads, config.index_head_dim, config.index_topk
        self.rope = config.qk_rope_head_dim
        self.q_proj = nn.Linear(config.q_lora_rank, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.head_dim, bias=False)
        self.k_norm = nn.LayerNorm(self.head_dim, eps=1e-6)
        self.head_weights = nn.Linear(config.hidden_size, self.heads, bias=False)

    @torch.no_grad()
    def forward(
        self, x: Tensor, q_latent: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None
    ) -> Tensor:
        """`[B, T, C]` and queries before they are expanded -> `[B, 1, T, S]`, true for the keys that are picked."""
        q = self._rotated(self.q_proj(q_latent).view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2), cos, sin)
        k = self._rotated(self.k_norm(self.k_proj(x))[:, None], cos, sin)[:, 0]
        if cache is not None:
            k = cache.append_indexed(k)

        scores = torch.relu(q.float() @ k[:, None].transpose(2, 3).float() * self.head_dim**-0.5)
        weights = self.head_weights(x).float() * self.heads**-0.5
        scores = (weights[:, :, None] @ scores.transpose(1, 2)).squeeze(2)
        scores = scores.masked_fill(~visible[:, 0], float("-inf"))
        picked = scores.topk(min(self.best, scores.shape[-1]), dim=-1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, picked, True)[:, None]

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first R features of `[B, heads, T, J]`."""
        turned, kept = x[..., : self.rope], x[..., self.rope :]
        return torch.cat((rotate(turned, cos, sin), kept), dim=-1)


class Attention(nn.Module):
    """Multi-head latent attention (https://arxiv.org/abs/2405.04434) over the keys that the indexer picks."""

    def __init__(self, config: Config, indexed: bool):
        super().__init__()
        heads, bias = config.num_attention_heads, config.attention_bias
        self.latent = config.kv_lora_rank
        self.nope, self.rope, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        head_dim = self.nope + self.rope
        self.scale = head_dim**-0.5
        self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=bias)
        self.q_a_norm = RMSNorm(config.q_lora_rank, 1e-6)
        self.q_b_proj = nn.Linear(config.q_lora_rank, heads * head_dim, bias=False)
        self.kv_a_proj = nn.Linear(config.hidden_size, self.latent + self.rope, bias=bias)
        self.kv_a_norm = RMSNorm(self.latent, 1e-6)  # rms_norm_eps is not for these two
        self.kv_b_proj = nn.Linear(self.latent, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, config.hidden_size, bias=bias)
        self.indexer = Indexer(config) if indexed else None

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor,
        picked: Tensor | None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`[B, T, C]` -> `[B, T, C]`, and the keys that were picked, `[B, 1, T, S]`.

        visible is `[B, 1, T, S]`, true where a query may look at a key; picked is the choice of the layer before.
        """
        q_latent = self.q_a_norm(self.q_a_proj(x))
        q = self.q_b_proj(q_latent).view(*x.shape[:2], -1, self.nope + self.rope).transpose(1, 2)
        q_kept, q_turned = q.split((self.nope, self.rope), dim=-1)
        latents, turned = self.kv_a_proj(x).split((self.latent, self.rope), dim=-1)
        latents = self.kv_a_norm(latents)

        q_turned = rotate(q_turned, cos, sin)
        turned = rotate(turned[:, None], cos, sin)
        if cache is not None:
            latents, turned = cache.append(latents, turned)
        kv = self.kv_b_proj(latents).view(*latents.shape[:2], -1, self.nope + self.value).transpose(1, 2)
        k_kept, v = kv.split((self.nope, self.value), dim=-1)
        q = torch.cat((q_kept, q_turned), dim=-1)
        k = torch.cat((k_kept, turned.expand(-1, k_kept.shape[1], -1, -1)), dim=-1)

        if self.indexer is not None:
            picked = self.indexer(x, q_latent, cos, sin, visible, cache)
        if picked is not None:
            visible = visible & picked
        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2)), picked


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

    def __init__(self, config: Config, sparse: bool, indexed: bool):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.pre_attention_norm = RMSNorm(size, eps)
        self.attention = Attention(config, indexed)
        self.pre_mlp_norm = RMSNorm(size, eps)
        self.mlp = Experts(config) if sparse else MLP(config, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor,
        picked: Tensor | None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`[B, T, C]` -> `[B, T, C]`, and the keys that attention picked."""
        attended, picked = self.attention(self.pre_attention_norm(x), cos, sin, visible, picked, cache)
        x = x + attended
        return x + self.mlp(self.pre_mlp_norm(x)), picked


class Model(nn.Module):
    """GLM-5 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryEmbedding(config.qk_rope_head_dim, config.rope_theta)
        kinds = zip(config.sparse_layers, config.indexed_layers, strict=True)
        self.layers = nn.ModuleList(DecoderLayer(config, sparse, indexed) for sparse, indexed in kinds)
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
        picked = None
        for index, layer in enumerate(self.layers):
            x, picked = layer(x, cos, sin, visible, picked, None if cache is None else cache.layers[index])
        return self.lm_head(self.norm(x))

    def _visible(self, real: Tensor, start: int) -> Tensor:
        """`[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        return (distance >= 0) & real[:, None, None]
