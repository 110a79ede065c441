"""GPT-2, from scratch: small to XL.

Read from the paper (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)
and the released config.json files.
Shapes: B batch, T tokens of this call, S keys visible to it, H heads, D = C / H, C hidden_size,
F intermediate_size, V vocab_size.

What makes it GPT-2:
  - positions are learned vectors added to the embedding, nothing rotates;
  - every layer attends to everything, each head with keys and values of its own;
  - one projection makes queries, keys and values; all projections but the head are stored as [in, out];
  - two layer norms per layer, before attention and before the MLP, and biases everywhere but in the head;
  - the head is the embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("gpt2",)

BODY: dict[str, str | None] = {
    "wte.weight": "embed_tokens.weight",
    "wpe.weight": "embed_positions.weight",
    "h.{}.ln_1.weight": "layers.{}.pre_attention_norm.weight",
    "h.{}.ln_1.bias": "layers.{}.pre_attention_norm.bias",
    "h.{}.attn.c_attn.weight": "layers.{}.attention.qkv_proj.weight",
    "h.{}.attn.c_attn.bias": "layers.{}.attention.qkv_proj.bias",
    "h.{}.attn.c_proj.weight": "layers.{}.attention.o_proj.weight",
    "h.{}.attn.c_proj.bias": "layers.{}.attention.o_proj.bias",
    "h.{}.attn.bias": None,  # the causal mask, which older checkpoints store
    "h.{}.attn.masked_bias": None,
    "h.{}.ln_2.weight": "layers.{}.pre_mlp_norm.weight",
    "h.{}.ln_2.bias": "layers.{}.pre_mlp_norm.bias",
    "h.{}.mlp.c_fc.weight": "layers.{}.mlp.up_proj.weight",
    "h.{}.mlp.c_fc.bias": "layers.{}.mlp.up_proj.bias",
    "h.{}.mlp.c_proj.weight": "layers.{}.mlp.down_proj.weight",
    "h.{}.mlp.c_proj.bias": "layers.{}.mlp.down_proj.bias",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}

# The released checkpoints hold the body alone; those saved with a head put a prefix before its names.
WEIGHTS = {
    **BODY,
    **{f"transformer.{name}": place for name, place in BODY.items()},
    "lm_head.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Config:
    """What GPT-2 reads from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    max_position_embeddings: int
    layer_norm_epsilon: float
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Read a parsed config.json.

        Raises:
            ValueError: the config asks for something this file does not implement.
        """
        activation = hf.get("activation_function") or "gelu_new"
        if activation != "gelu_new":
            raise ValueError(f"activation_function {activation!r} is not implemented, only 'gelu_new'")
        if hf.get("add_cross_attention"):
            raise ValueError("add_cross_attention is not implemented, there is no encoder to attend to")
        # reorder_and_upcast_attn is left out on purpose: it asks for another order of the same computation.
        return cls(
            vocab_size=hf["vocab_size"],
            hidden_size=hf["n_embd"],
            intermediate_size=hf.get("n_inner") or 4 * hf["n_embd"],
            num_attention_heads=hf["n_head"],
            num_hidden_layers=hf["n_layer"],
            max_position_embeddings=hf["n_positions"],
            layer_norm_epsilon=hf.get("layer_norm_epsilon", 1e-5),
            scale_attn_weights=hf.get("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=hf.get("scale_attn_by_inverse_layer_idx", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
        )


class Projection(nn.Module):
    """Linear map whose weight is `[in, out]`, as the checkpoint stores it."""

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_size, out_size) * in_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(out_size))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        return nn.functional.linear(x, self.weight.T, self.bias)


class LayerCache:
    """Keys and values of one layer."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[B, H, T, D]`; return what these T queries may see, `[B, H, S, D]`, oldest first."""
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
    """Multi-head attention."""

    def __init__(self, config: Config, index: int):
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= index + 1
        self.qkv_proj = Projection(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = Projection(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`; visible is `[B, 1, T, S]`, true where a query may look at a key."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv_proj(x).chunk(3, dim=-1))

        if cache is not None:
            k, v = cache.append(k, v)

        scores = q @ k.transpose(2, 3) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        context = (weights @ v).transpose(1, 2)
        return self.o_proj(context.flatten(2))


class MLP(nn.Module):
    """Plain MLP: down(gelu(up(x))), with the tanh form of gelu (https://arxiv.org/abs/1606.08415)."""

    def __init__(self, config: Config):
        super().__init__()
        self.up_proj = Projection(config.hidden_size, config.intermediate_size)
        self.down_proj = Projection(config.intermediate_size, config.hidden_size)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        return self.down_proj(self.activation(self.up_proj(x)))


class DecoderLayer(nn.Module):
    """Attention and MLP, each normed before, each added to the residual stream."""

    def __init__(self, config: Config, index: int):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_epsilon
        self.pre_attention_norm = nn.LayerNorm(size, eps)
        self.attention = Attention(config, index)
        self.pre_mlp_norm = nn.LayerNorm(size, eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, visible: Tensor, cache: LayerCache | None = None) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        x = x + self.attention(self.pre_attention_norm(x), visible, cache)
        return x + self.mlp(self.pre_mlp_norm(x))


class Model(nn.Module):
    """GPT-2 for causal language modelling."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def new_cache(self, batch_size: int) -> Cache:
        """An empty cache; its tensors take their batch size from the first call."""
        return Cache(self.config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """`[B, T]` int64 -> logits `[B, T, V]`.

        attention_mask `[B, T]` is 1 for real tokens and 0 for padding. Learned positions count real tokens only, so
        that padding on the left moves no row.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        start = 0 if cache is None else cache.length
        real = (real if cache is None else cache.extend(real)).bool()
        visible = self._visible(real, start)

        positions = (real.cumsum(dim=1) - 1).clamp(min=0)[:, start:]
        x = self.embed_tokens(input_ids) + self.embed_positions(positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, visible, None if cache is None else cache.layers[index])
        return self.lm_head(self.norm(x))

    def _visible(self, real: Tensor, start: int) -> Tensor:
        """`[B, 1, T, S]`: which of the S keys so far each query from `start` on may see."""
        keys = torch.arange(real.shape[1], device=real.device)
        distance = keys[start:, None] - keys
        return (distance >= 0) & real[:, None, None]
