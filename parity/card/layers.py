"""What each layer is, read from the config's fields: what mixes tokens, and what follows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parity.card.fields import FULL, LATENT, LINEAR, NONE, SLIDING, STATE_SPACE, STRANGE, Fields, mixer_kind, only_ffn


@dataclass(frozen=True)
class Latent:
    """Keys and values of all heads from one latent: ranks, and widths of each head. q_rank 0: queries have none."""

    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True)
class Indexer:
    """Light heads that choose the keys that attention sees: how many, how wide, and how many keys they choose."""

    heads: int
    width: int
    chosen: int


@dataclass(frozen=True)
class Recurrent:
    """A state of fixed size: heads and widths of keys and values, groups of keys, tokens that a convolution sees."""

    key_heads: int
    key_width: int
    value_heads: int
    value_width: int
    kernel: int


@dataclass(frozen=True)
class Mixer:
    """What mixes tokens.

    window: tokens that attention sees; None for all. shares: uses keys and values of an earlier layer. keys_as_values:
    values are made of the keys' projection. rotated: positions are rotated into queries and keys, as far as fields say.
    """

    kind: str
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    window: int | None = None
    latent: Latent | None = None
    indexer: Indexer | None = None
    recurrent: Recurrent | None = None
    shares: bool = False
    keys_as_values: bool = False
    rotated: bool = True


@dataclass(frozen=True)
class Ffn:
    """What follows: a dense width, experts, both beside each other, or nothing.

    shared: width of what every token meets beside its experts. latent: width that experts work in, if another one.
    """

    dense: int = 0
    experts: int = 0
    per_token: int = 0
    expert_inner: int = 0
    shared: int = 0
    latent: int = 0


@dataclass(frozen=True)
class Layer:
    """One layer."""

    mixer: Mixer
    ffn: Ffn


def read(fields: Fields) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Every layer, and what about them is not known."""
    unknown: dict[str, None] = {}
    found = tuple(_layer(fields, number, unknown) for number in range(fields.depth))
    return found, tuple(unknown)


def _layer(fields: Fields, number: int, unknown: dict[str, None]) -> Layer:
    words = fields.kinds_given()
    word = words[number] if words is not None and number < len(words) else None
    alone = None if word is None else only_ffn(word)
    if alone is not None:
        return Layer(Mixer(NONE), _ffn(fields, number, alone))
    kind = None if word is None else mixer_kind(word)
    if word is not None and kind is None:
        unknown[f"what a layer of kind {word!r} has and keeps; it counts as nothing"] = None
        return Layer(Mixer(STRANGE), _ffn(fields, number, None))
    mixer = _mixer(fields, number, kind or FULL)
    one_thing = any(only_ffn(each) for each in words or ())
    return Layer(mixer, Ffn() if one_thing else _ffn(fields, number, None))


def _mixer(fields: Fields, number: int, kind: str) -> Mixer:
    if kind == LINEAR and fields.count("linear_num_key_heads"):
        return Mixer(LINEAR, recurrent=_delta(fields))
    if kind in (LINEAR, STATE_SPACE):  # some classes call every state of fixed size linear attention
        return Mixer(STATE_SPACE, recurrent=_state_space(fields))
    heads = fields.number("heads") or 0
    if fields.count("kv_lora_rank"):
        return _latent(fields, heads)
    window = _window(fields, number, kind)
    kv_heads, head_dim, as_values = _widths(fields, number, heads, full=window is None)
    shared = fields.count("num_kv_shared_layers")
    return Mixer(
        FULL if window is None else SLIDING,
        heads, kv_heads, head_dim, window,
        shares=bool(shared) and number >= fields.depth - shared,
        keys_as_values=as_values,
        rotated=_rotated(fields, number),
    )  # fmt: skip


def _latent(fields: Fields, heads: int) -> Mixer:
    rope, nope = fields.count("qk_rope_head_dim"), fields.count("qk_nope_head_dim")
    latent = Latent(
        fields.count("q_lora_rank"), fields.count("kv_lora_rank"), nope, rope, fields.count("v_head_dim") or nope
    )
    chosen = fields.count("index_topk")
    indexer = Indexer(fields.count("index_n_heads"), fields.count("index_head_dim"), chosen) if chosen else None
    return Mixer(LATENT, heads, heads, nope + rope, latent=latent, indexer=indexer)


