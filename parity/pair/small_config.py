"""The small config: the real config.json with narrow widths, and nothing else made smaller.

Flags, activations, eps, scales, rope values, ties, biases and softcaps stay as they are, at least two layers of each
kind remain, and widths become pairwise distinct, so that no two axes can be confused unseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 24
_OTHER_KV_HEADS, _OTHER_HEAD_DIM = 2 * KV_HEADS, 2 * HEAD_DIM  # of layers that have other ones than most
_SCALED_HEAD_DIM = 2 * HEAD_DIM  # where rope is scaled by wavelength: frequencies in each part, between its limits too

# Widths by the names that configs give them; None in the config (a derived or absent feature) stays None.
_WIDTHS = {
    "vocab_size": 157, "vocab_size_per_layer_input": 157,
    "hidden_size": 56, "n_embd": 56,
    "intermediate_size": 88, "n_inner": 88,
    "moe_intermediate_size": 40, "shared_expert_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32,
    "moe_latent_size": 72, "hidden_size_per_layer_input": 12,
    "head_dim": HEAD_DIM, "global_head_dim": _OTHER_HEAD_DIM, "sliding_window": 7,
    "kv_lora_rank": 26, "q_lora_rank": 38, "qk_rope_head_dim": 16, "qk_nope_head_dim": 14, "v_head_dim": 18,
    "index_topk": 6, "index_head_dim": 20, "index_n_heads": 19,
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 10, "linear_value_head_dim": 14,
    "ssm_state_size": 10, "mamba_num_heads": 8, "mamba_head_dim": 6, "n_groups": 4, "chunk_size": 16,
}  # fmt: skip
_HEADS = ("num_attention_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "num_global_key_value_heads")
_LAYERS = ("num_hidden_layers", "n_layer")
_LAYER_LISTS = ("layer_types", "layers_block_type")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "top_k_experts")
_POSITIONS = ("max_position_embeddings", "n_positions")
_SHARING = "num_kv_shared_layers"  # as many layers at the end use what the last one of their kind before them made
_BY_LAYER = "per_layer_config"
_PERIODS = ("sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval", "no_rope_layer_interval")
_SMALL_PERIOD = 3
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class SmallConfig:
    """A shrunken config.json, and the number of tokens that a probe needs to reach everything in it."""

    config: Mapping[str, Any]
    tokens: int
    notes: tuple[str, ...] = ()


def probe_length(settings: Mapping[str, Any]) -> int:
    """Tokens that reach past the window, past two linear-attention chunks of 64, and stay within the context.

    The first chunk finds no state to decay, and the last one's is never read.
    """
    reach = 131 if any(name.startswith("linear_") for name in settings) else 41
    window = settings.get("sliding_window")
    if isinstance(window, int) and settings.get("use_sliding_window") is not False:
        reach = max(reach, min(2 * window + 5, 2053))
    return min(reach, context_length(settings, reach))


def context_length(settings: Mapping[str, Any], unbounded: int) -> int:
    """Tokens that the context holds, `unbounded` if nothing bounds it."""
    return min((settings[name] for name in _POSITIONS if isinstance(settings.get(name), int)), default=unbounded)


def shrink(
    config: Mapping[str, Any], settings: Mapping[str, Any], adversarial: bool = True, deep: bool = False
) -> SmallConfig:
    """Derive the small config.

    Args:
        config: the real config.json, parsed; its form is kept, older field names included.
        settings: every field of the reference's config class with its value for `config`.
        adversarial: also break equalities that the real config has and its class does not demand (heads * head_dim =
            hidden_size, a single kv head). A port that relies on them cannot be built on such a config.
        deep: keep all layers, for a fault of one of them.
    """
    known = {**settings, **{name: value for name, value in config.items() if name not in settings}}
    if _is_small(known, deep):
        return SmallConfig(config, probe_length(known))
    small: dict[str, Any] = {}
    for name, width in _WIDTHS.items():
        if isinstance(known.get(name), int) and not isinstance(known[name], bool) and known[name] > 0:
            small[name] = width
    small |= _heads(known, adversarial)
    small |= _experts(known)
    small |= _overrides(known, {}) if deep else _layers(known)
    small |= _positions(known)
    small |= _token_ids(known)
    small |= _related(known, small, adversarial)
    kept = {name: value for name, value in small.items() if name in config or _must_be_given(value, known[name])}
    result = {**config, **kept}
    return SmallConfig(result, probe_length({**known, **small}))


def _is_small(known: Mapping[str, Any], deep: bool) -> bool:
    """A config that somebody has shrunk already is left as they made it."""
    hidden, layers = _first(("hidden_size", "n_embd"), known), _layer_count(known)
    return hidden is not None and known[hidden] <= 64 and layers is not None and (deep or layers <= 8)


def _must_be_given(value: Any, default: Any) -> bool:
    """A field that the real config leaves out stays out if its default still fits; what is by layer is derived."""
    return value != default and not isinstance(value, list | Mapping)


def _related(known: Mapping[str, Any], small: Mapping[str, Any], adversarial: bool) -> dict[str, Any]:
    """Fields that say the same thing twice, and must go on agreeing."""
    related = {}
    if known.get("n_ctx") is not None and known["n_ctx"] == known.get("n_positions"):
        related["n_ctx"] = small.get("n_positions", known["n_ctx"])
    if not adversarial and known.get("n_inner") is not None and known["n_inner"] == 4 * known.get("n_embd", 0):
        related["n_inner"] = 4 * small["n_embd"]
    return related


def _first(names: Sequence[str], known: Mapping[str, Any]) -> str | None:
    return next((name for name in names if isinstance(known.get(name), int)), None)


def _heads(known: Mapping[str, Any], adversarial: bool) -> dict[str, Any]:
    """Head counts, and widths that depend on them."""
    heads_name, hidden_name = _first(_HEADS, known), _first(("hidden_size", "n_embd"), known)
    if heads_name is None or hidden_name is None:
        return {}
    small: dict[str, Any] = {heads_name: HEADS}
    for name in _KV_HEADS:
        if isinstance(known.get(name), int):
            small[name] = _kv_heads(known[name], known[heads_name], adversarial)
    if len({known.get(name) for name in _KV_HEADS if name in small}) > len({small.get(name) for name in _KV_HEADS}):
        small[_KV_HEADS[1]] = _OTHER_KV_HEADS
    latent = isinstance(known.get("kv_lora_rank"), int)
    small_head_dim = _SCALED_HEAD_DIM if _scaled_by_wavelength(known) else HEAD_DIM
    head_dim = known.get("head_dim")
    if latent:
        small["head_dim"] = _WIDTHS["qk_rope_head_dim"]
    elif isinstance(head_dim, int):
        small["head_dim"] = small_head_dim
    tied_widths = (
        not latent and (head_dim or known[hidden_name] // known[heads_name]) * known[heads_name] == known[hidden_name]
    )
    if (head_dim is None and not latent) or (tied_widths and not adversarial):
        small[hidden_name] = HEADS * small_head_dim
    if "head_dim" in small and "head_dim" not in known:
        del small["head_dim"]
    return small


def _scaled_by_wavelength(known: Mapping[str, Any]) -> bool:
    """Whether rope treats short and long wavelengths differently, around a length that the config gives."""
    rope = known.get("rope_parameters") or known.get("rope_scaling") or {}
    tables = [rope, *(table for table in rope.values() if isinstance(table, Mapping))]
    return any(table.get("original_max_position_embeddings") is not None for table in tables)


def _kv_heads(kv_heads: int, heads: int, adversarial: bool) -> int:
    if kv_heads == heads:
        return HEADS
    return 1 if kv_heads == 1 and not adversarial else KV_HEADS


def _experts(known: Mapping[str, Any]) -> dict[str, Any]:
    grouped = (known.get("n_group") or 1) > 1
    small: dict[str, Any] = {name: 16 if grouped else 8 for name in _EXPERTS if known.get(name)}
    small |= {name: min(known[name], 3) for name in _EXPERTS_PER_TOKEN if known.get(name)}
    if grouped:
        small |= {"n_group": 4, "topk_group": min(known.get("topk_group") or 1, 2)}
    return small


def with_experts(config: Mapping[str, Any], times: int) -> dict[str, Any]:
    """A config with so many times as many experts, from whose number others may follow."""
    return {**config, **{name: times * config[name] for name in _EXPERTS if config.get(name)}}


def _layers(known: Mapping[str, Any]) -> dict[str, Any]:
    """Fewer layers: at least two of each kind, in an order that the full model has too."""
    layers_name, count = _first(_LAYERS, known), _layer_count(known)
    if count is None:
        return {}
    lists = {name: value for name, value in known.items() if _speaks_of_layers(name, value) and len(value) == count}
    kinds = [tuple(str(value[layer]) for value in lists.values()) + _mlp_kind(known, layer) for layer in range(count)]
    sharing = known.get(_SHARING) or 0
    kinds = [(*kind, "shares" if layer >= count - sharing else "") for layer, kind in enumerate(kinds)]
    chosen = _choose(kinds)
    small: dict[str, Any] = {} if layers_name is None else {layers_name: len(chosen)}
    for name, value in lists.items():
        kept = [value[layer] for layer in chosen]
        small[name] = "".join(kept) if isinstance(value, str) else kept
    small |= {name: _SMALL_PERIOD for name in _PERIODS if isinstance(known.get(name), int) and len(set(kinds)) > 1}
    if isinstance(known.get("first_k_dense_replace"), int):
        small["first_k_dense_replace"] = sum(layer < known["first_k_dense_replace"] for layer in chosen)
    if known.get("mlp_only_layers"):
        small["mlp_only_layers"] = [new for new, layer in enumerate(chosen) if layer in known["mlp_only_layers"]]
    if isinstance(known.get("max_window_layers"), int):
        small["max_window_layers"] = sum(layer < known["max_window_layers"] for layer in chosen)
    if isinstance(known.get(_SHARING), int):
        small[_SHARING] = sum(layer >= count - sharing for layer in chosen)
    return small | _overrides(known, {layer: new for new, layer in enumerate(chosen)})


def _overrides(known: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """What is given for single layers: small, and other than what all layers have.

    numbers: new ones of the layers that are kept; empty if all keep theirs.
    """
    if not isinstance(known.get(_BY_LAYER), Mapping):
        return {}
    widths = {**_WIDTHS, "head_dim": _OTHER_HEAD_DIM, "num_key_value_heads": _OTHER_KV_HEADS}
    given = {int(layer): values for layer, values in known[_BY_LAYER].items()}
    return {
        _BY_LAYER: {
            str(numbers.get(layer, layer)): {name: widths.get(name, value) for name, value in values.items()}
            for layer, values in given.items()
            if not numbers or layer in numbers
        }
    }


def _layer_count(known: Mapping[str, Any]) -> int | None:
    """How many layers there are; some configs only list them."""
    name = _first(_LAYERS, known)
    if name is not None:
        return int(known[name])
    return next((len(known[name]) for name in _LAYER_LISTS if isinstance(known.get(name), list | tuple)), None)


def _speaks_of_layers(name: str, value: Any) -> bool:
    """Whether a field may have an entry for each layer: a list, or a pattern with a letter for each."""
    return (isinstance(value, list | tuple) and name != "architectures") or (
        isinstance(value, str) and name.endswith("_pattern")
    )


def _mlp_kind(known: Mapping[str, Any], layer: int) -> tuple[str, ...]:
    dense = layer < (known.get("first_k_dense_replace") or 0) or layer in (known.get("mlp_only_layers") or ())
    return ("dense",) if dense else ("usual",)


def _choose(kinds: Sequence[tuple[str, ...]]) -> list[int]:
    """Indices of the layers to keep."""
    if len(kinds) <= 3:
        return list(range(len(kinds)))
    if len(set(kinds)) == 1:
        return [0, 1, 2]
    period = next((p for p in range(2, len(kinds) // 2 + 1) if list(kinds[p:]) == list(kinds[:-p])), None)
    if period is not None and period > _SMALL_PERIOD and len(set(kinds[: period - 1])) == 1:
        last = period - 1
        return [0, 1, last, period, period + 1, period + last]
    seen: dict[tuple[str, ...], int] = {}
    chosen = []
    for layer, kind in enumerate(kinds):
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= 2:
            chosen.append(layer)
    return chosen


def _positions(known: Mapping[str, Any]) -> dict[str, Any]:
    """A context that holds the probe; rope scaling keeps the values it is computed from."""
    rope = known.get("rope_parameters") or known.get("rope_scaling") or {}
    types = {rope.get("rope_type")} | {value.get("rope_type") for value in rope.values() if isinstance(value, Mapping)}
    name = _first(_POSITIONS, known)
    if name is None:
        return {}
    if types & set(_LENGTH_DEPENDENT_ROPE):
        return {name: 31}
    return {name: 211} if types <= {None, "default"} else {}


def _token_ids(known: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens inside the small vocabulary."""
    vocabulary = _WIDTHS["vocab_size"]

    def inside(value: Any) -> Any:
        if isinstance(value, list):
            return [inside(item) for item in value]
        return value % vocabulary if isinstance(value, int) and value >= vocabulary else value

    return {name: inside(value) for name, value in known.items() if name.endswith("_token_id") and value is not None}
