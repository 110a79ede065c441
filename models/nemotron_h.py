"""Nemotron 3, from scratch: Nano 30B-A3B, Super 120B-A12B, and the dense Nemotron-H before them.

Read from the Mamba-2 paper (https://arxiv.org/abs/2405.21060), the technical reports (https://arxiv.org/abs/2504.03624,
https://arxiv.org/abs/2512.20848) and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H query heads, K key/value heads, D head_dim,
C hidden_size, F intermediate_size, V vocab_size, N tokens of all rows, E experts, X experts per token; in recurrent
layers M heads of size P, G groups of heads, state size Q, and T in chunks of W.

What makes it Nemotron 3:
  - one layer is one thing, a Mamba-2 mixer, attention, experts or an MLP, with one norm and one residual each;
  - about half of the layers are Mamba-2: a state of fixed size, which each token decays and adds to;
  - attention is rare, and has no position encoding: positions are left to the recurrent layers;
  - MLPs have no gate: down(relu(up(x))^2);
  - the router's sigmoid scores choose experts with a bias added, and weigh them without it; a shared expert sees all;
  - in Super the experts work in a narrower latent space, into and out of which all of them share one projection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MODEL_TYPES = ("nemotron_h",)

WEIGHTS: dict[str, str | None] = {
    "backbone.embeddings.weight": "embed_tokens.weight",
    "backbone.layers.{}.norm.weight": "layers.{}.norm.weight",
    "backbone.layers.{}.mixer.q_proj.weight": "layers.{}.mixer.q_proj.weight",
    "backbone.layers.{}.mixer.k_proj.weight": "layers.{}.mixer.k_proj.weight",
    "backbone.layers.{}.mixer.v_proj.weight": "layers.{}.mixer.v_proj.weight",
    "backbone.layers.{}.mixer.o_proj.weight": "layers.{}.mixer.o_proj.weight",
    "backbone.layers.{}.mixer.in_proj.weight": "layers.{}.mixer.in_proj.weight",
    "backbone.layers.{}.mixer.in_proj.bias": "layers.{}.mixer.in_proj.bias",
    "backbone.layers.{}.mixer.conv1d.weight": "layers.{}.mixer.conv.weight",
    "backbone.layers.{}.mixer.conv1d.bias": "layers.{}.mixer.conv.bias",
    "backbone.layers.{}.mixer.A_log": "layers.{}.mixer.a_log",
    "backbone.layers.{}.mixer.dt_bias": "layers.{}.mixer.dt_bias",
    "backbone.layers.{}.mixer.D": "layers.{}.mixer.skip",
    "backbone.layers.{}.mixer.norm.weight": "layers.{}.mixer.norm.weight",
    "backbone.layers.{}.mixer.out_proj.weight": "layers.{}.mixer.out_proj.weight",
    "backbone.layers.{}.mixer.out_proj.bias": "layers.{}.mixer.out_proj.bias",
    "backbone.layers.{}.mixer.up_proj.weight": "layers.{}.mixer.up_proj.weight",
    "backbone.layers.{}.mixer.up_proj.bias": "layers.{}.mixer.up_proj.bias",
    "backbone.layers.{}.mixer.down_proj.weight": "layers.{}.mixer.down_proj.weight",
    "backbone.layers.{}.mixer.down_proj.bias": "layers.{}.mixer.down_proj.bias",
    "backbone.layers.{}.mixer.gate.weight": "layers.{}.mixer.router.weight",
    "backbone.layers.{}.mixer.gate.e_score_correction_bias": "layers.{}.mixer.router.correction_bias",
    "backbone.layers.{}.mixer.fc1_latent_proj.weight": "layers.{}.mixer.latent_in_proj.weight",
    "backbone.layers.{}.mixer.fc1_latent_proj.bias": "layers.{}.mixer.latent_in_proj.bias",
    "backbone.layers.{}.mixer.fc2_latent_proj.weight": "layers.{}.mixer.latent_out_proj.weight",
    "backbone.layers.{}.mixer.fc2_latent_proj.bias": "layers.{}.mixer.latent_out_proj.bias",
    "backbone.layers.{}.mixer.experts.{}.up_proj.weight": "layers.{}.mixer.experts.{}.up_proj.weight",
    "backbone.layers.{}.mixer.experts.{}.down_proj.weight": "layers.{}.mixer.experts.{}.down_proj.weight",
    "backbone.layers.{}.mixer.shared_experts.up_proj.weight": "layers.{}.mixer.shared_expert.up_proj.weight",
    "backbone.layers.{}.mixer.shared_experts.up_proj.bias": "layers.{}.mixer.shared_expert.up_proj.bias",
    "backbone.layers.{}.mixer.shared_experts.down_proj.weight": "layers.{}.mixer.shared_expert.down_proj.weight",
    "backbone.layers.{}.mixer.shared_experts.down_proj.bias": "layers.{}.mixer.shared_expert.down_proj.bias",
    "backbone.norm_f.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}
# The layers that guess the token after the next one are for faster decoding, and no part of the model itself.
WEIGHTS |= {name.replace("backbone.", "mtp.", 1): None for name in WEIGHTS if ".layers." in name}
WEIGHTS |= {f"mtp.layers.{{}}.{name}.weight": None for name in ("enorm", "hnorm", "eh_proj", "final_layernorm")}

KINDS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
RENAMED = {"linear_attention": "mamba", "full_attention": "attention"}


@dataclass(frozen=True)
class Config:
    """What Nemotron 3 reads from config.json; moe_latent_size is None where experts work on C as it is."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    moe_shared_expert_intermediate_size: int
    moe_latent_size: int | None
    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    mamba_num_heads: int
    mamba_head_dim: int
    n_groups: int
    ssm_state_size: int
    conv_kernel: int
    chunk_size: int
    time_step_min: float
    layer_types: tuple[str, ...]
    layer_norm_epsilon: float
    mlp_bias: bool
    use_bias: bool
    use_conv_bias: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Read a parsed config.json.

        Raises:
            ValueError: the config asks for something this file does not implement.
        """
        for field, implemented in (("mlp_hidden_act", "relu2"), ("mamba_hidden_act", "silu")):
            if hf.get(field, implemented) != implemented:
                raise ValueError(f"{field} {hf[field]!r} is not implemented, only {implemented!r}")
        # Left out on purpose: rope_theta and partial_rotary_factor, because nothing is rotated; attention_bias,
        # tie_word_embeddings and time_step_limit, because the reference ignores them.
        return cls(
            vocab_size=hf.get("vocab_size", 131072),
            hidden_size=hf.get("hidden_size", 4096),
            intermediate_size=hf.get("intermediate_size", 21504),
            moe_intermediate_size=hf.get("moe_intermediate_size", 7688),
            moe_shared_expert_intermediate_size=hf.get("moe_shared_expert_intermediate_size", 7688),
            moe_latent_size=hf.get("moe_latent_size"),
            n_routed_experts=hf.get("n_routed_experts", 8),
            num_experts_per_tok=hf.get("num_experts_per_tok", 2),
            n_group=hf.get("n_group", 1),
            topk_group=hf.get("topk_group", 1),
            norm_topk_prob=hf.get("norm_topk_prob", True),
            routed_scaling_factor=hf.get("routed_scaling_factor", 1.0),
            num_attention_heads=hf.get("num_attention_heads", 32),
            num_key_value_heads=hf.get("num_key_value_heads", 8),
            head_dim=hf.get("head_dim", 128),
            mamba_num_heads=hf.get("mamba_num_heads", 128),
            mamba_head_dim=hf.get("mamba_head_dim", 64),
            n_groups=hf.get("n_groups", 8),
            ssm_state_size=hf.get("ssm_state_size", 128),
            conv_kernel=hf.get("conv_kernel", 4),
            chunk_size=hf.get("chunk_size", 128),
            time_step_min=hf.get("time_step_min", 0.001),
            layer_types=_layer_types(hf),
            layer_norm_epsilon=hf.get("layer_norm_epsilon", 1e-5),
            mlp_bias=hf.get("mlp_bias", False),
            use_bias=hf.get("use_bias", False),
            use_conv_bias=hf.get("use_conv_bias", True),
        )


def _layer_types(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of each layer, from a list of names or from a letter for each."""
    if hf.get("layers_block_type"):
        kinds = tuple(RENAMED.get(kind, kind) for kind in hf["layers_block_type"])
    else:
        kinds = tuple(KINDS.get(letter, letter) for letter in hf.get("hybrid_override_pattern") or "ME*-")
    unknown = set(kinds) - set(KINDS.values())
    if unknown:
        raise ValueError(f"layer type {sorted(unknown)[0]!r} is not implemented")
    return kinds


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
        return (normed * self.weight.float()).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """Root-mean-square norm of what a gate's silu lets through, group by group, that scales by weight."""

    def __init__(self, size: int, groups: int, eps: float):
        super().__init__()
        self.eps = eps
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Both `[..., size]` -> `[..., size]`, in x's dtype or the weight's, whichever is wider."""
        x32 = (x.float() * functional.silu(gate.float())).unflatten(-1, (self.groups, -1))
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.flatten(-2).to(x.dtype) * self.weight


def scan(x: Tensor, write: Tensor, read: Tensor, decay: Tensor, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Read and write a state token by token, a chunk at a time.

    Each token decays the state by exp(decay), adds write x to it, and reads it with read.

    Args:
        x: what is written `[B, M, T, P]`.
        write: where to `[B, M, T, Q]`.
        read: from where `[B, M, T, Q]`.
        decay: logarithm of the decay `[B, M, T]`, at most 0.
        state: what the tokens before left, `[B, M, Q, P]`.
        size: of a chunk, which changes nothing but rounding and speed.

    Returns:
        What the tokens read `[B, M, T, P]`, and the state after the last.
    """
    tokens = x.shape[2]
    size = min(size, tokens)
    # Tokens of zeros at the end neither decay the state nor write to it.
    x, write, read = (
        functional.pad(each, (0, 0, 0, -tokens % size)).unflatten(2, (-1, size)) for each in (x, write, read)
    )
    decayed = functional.pad(decay, (0, -tokens % size)).unflatten(2, (-1, size)).cumsum(-1)

    future = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    between = (decayed[..., :, None] - decayed[..., None, :]).masked_fill(future, -torch.inf).exp()
    left = (decayed[..., -1:] - decayed).exp()[..., None]
    decayed = decayed.exp()[..., None]
    scores = (read @ write.transpose(-1, -2)) * between

    found = []
    for chunk in range(x.shape[2]):
        found.append((read * decayed)[:, :, chunk] @ state + scores[:, :, chunk] @ x[:, :, chunk])
        state = state * decayed[:, :, chunk, -1:] + (write * left)[:, :, chunk].transpose(-1, -2) @ x[:, :, chunk]
    return torch.cat(found, dim=2)[:, :, :tokens], state


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
    """What one Mamba layer remembers: the inputs that its convolution still needs, and its state."""

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
        made = {"attention": LayerCache, "mamba": lambda: StateCache(config.conv_kernel)}
        self.layers = [made[kind]() if kind in made else None for kind in config.layer_types]
        self.real: Tensor | None = None
        self.length = 0

    def extend(self, real: Tensor) -> Tensor:
        """Append which of this call's tokens are real, `[B, T]`; return it for all tokens so far."""
        self.real = real if self.real is None else torch.cat((self.real, real), dim=1)
        self.length = self.real.shape[1]
        return self.real


