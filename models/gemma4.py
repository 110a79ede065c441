"""Gemma 4 (text), from scratch: E2B, E4B, 26B-A4B and 31B.

Read from the model card (https://huggingface.co/google/gemma-4-31B) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size, L layers, P hidden_size_per_layer_input, N tokens of all rows,
E experts, X experts per token.

What makes it Gemma 4:
  - sliding and full layers differ in more than what they see: full ones have wider heads, and rotate a part of them;
  - queries, keys and values are normalised per head, values without a weight, and scores are not scaled at all;
  - full layers may have no values of their own: what their keys are made of is taken for them (26B-A4B, 31B);
  - the last layers may have neither: they look at the keys and values of the last layer of their kind that has its
    own, and their MLP may be twice as wide (E2B, E4B);
  - each layer may have an embedding of its own for each token, added behind a gate (E2B, E4B);
  - experts may work beside the MLP, not in its place, with norms and a router of their own (26B-A4B);
  - norms scale by weight, not by (1 + weight); a layer ends with one number that scales all of it;
  - embeddings are multiplied by sqrt(C), logits are softly capped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("gemma4_text", "gemma4")

WEIGHTS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.embed_tokens_per_layer.weight": "embed_per_layer.embed_tokens.weight",
    "model.per_layer_model_projection.weight": "embed_per_layer.projection.weight",
    "model.per_layer_projection_norm.weight": "embed_per_layer.norm.weight",
    "model.layers.{}.input_layernorm.weight": "layers.{}.pre_attention_norm.weight",
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
    "model.layers.{}.pre_feedforward_layernorm.weight": "layers.{}.pre_mlp_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",
    "model.layers.{}.post_feedforward_layernorm_1.weight": "layers.{}.post_dense_norm.weight",
    "model.layers.{}.pre_feedforward_layernorm_2.weight": "layers.{}.pre_experts_norm.weight",
    "model.layers.{}.router.scale": "layers.{}.router.scale",
    "model.layers.{}.router.proj.weight": "layers.{}.router.projection.weight",
    "model.layers.{}.router.per_expert_scale": "layers.{}.router.expert_scale",
    "model.layers.{}.experts.gate_up_proj": "layers.{}.experts.gate_up_proj",
    "model.layers.{}.experts.down_proj": "layers.{}.experts.down_proj",
    "model.layers.{}.post_feedforward_layernorm_2.weight": "layers.{}.post_experts_norm.weight",
    "model.layers.{}.post_feedforward_layernorm.weight": "layers.{}.post_mlp_norm.weight",
    "model.layers.{}.per_layer_input_gate.weight": "layers.{}.per_layer.gate.weight",
    "model.layers.{}.per_layer_projection.weight": "layers.{}.per_layer.projection.weight",
    "model.layers.{}.post_per_layer_input_norm.weight": "layers.{}.per_layer.norm.weight",
    "model.layers.{}.layer_scalar": "layers.{}.scalar",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Rope:
    """One rotary position encoding: its base, the share of D that turns, and by how much positions are stretched."""

    theta: float
    share: float
    factor: float


@dataclass(frozen=True)
class Kind:
    """How the layers of one kind attend."""

    head_dim: int
    num_key_value_heads: int
    keys_as_values: bool
    rope: Rope


@dataclass(frozen=True)
class Config:
    """What Gemma 4 reads from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    layer_types: tuple[str, ...]
    kinds: Mapping[str, Kind]
    sliding_window: int
    num_kv_shared_layers: int
    use_double_wide_mlp: bool
    vocab_size_per_layer_input: int
    hidden_size_per_layer_input: int
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    rms_norm_eps: float
    attention_bias: bool
    final_logit_softcapping: float | None
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Read a parsed config.json, the part for text of one that has others too.

        Raises:
            ValueError: the config asks for something this file does not implement.
        """
        activation = hf.get("hidden_activation") or "gelu_pytorch_tanh"
        if activation != "gelu_pytorch_tanh":
            raise ValueError(f"hidden_activation {activation!r} is not implemented, only 'gelu_pytorch_tanh'")
        # "vision" lets the tokens of one image see each other, and is nothing to text.
        if hf.get("use_bidirectional_attention") not in (None, False, "vision"):
            raise ValueError("use_bidirectional_attention is not implemented, this is the decoder")
        layer_types = _layer_types(hf)
        shared = hf.get("num_kv_shared_layers", 0)
        if set(layer_types[: len(layer_types) - shared]) != set(layer_types):
            raise ValueError(f"num_kv_shared_layers {shared} is not implemented: some kind has no keys")
        sparse = hf.get("enable_moe_block", False)
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            num_attention_heads=hf["num_attention_heads"],
            layer_types=layer_types,
            kinds={kind: _kind(hf, kind, layer_types) for kind in ("sliding_attention", "full_attention")},
            sliding_window=hf.get("sliding_window", 512),
            num_kv_shared_layers=shared,
            use_double_wide_mlp=hf.get("use_double_wide_mlp", False),
            vocab_size_per_layer_input=hf.get("vocab_size_per_layer_input", 262_144),
            hidden_size_per_layer_input=hf.get("hidden_size_per_layer_input", 256) or 0,
            num_experts=hf["num_experts"] if sparse else 0,
            num_experts_per_tok=hf["top_k_experts"] if sparse else 0,
            moe_intermediate_size=hf["moe_intermediate_size"] if sparse else 0,
            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
            attention_bias=hf.get("attention_bias", False),
            final_logit_softcapping=hf.get("final_logit_softcapping"),
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
        )


def _layer_types(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of each layer; the last one sees everything, whatever the config says."""
    layers = range(1, hf["num_hidden_layers"] + 1)
    kinds = hf.get("layer_types") or ["sliding_attention" if layer % 6 else "full_attention" for layer in layers]
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise ValueError(f"layer type {sorted(unknown)[0]!r} is not implemented")
    return (*kinds[:-1], "full_attention")