def _window(fields: Fields, number: int, kind: str) -> int | None:
    """Tokens that a layer's attention sees; None for all."""
    window = fields.number("window")
    if window is None or fields.all.get("use_sliding_window") is False:
        return None
    if fields.kinds_given() is not None:
        return window if kind == SLIDING else None
    period = fields.count("sliding_window_pattern") or fields.count("_sliding_window_pattern")
    if period:
        return window if (number + 1) % period else None
    before = fields.all.get("max_window_layers")
    return window if not isinstance(before, int) or number >= before else None


def _widths(fields: Fields, number: int, heads: int, full: bool) -> tuple[int, int, bool]:
    """Key-value heads, features of a head, and whether values are made of the keys' projection."""
    kv_heads = fields.number("kv_heads") or (1 if fields.on("multi_query") else heads)
    head_dim = fields.number("head_dim") or (fields.number("hidden") or 0) // max(heads, 1)
    as_values = fields.on("attention_k_eq_v") and full
    if full:  # of full layers among sliding ones
        head_dim = fields.count("global_head_dim") or head_dim
        if as_values:
            kv_heads = fields.count("num_global_key_value_heads") or kv_heads
    kv_heads = fields.of_layer(number, "num_key_value_heads") or kv_heads
    return kv_heads, fields.of_layer(number, "head_dim") or head_dim, as_values


def _rotated(fields: Fields, number: int) -> bool:
    listed = fields.all.get("no_rope_layers")
    if isinstance(listed, list | tuple) and number < len(listed):
        return bool(listed[number])
    return True


def _delta(fields: Fields) -> Recurrent:
    return Recurrent(
        fields.count("linear_num_key_heads"),
        fields.count("linear_key_head_dim"),
        fields.count("linear_num_value_heads"),
        fields.count("linear_value_head_dim"),
        fields.count("linear_conv_kernel_dim"),
    )


def _state_space(fields: Fields) -> Recurrent:
    """Keys and queries of Mamba-2 come in groups, each as wide as the state."""
    return Recurrent(
        fields.count("n_groups"),
        fields.count("ssm_state_size"),
        fields.count("mamba_num_heads"),
        fields.count("mamba_head_dim"),
        fields.count("conv_kernel"),
    )


def _ffn(fields: Fields, number: int, alone: str | None) -> Ffn:
    hidden = fields.number("hidden") or 0
    dense = fields.number("inner") or 4 * hidden
    if fields.on("use_double_wide_mlp") and number >= fields.depth - fields.count("num_kv_shared_layers"):
        dense *= 2
    experts = fields.number("experts") or 0
    if alone == "dense" or not experts or not (alone or _has_experts(fields, number)):
        return Ffn(dense)
    inner = fields.number("expert_inner") or dense
    shared = fields.number("shared_inner") or inner * (fields.number("shared_experts") or 0)
    beside = dense if fields.on("enable_moe_block") else 0
    return Ffn(beside, experts, fields.number("per_token") or 1, inner, shared, fields.count("moe_latent_size"))


def _has_experts(fields: Fields, number: int) -> bool:
    """Whether a layer that could have experts does."""
    if fields.all.get("enable_moe_block") is False:
        return False
    listed: Any = fields.all.get("mlp_layer_types")
    if isinstance(listed, list | tuple) and number < len(listed):
        return listed[number] in ("sparse", "moe")
    if number < fields.count("first_k_dense_replace"):
        return False
    dense = fields.all.get("mlp_only_layers")
    if isinstance(dense, list | tuple) and number in dense:
        return False
    step = fields.count("decoder_sparse_step") or 1
    return (number + 1) % step == 0


def same(layers: tuple[Layer, ...]) -> Mapping[Layer, tuple[int, ...]]:
    """Layers that are alike, with their numbers, in order of appearance."""
    found: dict[Layer, list[int]] = {}
    for number, layer in enumerate(layers):
        found.setdefault(layer, []).append(number)
    return {layer: tuple(numbers) for layer, numbers in found.items()}