class Attention(nn.Module):
    """Grouped-query attention without positions."""

    def __init__(self, config: Config):
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.scale = config.head_dim**-0.5
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)
        k = self.k_proj(x).view(heads).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)

        if cache is not None:
            k, v = cache.append(k, v)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))


class Mamba(nn.Module):
    """A Mamba-2 layer: a convolution over the last few tokens, a state space, a gated norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.groups = config.mamba_num_heads, config.n_groups
        self.kernel, self.chunk_size = config.conv_kernel, config.chunk_size
        self.time_step_min = config.time_step_min
        size, states = config.mamba_num_heads * config.mamba_head_dim, config.n_groups * config.ssm_state_size
        self.sizes = (size, states, states)
        channels = sum(self.sizes)
        self.in_proj = nn.Linear(config.hidden_size, size + channels + self.heads, bias=config.use_bias)
        self.conv = nn.Conv1d(channels, channels, self.kernel, groups=channels, bias=config.use_conv_bias)
        self.a_log = nn.Parameter(torch.zeros(self.heads))
        self.dt_bias = nn.Parameter(torch.ones(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedRMSNorm(size, self.groups, config.layer_norm_epsilon)
        self.out_proj = nn.Linear(size, config.hidden_size, bias=config.use_bias)

    def forward(self, x: Tensor, real: Tensor, cache: StateCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; real is `[B, T]`, false where padding must leave no trace in the state."""
        cache = cache or StateCache(self.kernel)
        padding = ~real[..., None]
        gate, mixed, dt = self.in_proj(x).split((self.sizes[0], sum(self.sizes), self.heads), dim=-1)
        mixed = cache.append(mixed.masked_fill(padding, 0.0).transpose(1, 2))
        mixed = functional.silu(self.conv(mixed)).transpose(1, 2).masked_fill(padding, 0.0)
        value, write, read = (self._per_head(each, at > 0) for at, each in enumerate(mixed.split(self.sizes, dim=-1)))
        # The shortest step holds for every token, those that are decoded one by one too.
        dt = functional.softplus(dt + self.dt_bias).clamp_min(self.time_step_min).transpose(1, 2).float()
        decay = -self.a_log.float().exp()[:, None] * dt

        shape = (*value.shape[:2], write.shape[-1], value.shape[-1])
        state = value.new_zeros(shape) if cache.state is None else cache.state
        found, cache.state = scan(value * dt[..., None], write, read, decay, state, self.chunk_size)

        found = (found + value * self.skip[:, None, None]).transpose(1, 2).flatten(2)
        return self.out_proj(self.norm(found, gate).to(x.dtype))

    def _per_head(self, x: Tensor, grouped: bool) -> Tensor:
        """`[B, T, M * P]`, or `[B, T, G * Q]` of which heads of a group share one -> `[B, M, T, P]` in float32."""
        x = x.unflatten(-1, (self.groups if grouped else self.heads, -1)).transpose(1, 2).float()
        return x.repeat_interleave(self.heads // self.groups, dim=1) if grouped else x


class SquaredReLU(nn.Module):
    """The square of what is positive, zero for the rest."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., F]` -> `[..., F]`."""
        return torch.relu(x).square()


class MLP(nn.Module):
    """MLP without a gate: down(relu(up(x))^2)."""

    def __init__(self, size: int, inner_size: int, bias: bool):
        super().__init__()
        self.up_proj = nn.Linear(size, inner_size, bias=bias)
        self.down_proj = nn.Linear(inner_size, size, bias=bias)
        self.activation = SquaredReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> `[..., size]`."""
        return self.down_proj(self.activation(self.up_proj(x)))


class Router(nn.Module):
    """Chooses X of E experts for each token, within its best groups of them, and says how much each counts."""

    def __init__(self, config: Config):
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.groups, self.chosen_groups = config.n_group, config.topk_group
        self.normalised = config.norm_topk_prob
        self.factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.correction_bias = nn.Buffer(torch.zeros(config.n_routed_experts))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C]` -> shares `[N, X]` in float32 and the experts they belong to, int64 `[N, X]`."""
        scores = torch.sigmoid(functional.linear(tokens.float(), self.weight.float()))
        # The bias, which evens out how often experts are chosen, has no part in what the chosen ones count.
        biased = (scores + self.correction_bias).unflatten(-1, (self.groups, -1))
        best = biased.topk(2, dim=-1).values.sum(-1).topk(self.chosen_groups, dim=-1, sorted=False).indices
        left_out = torch.ones_like(biased[..., 0], dtype=torch.bool).scatter(-1, best, False)
        biased = biased.masked_fill(left_out[..., None], -torch.inf).flatten(-2)
        chosen = biased.topk(self.chosen, dim=-1, sorted=False).indices
        shares = scores.gather(-1, chosen)
        if self.normalised:
            shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
        return shares * self.factor, chosen


class Experts(nn.Module):
    """A router sends each token to X of E experts, which count by their shares; a shared one sees all."""

    def __init__(self, config: Config):
        super().__init__()
        size, latent_size, bias = config.hidden_size, config.moe_latent_size, config.mlp_bias
        self.router = Router(config)
        self.latent = latent_size is not None
        if latent_size is not None:
            self.latent_in_proj = nn.Linear(size, latent_size, bias=bias)
            self.latent_out_proj = nn.Linear(latent_size, size, bias=bias)
        self.experts = nn.ModuleList(
            MLP(latent_size or size, config.moe_intermediate_size, bias=False) for _ in range(config.n_routed_experts)
        )
        self.shared_expert = MLP(size, config.moe_shared_expert_intermediate_size, bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        tokens = x.flatten(0, 1)
        shares, chosen = self.router(tokens)
        tokens = self.latent_in_proj(tokens) if self.latent else tokens
        mixed = torch.zeros_like(tokens, dtype=shares.dtype)
        for index, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == index)
            mixed = mixed.index_add(0, rows, expert(tokens[rows]) * shares[rows, places, None])
        mixed = mixed.to(x.dtype)
        mixed = self.latent_out_proj(mixed) if self.latent else mixed
        return mixed.view_as(x) + self.shared_expert(x)


class DecoderLayer(nn.Module):
    """A Mamba-2 mixer, attention, experts or an MLP, normed before, added to the residual stream."""

    def __init__(self, config: Config, kind: str):
        super().__init__()
        self.kind = kind
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer: nn.Module
        if kind == "mamba":
            self.mixer = Mamba(config)
        elif kind == "attention":
            self.mixer = Attention(config)
        elif kind == "moe":
            self.mixer = Experts(config)
        else:
            self.mixer = MLP(config.hidden_size, config.intermediate_size, config.mlp_bias)

    def forward(self, x: Tensor, visible: Tensor, real: Tensor, cache: Any | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible `[B, 1, T, S]` is for attention, real `[B, T]` for Mamba."""
        if self.kind == "mamba":
            return x + self.mixer(self.norm(x), real, cache)
        if self.kind == "attention":
            return x + self.mixer(self.norm(x), visible, cache)
        return x + self.mixer(self.norm(x))


class Model(nn.Module):
    """Nemotron 3 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, kind) for kind in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def new_cache(self, batch_size: int) -> Cache:
        """An empty cache; its tensors take their batch size from the first call."""
        return Cache(self.config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """`[B, T]` int64 -> logits `[B, T, V]` in float32.

        attention_mask `[B, T]` is 1 for real tokens and 0 for padding. There are no positions to count, and a state at
        zero stays there, so padding on the left changes nothing.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        start = 0 if cache is None else cache.length
        real = (real if cache is None else cache.extend(real)).bool()
        visible = self._visible(real, start)

        x = self.embed_tokens(input_ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, visible, real[:, start:], None if cache is None else cache.layers[index])
        return self.lm_head(self.norm(x)).float()

    def _visible(self, real: Tensor, start: int) -> Tensor:
        """`[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        return (distance >= 0) & real[:, None, None]
