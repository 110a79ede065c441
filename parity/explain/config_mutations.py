"""Mutations of the config: each field of the reference set to other values, the cause that a slip there stands for.

Everything is generated from the fields that the reference's config class has and from what they hold: numbers are
nudged and set to what other fields suggest, flags flipped, names exchanged for others of their kind, lists of layers
shifted and inverted, rope parameters dropped and exchanged.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from parity.errors import ParityError
from parity.pair import reference as references
from parity.pair.reference import Reference

OTHER_TENSORS = "changes the tensors of the checkpoint"
OTHER_SHAPES = "changes shapes"

_SILENT = re.compile(
    r"^(architectures|transformers_version|model_type|_name_or_path|(torch_)?dtype|use_cache|return_dict|output_.*"
    r"|id2label|label2id|problem_type|is_encoder_decoder|chunk_size_feed_forward|task_specific_params|initializer_range|.*_token_id"
    r"|.*aux_loss.*|summary_.*|num_logits_to_keep|.*_cache_dtype|use_mamba_kernels|rescale_prenorm_residual)(\.|$)"
)
_ROUNDING = re.compile(r"upcast|_in_fp32|(^|_)(fp32|float32)(_|$)|_dtype$")
_KINDS = (
    ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2", "quick_gelu", "tanh", "sigmoid", "linear"),
    ("softmax", "sigmoid"),
    ("greedy", "group_limited_greedy", "noaux_tc"),
)
_WIDTH = re.compile(
    r"^(vocab_size.*|.*hidden_size.*|n_embd|n_inner|.*intermediate_size|.*head_dim|.*_rank|n_ctx|.*(num|n)_.*(heads?|experts"
    r"|layers?)|n_head|n_layer|.*_(size|dim|kernel|groups)|conv_kernel|expand)$"
)
_FULL, _SLIDING = "full_attention", "sliding_attention"
_LAYERS = ("num_hidden_layers", "n_layer")
_HEADS = ("num_attention_heads", "n_head")
_HIDDEN = ("hidden_size", "n_embd")
_THETAS = (10_000.0, 500_000.0, 1_000_000.0)
_EPS = (1e-5, 1e-6, 1e-8)
_SOFTCAP = 30.0
_WINDOW = 5  # for a model without one: short, so that any probe leaves it
_FACTOR = 8.0

# The first pattern that a field's name matches says what goes wrong there.
_CAUSES: tuple[tuple[str, str], ...] = (
    (r"eps(ilon)?$", "norm-eps"),
    (r"softcap", "softcap"),
    (r"sliding_window|attention_chunk|max_window_layers|full_attention_interval", "window-pattern"),
    (r"no_rope|temperature|nope", "nope-and-temperature"),
    (r"layer_types|layers_block_type", "window-pattern"),
    (r"mlp_only|first_k_dense|sparse_step|shared_layers|mlp_layer_types|indexer_types", "layer-wiring"),
    (r"partial_rotary|rotary_pct|rotary_dim", "partial-rotary"),
    (r"theta|base_freq|rotary_emb_base", "rope-theta-config"),
    (r"rope_type|rope_scaling$|rope_parameters$", "rope-scaling-dropped"),
    (r"interleave", "rope-pairing"),
    (r"mscale", "mla-yarn-mscale"),
    (r"rope_parameters|rope_scaling|original_max", "rope-scaling-details"),
    (r"use_qk_norm|qk_layernorm", "qknorm-missing-or-width"),
    (r"alibi", "alibi"),
    (r"norm_topk_prob|scoring_func", "router-norm-topk"),
    (r"per_tok|top_k_experts|n_group|topk_group|topk_method|moe_topk", "router-selection"),
    (r"routed_scaling|shared_expert|moe_|experts", "moe-combine"),
    (r"embedding_multiplier|scale_embedding|emb_scale", "embed-scale"),
    (r"query_pre_attn|scale_attn|attention_multiplier|attn_scale|attention_scale", "softmax-scale"),
    (r"multiplier|logits?_scal|residual_scale", "scalar-multipliers"),
    (r"ssm|mamba|linear_|conv|time_step|^chunk_size$|dt_", "ssm-delta-math"),
    (r"swiglu|(^|_)act(ivation)?(_|$)", "activation"),
    (r"bias$", "bias-dropped"),
    (r"bidirectional|is_causal|is_decoder", "attention-mask"),
    (r"parallel|residual|sandwich|post_norm|pre_norm|apply_residual", "residual-topology"),
    (r"tie_", "tied-head"),
    (r"position", "position-ids"),
    (r"head|hidden_size|n_embd|rank", "head-dim-config"),
    (r"layers?$", "layer-wiring"),
)


@dataclass(frozen=True)
class ConfigMutation:
    """One field of the config with another value.

    field: its name in the reference's class, inner names after dots. was: what it is. config: the whole, changed.
    """

    field: str
    value: Any
    was: Any
    config: Mapping[str, Any]
    cause: str

    @property
    def name(self) -> str:
        """`field=value`, as one would write it in a config.json."""
        return f"{self.field}={written(self.value)}"

    @property
    def text(self) -> str:
        """What is said of a port that it reproduces."""
        return f"behaves as if `{self.field}` were {written(self.value)} (config: {written(self.was)})"


def written(value: Any) -> str:
    """A config value as in a config.json."""
    return json.dumps(value, default=str)


def silent(field: str) -> bool:
    """Whether a field says nothing about the function from tokens to logits: names, token ids, what is returned."""
    return _SILENT.match(field) is not None or rounds(field)


def rounds(field: str) -> bool:
    """Whether a field says in which precision something is computed, and nothing else."""
    return _ROUNDING.search(field) is not None


def fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every field by name; those of inner tables, rope parameters by layer type say, with dots."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and not silent(name):
            found |= {f"{name}.{inner}": leaf for inner, leaf in fields(value).items()}
        else:
            found[name] = value
    return found


def cause_of(field: str) -> str:
    """The cause that a wrong value in a field stands for."""
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, field)), "unknown")


def config_mutations(reference: Reference) -> list[ConfigMutation]:
    """Every field that has a say in the function, with each value that a slip could give it."""
    settings = reference.settings
    found: dict[str, ConfigMutation] = {}
    for field, value in fields(settings).items():
        for other in [] if silent(field) else _others(field, value, settings):
            mutation = _mutation(settings, field, value, other)
            found.setdefault(mutation.name, mutation)
    for field, value, other, cause in _ropes(settings):
        mutation = ConfigMutation(field, other, value, _replaced(settings, field, other), cause)
        found.setdefault(mutation.name, mutation)
    return list(found.values())


def apply(
    mutation: ConfigMutation, state: Mapping[str, Tensor], watch: AbstractContextManager[object] | None = None
) -> tuple[nn.Module | None, str]:
    """The reference in promoted float64 on the changed config, with the same weights.

    Args:
        mutation: what to change.
        state: the reference's `state_dict`; tied tensors must share their storage.
        watch: entered while the class is being built.

    Returns:
        The model, or None and why there is none: `OTHER_TENSORS`, `OTHER_SHAPES` or how the class rejects the value.
    """
    try:
        model = references.build(references.describe(mutation.config), True, watch)
    except ParityError as error:
        return None, error.problem
    except Exception as error:  # a class that does not validate its config fails anywhere
        return None, f"{type(error).__name__}: {error}"
    ours, theirs = _shapes(state), _shapes(model.state_dict())
    if ours != theirs:
        return None, OTHER_SHAPES if ours.keys() == theirs.keys() else OTHER_TENSORS
    model.load_state_dict(state)
    return model, ""


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint holds: tied ones once."""
    once = {tensor.data_ptr(): name for name, tensor in reversed(list(state.items())) if tensor.numel()}
    return {name: tuple(state[name].shape) for name in once.values()}


