"""Qwen3.5 (text), from scratch: dense from 0.8B to 27B, with experts from 35B-A3B to 397B-A17B.

Read from the Gated DeltaNet paper (https://arxiv.org/abs/2412.06464) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size, N tokens of all rows, E experts, X experts per token; in linear
layers L key heads of size P, M value heads of size Q, and T in chunks of W.

What makes it Qwen3.5:
  - three layers of four have no attention: they keep a state of fixed size, to which each token adds what its key does
    not recall yet (the delta rule), and which decays by a factor of each token's own;
  - in these, queries, keys and values first go through a short convolution over time, the only trace of positions;
  - the fourth layer is attention whose output is gated, by a second half of the query projection;
  - only the first quarter of each head is rotated, q/k norm comes before;
  - norms scale by (1 + weight), but for the gated one behind the state;
  - in the larger models the MLP is a choice among experts, beside one that all tokens share, through a gate of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MODEL_TYPES = ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe")

WEIGHTS: dict[str, str | None] = {
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
    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attention.q_norm.weight",
    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attention.k_norm.weight",
    "model.layers.{}.linear_attn.in_proj_qkv.weight": "layers.{}.delta_net.qkv_proj.weight",
    "model.layers.{}.linear_attn.in_proj_z.weight": "layers.{}.delta_net.gate_proj.weight",
    "model.layers.{}.linear_attn.in_proj_b.weight": "layers.{}.delta_net.beta_proj.weight",
    "model.layers.{}.linear_attn.in_proj_a.weight": "layers.{}.delta_net.decay_proj.weight",
    "model.layers.{}.linear_attn.conv1d.weight": "layers.{}.delta_net.conv.weight",
    "model.layers.{}.linear_attn.A_log": "layers.{}.delta_net.a_log",
    "model.layers.{}.linear_attn.dt_bias": "layers.{}.delta_net.dt_bias",
    "model.layers.{}.linear_attn.norm.weight": "layers.{}.delta_net.norm.weight",
    "model.layers.{}.linear_attn.out_proj.weight": "layers.{}.delta_net.out_proj.weight",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.pre_mlp_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",
    "model.layers.{}.mlp.gate.weight": "layers.{}.mlp.router.weight",
    "model.layers.{}.mlp.experts.{}.gate_proj.weight": "layers.{}.mlp.experts.{}.gate_proj.weight",
    "model.layers.{}.mlp.experts.{}.up_proj.weight": "layers.{}.mlp.experts.{}.up_proj.weight",
    "model.layers.{}.mlp.experts.{}.down_proj.weight": "layers.{}.mlp.experts.{}.down_proj.weight",
    "model.layers.{}.mlp.shared_expert.gate_proj.weight": "layers.{}.mlp.shared_expert.gate_proj.weight",
    "model.layers.{}.mlp.shared_expert.up_proj.weight": "layers.{}.mlp.shared_expert.up_proj.weight",
    "model.layers.{}.mlp.shared_expert.down_proj.weight": "layers.{}.mlp.shared_expert.down_proj.weight",
    "model.layers.{}.mlp.shared_expert_gate.weight": "layers.{}.mlp.shared_expert_gate.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}
# The layer that guesses the token after the next one is for faster decoding, and no part of the model itself.
WEIGHTS |= {name.replace("model.", "mtp.", 1): None for name in WEIGHTS if ".layers." in name}
WEIGHTS |= {f"mtp.{name}.weight": None for name in ("fc", "norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}

CHUNK = 64


@dataclass(frozen=True)
class Config:
    """What Qwen3.5 reads from config.json; num_experts is 0 in the dense models."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    layer_types: tuple[str, ...]
    rms_norm_eps: float
    attention_bias: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Read a parsed config.json, or its text_config.

        Raises:
            ValueError: the config asks for something this file does not implement.
        """
        hf = hf.get("text_config") or hf
        activation = hf.get("hidden_act") or "silu"
        if activation != "silu":
            raise ValueError(f"hidden_act {activation!r} is not implemented, only 'silu'")
        if hf.get("attn_output_gate") is False:
            raise ValueError("attn_output_gate false is not implemented, attention is always gated")
        head_dim = hf.get("head_dim", 256)
        rope = _rope(hf)
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf.get("intermediate_size", 12288),
            moe_intermediate_size=hf.get("moe_intermediate_size", 512),
            shared_expert_intermediate_size=hf.get("shared_expert_intermediate_size", 512),
            num_experts=hf.get("num_experts", 0),
            num_experts_per_tok=hf.get("num_experts_per_tok", 8),
            num_attention_heads=hf["num_attention_heads"],
            num_key_value_heads=hf["num_key_value_heads"],
            head_dim=head_dim,
            rotary_dim=int(head_dim * rope["partial_rotary_factor"]),
            rope_theta=rope["rope_theta"],
            linear_num_key_heads=hf.get("linear_num_key_heads", 16),
            linear_num_value_heads=hf.get("linear_num_value_heads", 32),
            linear_key_head_dim=hf.get("linear_key_head_dim", 128),
            linear_value_head_dim=hf.get("linear_value_head_dim", 128),
            linear_conv_kernel_dim=hf.get("linear_conv_kernel_dim", 4),
            layer_types=_layer_types(hf),
            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
            attention_bias=hf.get("attention_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
        )


def _layer_types(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of each layer, or the period at which one with attention comes."""
    if hf.get("layer_types"):
        unknown = set(hf["layer_types"]) - {"linear_attention", "full_attention"}
        if unknown:
            raise ValueError(f"layer type {sorted(unknown)[0]!r} is not implemented")
        return tuple(hf["layer_types"])
    period = hf.get("full_attention_interval", 4)
    layers = range(1, hf["num_hidden_layers"] + 1)
    return tuple("linear_attention" if layer % period else "full_attention" for layer in layers)