def _kind(hf: Mapping[str, Any], kind: str, layer_types: tuple[str, ...]) -> Kind:
    """What the layers of one kind have to themselves, from the fields for all full layers or from those by layer."""
    equal = hf.get("attention_k_eq_v", False) and kind == "full_attention"
    own: Mapping[str, Any] = {}
    if hf.get("per_layer_config") is not None:
        by_layer = {int(layer): settings for layer, settings in hf["per_layer_config"].items()}
        each = [by_layer.get(layer, {}) for layer, its_kind in enumerate(layer_types) if its_kind == kind]
        if any(one != each[0] for one in each) or any(set(one) - {"head_dim", "num_key_value_heads"} for one in each):
            raise ValueError("per_layer_config is not implemented but for heads that differ by kind")
        own = each[0] if each else {}
    elif kind == "full_attention":
        own = {"head_dim": hf.get("global_head_dim", 512)}
        if equal and hf.get("num_global_key_value_heads") is not None:
            own["num_key_value_heads"] = hf["num_global_key_value_heads"]
    return Kind(
        head_dim=own.get("head_dim", hf.get("head_dim", 256)),
        num_key_value_heads=own.get("num_key_value_heads", hf.get("num_key_value_heads", 4)),
        keys_as_values=equal,
        rope=_rope(hf, kind),
    )


def _rope(hf: Mapping[str, Any], kind: str) -> Rope:
    """The rotary settings of one kind of layer."""
    released = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
    }
    settings = (hf.get("rope_parameters") or released)[kind]
    rope_type = settings.get("rope_type", "default")
    if rope_type not in ("default", "proportional"):
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default' and 'proportional'")
    partial = rope_type == "proportional"
    return Rope(
        theta=settings["rope_theta"],
        share=settings.get("partial_rotary_factor", 1.0) if partial else 1.0,
        factor=settings.get("factor", 1.0) if partial else 1.0,
    )