def _mutation(settings: Mapping[str, Any], field: str, value: Any, other: Any) -> ConfigMutation:
    cause = cause_of(field)
    if type(value) is int and type(other) is int and field.endswith("sliding_window") and abs(value - other) == 1:
        cause = "window-off-by-one"
    if cause == "rope-theta-config" and other in _thetas(settings):
        cause = "rope-layer-type"
    return ConfigMutation(field, other, value, _replaced(settings, field, other), cause)


def _replaced(settings: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The settings with one field changed, and what must follow it."""
    first, _, rest = field.partition(".")
    inner = settings[first]
    result = {**settings, first: _replaced(inner, rest, value) if rest else value}
    if field == "layer_types" and _SLIDING in value and settings.get("sliding_window") is None:
        result |= {"sliding_window": _WINDOW, "use_sliding_window": True}
    if field in _LAYERS:  # lists with an entry per layer go on fitting
        was = settings[field]
        result |= {
            name: list(entries)[:value]
            for name, entries in settings.items()
            if isinstance(entries, list | tuple) and len(entries) == was and name != "architectures"
        }
    return result


def _others(field: str, value: Any, settings: Mapping[str, Any]) -> list[Any]:
    """Other values for a field, the likeliest first."""
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return _instead_of_none(field, settings)
    if isinstance(value, str):
        return _other_names(field, value)
    if isinstance(value, list | tuple):
        return _other_lists(list(value))
    if not isinstance(value, int | float):
        return []
    candidates = dict.fromkeys(_other_numbers(field, value, settings))
    return [other for other in candidates if other != value and (other is None or other >= 0)]


def _instead_of_none(field: str, settings: Mapping[str, Any]) -> list[Any]:
    if "softcap" in field:
        return [_SOFTCAP]
    if field.endswith("sliding_window"):
        return [_WINDOW]
    hidden = _first(_HIDDEN, settings)
    if field == "n_inner" and hidden:
        return [3 * hidden]
    return [True] if re.search(r"^use_|^is_|bidirectional", field) else []


def _other_names(field: str, value: str) -> list[Any]:
    if field.endswith("rope_type"):
        return [] if value == "default" else ["default"]
    kinds = next((kind for kind in _KINDS if value in kind), ())
    return [other for other in kinds if other != value]


def _other_lists(value: list[Any]) -> list[Any]:
    """A list with an entry per layer, shifted by one, inverted, or the same everywhere."""
    kinds = list(dict.fromkeys(value))
    if len(kinds) == 1 and kinds[0] in (0, 1) and len(value) > 1:
        return [[1 - kinds[0]] * len(value)]
    if kinds == [_FULL]:
        return [[_SLIDING] * len(value)]
    if len(kinds) < 2 or not all(isinstance(kind, str | int) for kind in kinds):
        return []
    other = dict(zip(kinds, [*kinds[1:], kinds[0]], strict=True))
    candidates = [
        [value[-1], *value[:-1]],
        [*value[1:], value[0]],
        [other[entry] for entry in value],
        *([kind] * len(value) for kind in kinds),
    ]
    return [each for place, each in enumerate(candidates) if each != value and each not in candidates[:place]]


def _other_numbers(field: str, value: float, settings: Mapping[str, Any]) -> Iterator[float | None]:
    if _WIDTH.match(field):
        yield from _other_widths(field, int(value), settings)
    elif re.search(r"eps(ilon)?$", field):
        yield from (_rounded(value * 10), _rounded(value / 10), *_EPS)
    elif re.search(r"theta|base_freq", field):
        yield from (*_thetas(settings), *_THETAS, value * 2, value / 2)
    elif field.endswith("sliding_window"):
        yield from (value + 1, value - 1, value * 2, value // 2, None)
    elif "softcap" in field:
        yield from (None, value * 2, value / 2)
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value * 2, value // 2)
        yield from _suggested(field, settings)
    else:
        yield from (1.0, value * 2, value / 2, 0.5) if value else (0.5, 1.0)
        yield from _suggested(field, settings)


def _rounded(value: float) -> float:
    """A number as one would write it."""
    return float(f"{value:.6g}")


def _other_widths(field: str, value: int, settings: Mapping[str, Any]) -> Iterator[int]:
    if field in _LAYERS:
        yield value - 1
        return
    yield from (value * 2, value // 2)
    heads = _first(_HEADS, settings)
    if "key_value" in field and heads:
        yield heads
    hidden = _first(_HIDDEN, settings)
    if field == "head_dim" and heads and hidden:
        yield hidden // heads


def _suggested(field: str, settings: Mapping[str, Any]) -> Iterator[int]:
    """What scores are usually scaled by, for a field that says what they are scaled by."""
    heads, hidden = _first(_HEADS, settings), _first(_HIDDEN, settings)
    if re.search(r"scalar|query_pre_attn", field):
        yield 1
        if isinstance(settings.get("head_dim"), int):
            yield settings["head_dim"]
        if heads and hidden:
            yield hidden // heads


def _first(names: Sequence[str], settings: Mapping[str, Any]) -> int | None:
    return next((settings[name] for name in names if isinstance(settings.get(name), int)), None)


def _thetas(settings: Mapping[str, Any]) -> tuple[float, ...]:
    """The rope bases of all layer types."""
    named = fields(settings).items()
    found = [value for name, value in named if re.search(r"theta|base_freq", name) and isinstance(value, int | float)]
    return tuple(dict.fromkeys(found)) if len(set(found)) > 1 else ()


def _ropes(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    """Whole tables of rope parameters: dropped, one added, exchanged between layer types. Field, was, is, cause."""
    rope = settings.get("rope_parameters")
    if not isinstance(rope, Mapping) or not rope:
        return
    tables = {name: value for name, value in rope.items() if isinstance(value, Mapping)}
    if not tables:
        for other, cause in _other_tables(rope):
            yield "rope_parameters", rope, other, cause
        return
    for name, table in tables.items():
        for each in tables.values():
            stretched = {**each, "rope_theta": table.get("rope_theta")}
            if stretched != table and "factor" in each:
                yield f"rope_parameters.{name}", table, stretched, "rope-layer-type"
        for other, cause in _other_tables(table):
            yield f"rope_parameters.{name}", table, other, cause
        if len({written(each) for each in tables.values()}) > 1:
            yield "rope_parameters", rope, {**rope, **dict.fromkeys(tables, table)}, "rope-layer-type"
    if len(tables) > 1:
        names = list(tables)
        turned = {name: tables[names[place - 1]] for place, name in enumerate(names)}
        yield "rope_parameters", rope, {**rope, **turned}, "rope-layer-type"


def _other_tables(rope: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    kept = {name: value for name, value in rope.items() if name in ("rope_theta", "partial_rotary_factor")}
    if rope.get("rope_type", "default") == "default":
        yield {**rope, "rope_type": "linear", "factor": _FACTOR}, "rope-scaling-details"
    else:
        stretches = isinstance(rope.get("factor"), int | float) and rope["factor"] != 1
        partial = not stretches and rope.get("partial_rotary_factor", 1) != 1
        yield {**kept, "rope_type": "default"}, "partial-rotary" if partial else "rope-scaling-dropped"
        if isinstance(rope.get("factor"), int | float):
            yield {**kept, "rope_type": "linear", "factor": rope["factor"]}, "rope-scaling-details"