def _rope(hf: Mapping[str, Any]) -> dict[str, float]:
    """The rotary base and the rotated part of each head, from `rope_parameters` or from the older flat fields.

    The sections of `mrope_section` are left out on purpose: text has one position, and they differ for images alone.
    """
    settings = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope_type = settings.get("rope_type", settings.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"rope_type {rope_type!r} is not implemented, only 'default'")
    defaults = {"rope_theta": 10_000.0, "partial_rotary_factor": 0.25}
    return {name: settings.get(name, hf.get(name, default)) for name, default in defaults.items()}


class RMSNorm(nn.Module):
    """Root-mean-square norm that scales by (1 + weight), all of it in float32 before the cast back."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> `[..., size]`."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.float())).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """Root-mean-square norm that scales by weight, then by silu of a gate in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Both `[..., size]` -> `[..., size]`."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed.to(x.dtype) * self.weight * functional.silu(gate.float())).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position encoding (https://arxiv.org/abs/2104.09864)."""

    def __init__(self, rotary_dim: int, theta: float):
        super().__init__()
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        self.inv_freq = nn.Buffer(1.0 / (theta**exponents), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[1, T]` -> cos and sin `[1, T, rotary_dim]`, in x's dtype."""
        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first part of `[B, heads, T, D]`, as wide as cos and sin `[1, T, rotary_dim]`; the rest stays.

    The first half of that part pairs with its second.
    """
    cos, sin = cos[:, None], sin[:, None]
    turned, kept = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, kept), dim=-1)


def normalise(x: Tensor) -> Tensor:
    """Scale `[..., size]` to length one."""
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read and write a state token by token, a chunk at a time.

    Each token decays the state by exp(decay), adds k (v - k state) beta to it, and reads q state. The T writes of a
    chunk depend on each other in turn: they are the solution of one triangular system.

    Args:
        q: queries `[B, M, T, P]`.
        k: keys `[B, M, T, P]`.
        v: values `[B, M, T, Q]`.
        decay: logarithm of the decay `[B, M, T]`, at most 0.
        beta: how much is written `[B, M, T]`.
        state: what the tokens before left, `[B, M, P, Q]`.

    Returns:
        What the tokens read `[B, M, T, Q]`, and the state after the last.
    """
    tokens = q.shape[2]
    size = min(CHUNK, tokens)
    # Tokens of zeros at the end neither decay the state nor write to it.
    q, k, v = (functional.pad(x, (0, 0, 0, -tokens % size)).unflatten(2, (-1, size)) for x in (q, k, v))
    decay, beta = (functional.pad(x, (0, -tokens % size)).unflatten(2, (-1, size)) for x in (decay, beta))

    decayed = decay.cumsum(-1)
    future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    between = (decayed[..., :, None] - decayed[..., None, :]).masked_fill(future, -torch.inf).exp()
    left = (decayed[..., -1:] - decayed).exp()[..., None]
    decayed = decayed.exp()[..., None]

    writing = k * beta[..., None]
    system = (writing @ k.transpose(-1, -2)) * between
    written = torch.linalg.solve_triangular(system, v * beta[..., None], upper=False, unitriangular=True)
    recalled = torch.linalg.solve_triangular(system, writing * decayed, upper=False, unitriangular=True)
    scores = (q @ k.transpose(-1, -2)) * between

    read = []
    for chunk in range(q.shape[2]):
        new = written[:, :, chunk] - recalled[:, :, chunk] @ state
        read.append((q * decayed)[:, :, chunk] @ state + scores[:, :, chunk] @ new)
        state = state * decayed[:, :, chunk, -1:] + (k * left)[:, :, chunk].transpose(-1, -2) @ new
    return torch.cat(read, dim=2)[:, :, :tokens], state


class LayerCache:
    """Keys and values of one layer with attention."""

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


class StateCache:
    """What one linear layer remembers: the inputs that its convolution still needs, and its state."""

    def __init__(self, kernel: int):
        self.keep = kernel - 1
        self.inputs: Tensor | None = None
        self.state: Tensor | None = None

    def append(self, inputs: Tensor) -> Tensor:
        """Add `[B, channels, T]`; return them behind those that their convolution needs, `[B, channels, keep + T]`."""
        before = inputs.new_zeros(*inputs.shape[:2], self.keep) if self.inputs is None else self.inputs
        inputs = torch.cat((before, inputs), dim=2)
        self.inputs = inputs[:, :, inputs.shape[2] - self.keep :]
        return inputs


class Cache:
    """The decoding state of all layers: how many tokens went in, which were real, and what each layer remembers."""

    def __init__(self, config: Config):
        kernel = config.linear_conv_kernel_dim
        self.layers = [LayerCache() if kind == "full_attention" else StateCache(kernel) for kind in config.layer_types]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class Attention(nn.Module):
    """Grouped-query attention with q/k norm, partial rotation and a gated output."""

    def __init__(self, config: Config):
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.scale = config.head_dim**-0.5
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, 2 * q_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q, gate = self.q_proj(x).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, dim=-1)
        q = self.q_norm(q).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)

        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj((context * torch.sigmoid(gate)).flatten(2))


class DeltaNet(nn.Module):
    """A recurrent layer: a convolution over the last few tokens, the gated delta rule, a gated norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.key_dim, self.value_dim = config.linear_key_head_dim, config.linear_value_head_dim
        self.kernel = config.linear_conv_kernel_dim
        self.groups = config.linear_num_value_heads // config.linear_num_key_heads
        heads = config.linear_num_value_heads
        self.sizes = (*[config.linear_num_key_heads * self.key_dim] * 2, heads * self.value_dim)
        channels = sum(self.sizes)
        self.qkv_proj = nn.Linear(config.hidden_size, channels, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, self.sizes[2], bias=False)
        self.beta_proj = nn.Linear(config.hidden_size, heads, bias=False)
        self.decay_proj = nn.Linear(config.hidden_size, heads, bias=False)
        self.conv = nn.Conv1d(channels, channels, self.kernel, groups=channels, bias=False)
        self.a_log = nn.Parameter(torch.zeros(heads))
        self.dt_bias = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(self.value_dim, config.rms_norm_eps)
        self.out_proj = nn.Linear(self.sizes[2], config.hidden_size, bias=False)

    def forward(self, x: Tensor, real: Tensor, cache: StateCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; real is `[B, T]`, false where padding must leave no trace in the state."""
        cache = cache or StateCache(self.kernel)
        x = x.masked_fill(~real[..., None], 0.0)
        qkv = functional.silu(self.conv(cache.append(self.qkv_proj(x).transpose(1, 2)))).transpose(1, 2)
        q, k, v = qkv.split(self.sizes, dim=-1)
        q = q.unflatten(-1, (-1, self.key_dim)).repeat_interleave(self.groups, dim=2).transpose(1, 2).float()
        k = k.unflatten(-1, (-1, self.key_dim)).repeat_interleave(self.groups, dim=2).transpose(1, 2).float()
        v = v.unflatten(-1, (-1, self.value_dim)).transpose(1, 2).float()
        beta = torch.sigmoid(self.beta_proj(x)).transpose(1, 2).float()
        decay = -self.a_log.float().exp() * functional.softplus(self.decay_proj(x).float() + self.dt_bias)

        state = v.new_zeros(*v.shape[:2], self.key_dim, self.value_dim) if cache.state is None else cache.state
        q = normalise(q) * self.key_dim**-0.5
        read, cache.state = delta_rule(q, normalise(k), v, decay.transpose(1, 2), beta, state)

        read = read.transpose(1, 2).to(x.dtype)
        gate = self.gate_proj(x).view(read.shape)
        return self.out_proj(self.norm(read, gate).flatten(2))


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


class Experts(nn.Module):
    """A router sends each token to X of E experts, and a shared one sees all; each counts by its share."""

    def __init__(self, config: Config):
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.router = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(MLP(config, config.moe_intermediate_size) for _ in range(config.num_experts))
        self.shared_expert = MLP(config, config.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        tokens = x.flatten(0, 1)
        shares, chosen = self._route(tokens)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == index)
            mixed = mixed.index_add(0, rows, expert(tokens[rows]) * shares[rows, places, None])
        mixed = mixed + torch.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)
        return mixed.view_as(x)

    def _route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C]` -> shares `[N, X]`, which sum to one, and the experts they belong to, int64 `[N, X]`."""
        shares = torch.softmax(self.router(tokens), dim=-1, dtype=torch.float32)
        shares, chosen = torch.topk(shares, self.chosen, dim=-1)
        shares = shares / shares.sum(-1, keepdim=True)
        return shares.to(tokens.dtype), chosen


class DecoderLayer(nn.Module):
    """Attention or the delta rule, then experts or MLP, each normed before, each added to the residual stream."""

    def __init__(self, config: Config, kind: str):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.kind = kind
        self.pre_attention_norm = RMSNorm(size, eps)
        if kind == "full_attention":
            self.attention = Attention(config)
        else:
            self.delta_net = DeltaNet(config)
        self.pre_mlp_norm = RMSNorm(size, eps)
        self.mlp = Experts(config) if config.num_experts else MLP(config, config.intermediate_size)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, real: Tensor, cache: Any | None = None
    ) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible `[B, 1, T, S]` is for attention, real `[B, T]` for the delta rule."""
        normed = self.pre_attention_norm(x)
        if self.kind == "full_attention":
            x = x + self.attention(normed, cos, sin, visible, cache)
        else:
            x = x + self.delta_net(normed, real, cache)
        return x + self.mlp(self.pre_mlp_norm(x))


class Model(nn.Module):
    """Qwen3.5 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryEmbedding(config.rotary_dim, config.rope_theta)
        self.layers = nn.ModuleList(DecoderLayer(config, kind) for kind in config.layer_types)
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
        between positions alone, and a state at zero stays there, so padding on the left needs no positions of its own.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        start = 0 if cache is None else cache.length
        real = (real if cache is None else cache.extend(real)).bool()
        visible = self._visible(real, start)

        x = self.embed_tokens(input_ids)
        positions = torch.arange(start, real.shape[1], device=x.device)[None]
        cos, sin = self.rotary(x, positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, visible, real[:, start:], None if cache is None else cache.layers[index])
        return self.lm_head(self.norm(x))

    def _visible(self, real: Tensor, start: int) -> Tensor:
        """`[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        return (distance >= 0) & real[:, None, None]