class ScaledEmbedding(nn.Embedding):
    """Token embedding times a factor, which is rounded to the weight's dtype as in training."""

    def __init__(self, count: int, size: int, scale: float):
        super().__init__(count, size)
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        """`[B, T]` int64 -> `[B, T, size]`."""
        return super().forward(input_ids) * torch.tensor(self.scale).to(self.weight.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm that scales by weight if it has one, all of it in float32 before the cast back."""

    def __init__(self, size: int, eps: float, weighted: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> `[..., size]`."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed if self.weight is None else normed * self.weight.float()).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position encoding (https://arxiv.org/abs/2104.09864)."""

    def __init__(self, head_dim: int, rope: Rope):
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        inv_freq = 1.0 / (rope.theta**exponents) / rope.factor
        # The slow pairs stand still (https://arxiv.org/abs/2410.06205), the others turn as if all of the head did.
        inv_freq[int(rope.share * head_dim // 2) :] = 0.0
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)

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
        own = len(config.layer_types) - config.num_kv_shared_layers
        self.layers = [LayerCache(kept[kind]) if index < own else None for index, kind in enumerate(config.layer_types)]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


Shared = dict[str, tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Grouped-query attention with norms of q, k and v; without k and v of its own, on those of a layer before."""

    def __init__(self, config: Config, kind: str, shares: bool):
        super().__init__()
        self.kind = kind
        self.shares = shares
        self.head_dim = config.kinds[kind].head_dim
        self.groups = config.num_attention_heads // config.kinds[kind].num_key_value_heads
        q_size = config.num_attention_heads * self.head_dim
        kv_size = config.kinds[kind].num_key_value_heads * self.head_dim
        bias, eps = config.attention_bias, config.rms_norm_eps
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, eps)
        if not shares:
            self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
            self.k_norm = RMSNorm(self.head_dim, eps)
            values = not config.kinds[kind].keys_as_values
            self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias) if values else None
            self.v_norm = RMSNorm(self.head_dim, eps, weighted=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor,
        shared: Shared,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key.

        shared holds the last keys and values of each kind of layers, `[B, K, S, D]`. They are taken from there, or put.
        """
        heads = (*x.shape[:2], -1, self.head_dim)
        q = rotate(self.q_norm(self.q_proj(x).view(heads).transpose(1, 2)), cos, sin)
        if not self.shares:
            k, v = self._keys_and_values(x, cos, sin)
            shared[self.kind] = (k, v) if cache is None else cache.append(k, v)
        k, v = shared[self.kind]
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)

        scores = q @ k.transpose(2, 3)  # unscaled: the norms' weights have learnt the scale
        scores = scores.masked_fill(~visible[..., -k.shape[2] :], torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))

    def _keys_and_values(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, C]` -> keys, rotated, and values, both `[B, K, T, D]`."""
        heads = (*x.shape[:2], -1, self.head_dim)
        k = self.k_proj(x).view(heads).transpose(1, 2)
        v = k if self.v_proj is None else self.v_proj(x).view(heads).transpose(1, 2)
        return rotate(self.k_norm(k), cos, sin), self.v_norm(v)


class MLP(nn.Module):
    """Gated MLP: down(gelu(gate(x)) * up(x))."""

    def __init__(self, config: Config, size: int):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, size, bias=False)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Sends each token to X of E experts, by a norm with a scale of its own, and scales what each expert says."""

    def __init__(self, config: Config):
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, weighted=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.projection = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C]` -> shares in float32 `[N, X]` and the experts they belong to, int64 `[N, X]`."""
        tokens = self.norm(tokens) * self.scale * tokens.shape[-1] ** -0.5
        shares = torch.softmax(self.projection(tokens), dim=-1, dtype=torch.float32)
        shares, chosen = torch.topk(shares, self.chosen, dim=-1)
        return shares / shares.sum(-1, keepdim=True) * self.expert_scale[chosen], chosen


class Experts(nn.Module):
    """E gated MLPs in two tensors, as they are stored; their outputs are added up by their shares."""

    def __init__(self, config: Config):
        super().__init__()
        count, size, width = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * size, width))
        self.down_proj = nn.Parameter(torch.empty(count, width, size))
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, tokens: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """`[N, C]`, shares and experts `[N, X]` -> `[N, C]`."""
        mixed = torch.zeros_like(tokens)
        for index, (gate_up, down) in enumerate(zip(self.gate_up_proj, self.down_proj, strict=True)):
            places, rows = torch.where(chosen.t() == index)
            gate, up = (tokens[rows] @ gate_up.T).chunk(2, dim=-1)
            said = (self.activation(gate) * up) @ down.T
            mixed = mixed.index_add(0, rows, (said * shares[rows, places, None]).to(mixed.dtype))
        return mixed


class PerLayerEmbedding(nn.Module):
    """What each layer is told of each token: an embedding of its own, and its share of a projection of the stream's."""

    def __init__(self, config: Config):
        super().__init__()
        layers, size = len(config.layer_types), config.hidden_size_per_layer_input
        self.shape = (layers, size)
        self.embed_tokens = ScaledEmbedding(config.vocab_size_per_layer_input, layers * size, size**0.5)
        self.projection = nn.Linear(config.hidden_size, layers * size, bias=False)
        self.norm = RMSNorm(size, config.rms_norm_eps)

    def forward(self, input_ids: Tensor, x: Tensor) -> Tensor:
        """`[B, T]` int64 and their embedding `[B, T, C]` -> `[B, T, L, P]`."""
        own = self.embed_tokens(input_ids).unflatten(-1, self.shape)
        projected = (self.projection(x) * x.shape[-1] ** -0.5).unflatten(-1, self.shape)
        return (self.norm(projected) + own) * 2.0**-0.5


class PerLayerInput(nn.Module):
    """A layer's own embedding of the tokens, through a gate that looks at the stream."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.hidden_size_per_layer_input
        self.gate = nn.Linear(config.hidden_size, size, bias=False)
        self.projection = nn.Linear(size, config.hidden_size, bias=False)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor, own: Tensor) -> Tensor:
        """`[B, T, C]` and `[B, T, P]` -> `[B, T, C]`."""
        return self.norm(self.projection(self.activation(self.gate(x)) * own))


class DecoderLayer(nn.Module):
    """Attention, MLP and what else the layer has, each normed before and after, each added to the residual stream."""

    def __init__(self, config: Config, index: int):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        shares = index >= len(config.layer_types) - config.num_kv_shared_layers
        self.pre_attention_norm = RMSNorm(size, eps)
        self.attention = Attention(config, config.layer_types[index], shares)
        self.post_attention_norm = RMSNorm(size, eps)
        self.pre_mlp_norm = RMSNorm(size, eps)
        self.mlp = MLP(config, config.intermediate_size * (2 if shares and config.use_double_wide_mlp else 1))
        self.sparse = config.num_experts > 0
        if self.sparse:
            self.post_dense_norm = RMSNorm(size, eps)
            self.router = Router(config)
            self.pre_experts_norm = RMSNorm(size, eps)
            self.experts = Experts(config)
            self.post_experts_norm = RMSNorm(size, eps)
        self.post_mlp_norm = RMSNorm(size, eps)
        self.per_layer = PerLayerInput(config) if config.hidden_size_per_layer_input else None
        self.scalar = nn.Buffer(torch.ones(1))

    def forward(
        self,
        x: Tensor,
        own: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor,
        shared: Shared,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """`[B, T, C]`, the layer's own embedding `[B, T, P]` if it has one -> `[B, T, C]`."""
        attended = self.attention(self.pre_attention_norm(x), cos, sin, visible, shared, cache)
        x = x + self.post_attention_norm(attended)
        mixed = self.mlp(self.pre_mlp_norm(x))
        if self.sparse:
            mixed = self.post_dense_norm(mixed) + self.post_experts_norm(self._mix_experts(x))
        x = x + self.post_mlp_norm(mixed)
        if self.per_layer is not None:
            x = x + self.per_layer(x, own)
        return x * self.scalar

    def _mix_experts(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; the router sees the stream, the experts see it normed."""
        tokens = x.flatten(0, 1)
        shares, chosen = self.router(tokens)
        return self.experts(self.pre_experts_norm(tokens), shares, chosen).view_as(x)


class Model(nn.Module):
    """Gemma 4 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, config.hidden_size**0.5)
        self.embed_per_layer = PerLayerEmbedding(config) if config.hidden_size_per_layer_input else None
        self.rotary = nn.ModuleDict(
            {name: RotaryEmbedding(kind.head_dim, kind.rope) for name, kind in config.kinds.items()}
        )
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index, _ in enumerate(config.layer_types))
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
        rotations = {kind: rotary(x, positions) for kind, rotary in self.rotary.items()}
        per_layer = None if self.embed_per_layer is None else self.embed_per_layer(input_ids, x)
        shared: Shared = {}
        for index, (kind, layer) in enumerate(zip(self.config.layer_types, self.layers, strict=True)):
            own = None if per_layer is None else per_layer[:, :, index]
            layer_cache = None if cache is None else cache.layers[index]
            x = layer(x, own, *rotations[kind], visible[kind], shared, layer_cache)
        logits = self.lm_head(self.norm(x))

        cap = self.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _visible(self, real: Tensor, start: int) -> dict[str, Tensor]:
        """Per kind of layer, `[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        causal = (distance >= 0) & real[:, None, None]
        return {"full_attention": causal, "sliding_attention": causal & (distance < self.config.sliding_window)}
