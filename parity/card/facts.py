"""The facts of a card: what the config's fields and the reference's modules say of an architecture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parity.card.fields import LATENT, NONE, STRANGE, Fields
from parity.card.layers import Layer, Mixer
from parity.card.structure import Norm, Structure
from parity.card_records import Fact, KVCache, Parameters
from parity.names import numbers, ranges

UNKNOWN = None


def facts(
    fields: Fields, layers: Sequence[Layer], structure: Structure | None, parameters: Parameters, kept: KVCache
) -> tuple[Fact, ...]:
    """All of them, in the order in which they are told; a fact that nobody knows has no value."""
    return (
        *_scale(fields, layers, parameters),
        *_attention(fields, layers, structure),
        *_feed_forward(fields, layers),
        *_norms(fields, structure),
        *_positions(fields, layers, structure),
        *_rest(fields, structure),
        *_kept(kept),
    )


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _scale(fields: Fields, layers: Sequence[Layer], parameters: Parameters) -> Iterator[Fact]:
    how = "by formula alone" if parameters.agree is None else "counted, and by formula"
    if parameters.agree is False:
        how = f"counted; by formula {parameters.formula_total:,}, which does not agree"
    yield Fact("Scale", "parameters", f"{parameters.total:,} ({billions(parameters.total)})", how)
    share = parameters.active / max(parameters.total, 1)
    told = "all" if parameters.active == parameters.total else f"{billions(parameters.active)}, {share:.1%}"
    yield Fact("Scale", "active per token", f"{parameters.active:,} ({told})", how)
    yield Fact("Scale", "decoder", decoder(layers))
    yield Fact("Scale", "layers", _number(len(layers) or None))
    yield Fact("Scale", "layer mix", mix(layers) or None)
    yield Fact("Scale", "width", _number(fields.number("hidden")))
    yield Fact("Scale", "vocabulary", _number(fields.number("vocab")))
    yield Fact("Scale", "context", _number(fields.number("context")))


def billions(count: int) -> str:
    """A count as people say it."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def decoder(layers: Sequence[Layer]) -> str | None:
    """Dense, sparse by experts, hybrid of attention and states, or both of the latter."""
    if not layers:
        return None
    experts = any(layer.ffn.experts for layer in layers)
    states = any(layer.mixer.recurrent for layer in layers)
    hybrid = states and any(layer.mixer.heads for layer in layers)
    first = "hybrid" if hybrid else "recurrent" if states else "dense"
    return {"dense": "sparse MoE"}.get(first, f"{first}, sparse MoE") if experts else first


def mix(layers: Sequence[Layer]) -> str:
    """How many layers there are of each kind."""
    counts: dict[str, int] = {}
    for layer in layers:
        counts[_kind(layer)] = counts.get(_kind(layer), 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


_KINDS = {"linear": "linear attention", "state_space": "state space", NONE: "", STRANGE: "unknown"}


def _kind(layer: Layer) -> str:
    mixer, ffn = layer.mixer, layer.ffn
    first = _KINDS.get(mixer.kind, f"{mixer.kind} attention")
    second = "dense and experts" if ffn.experts and ffn.dense else "experts" if ffn.experts else "dense"
    if not ffn.experts and not ffn.dense:
        return first
    return f"{first} + {second}" if first else f"{second} only"


def _attention(fields: Fields, layers: Sequence[Layer], structure: Structure | None) -> Iterator[Fact]:
    mixers = [layer.mixer for layer in layers if layer.mixer.heads]
    yield Fact("Attention", "attention", attention(mixers) or (None if layers else UNKNOWN))
    if mixers:
        yield Fact("Attention", "heads", _each(mixers, lambda mixer: f"{mixer.heads:,}"))
        if not any(mixer.latent for mixer in mixers):
            yield Fact("Attention", "kv heads", _each(mixers, lambda mixer: f"{mixer.kv_heads:,}"))
            yield Fact("Attention", "head_dim", _each(mixers, lambda mixer: f"{mixer.head_dim:,}"))
    latent = next((mixer.latent for mixer in mixers if mixer.latent), None)
    if latent is not None:
        rank = f"queries from {latent.q_rank:,}, " if latent.q_rank else ""
        yield Fact("Attention", "latent", f"{rank}keys and values from {latent.kv_rank:,} features")
        each = f"{latent.nope} plain and {latent.rope} rotated features of a key, {latent.value} of a value"
        yield Fact("Attention", "head_dim", each)
    indexer = next((mixer.indexer for mixer in mixers if mixer.indexer), None)
    if indexer is not None:
        told = f"the best {indexer.chosen:,} keys, chosen by {indexer.heads} heads of {indexer.width} features"
        yield Fact("Attention", "sparse", told)
    windows = [(number, layer.mixer.window) for number, layer in enumerate(layers) if layer.mixer.window]
    if windows:
        sizes = ", ".join(f"{size:,}" for size in dict.fromkeys(window for _, window in windows) if size)
        where = ranges(number for number, _ in windows)
        yield Fact("Attention", "window", f"{sizes} tokens in {len(windows)} of {len(layers)} layers ({where})")
    if structure is not None:
        own = [norm for norm in structure.norms if norm.name.rpartition(".")[2] in _QK and _INDEXER not in norm.name]
        named = {norm.name.rpartition(".")[2]: 0 for norm in own}
        told = "; ".join(
            f"{name} over {_or(norm.width for norm in own if norm.name.endswith(name))} features" for name in named
        )
        yield Fact("Attention", "q/k norm", told or "none")
    else:
        yield Fact("Attention", "q/k norm", UNKNOWN)
    states = [layer.mixer for layer in layers if layer.mixer.recurrent]
    if states:
        state = states[0].recurrent
        assert state is not None
        told = f"{state.value_heads} heads of {state.value_width} values by {state.key_width} keys"
        yield Fact("Attention", "state", f"{told}, behind a convolution over {state.kernel} tokens")


def _or(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in dict.fromkeys(values))


_INDEXER = "indexer"
_QK = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm")


def _each(mixers: Sequence[Mixer], value: Any) -> str:
    """A value, or several where layers differ."""
    found = {f"{value(mixer)}": 0 for mixer in mixers}
    for mixer in mixers:
        found[value(mixer)] += 1
    return ", ".join(f"{each} ({count} layers)" if len(found) > 1 else each for each, count in found.items())


def attention(mixers: Sequence[Mixer]) -> str:
    """MHA, GQA, MQA or MLA, and what else attention is."""
    words = []
    if mixers:
        first = mixers[0]
        grouped = "MQA" if first.kv_heads == 1 < first.heads else "GQA" if first.kv_heads < first.heads else "MHA"
        words.append("MLA" if first.kind == LATENT else grouped)
    for mixer in mixers:
        words += ["sparse"] if mixer.indexer else []
        words += ["sliding"] if mixer.window else []
        words += ["shared keys and values"] if mixer.shares else []
        words += ["keys as values"] if mixer.keys_as_values else []
        words += [] if mixer.rotated else ["layers without rope"]
    return ", ".join(dict.fromkeys(words))


def _feed_forward(fields: Fields, layers: Sequence[Layer]) -> Iterator[Fact]:
    ffns = [layer.ffn for layer in layers]
    widths: dict[int, list[int]] = {}
    for number, ffn in enumerate(ffns):
        if ffn.dense:
            widths.setdefault(ffn.dense, []).append(number)
    if widths:
        each = [
            f"{width:,}" + (f" in {len(own)} layers ({ranges(own)})" if len(own) < len(layers) else "")
            for width, own in widths.items()
        ]
        yield Fact("Feed-forward", "inner width", ", ".join(each))
    experts = next((ffn for ffn in ffns if ffn.experts), None)
    if experts is not None:
        count = sum(bool(ffn.experts) for ffn in ffns)
        told = f"{experts.per_token} of {experts.experts} for each token, {experts.expert_inner:,} wide inside"
        yield Fact("Feed-forward", "experts", f"{told}, in {count} of {len(layers)} layers")
        yield Fact("Feed-forward", "shared expert", f"{experts.shared:,} wide inside" if experts.shared else "none")
        if experts.latent:
            yield Fact("Feed-forward", "latent experts", f"they work in {experts.latent:,} features")
    activation = fields.get("activation")
    yield Fact("Feed-forward", "activation", None if activation is None else str(activation))


def _norms(fields: Fields, structure: Structure | None) -> Iterator[Fact]:
    eps = fields.get("eps")
    if structure is None:
        yield Fact("Norms", "norm", UNKNOWN)
        yield Fact("Norms", "placement", UNKNOWN)
    else:
        own = [norm for norm in structure.norms if norm.place]
        yield Fact("Norms", "norm", ", ".join(dict.fromkeys(map(_norm, own or structure.norms))) or "none")
        places = dict.fromkeys(placed(norm) for norm in own)
        yield Fact("Norms", "placement", ", ".join(places) or UNKNOWN)
    yield Fact("Norms", "eps", None if eps is None else f"{eps:g}")


_PARTS = {"self_attn": "attention", "attn": "attention", "linear_attn": "linear attention", "mlp": "feed-forward"}


def placed(norm: Norm) -> str:
    """Where a norm of a block stands, in words that do not hang on what the reference calls its modules."""
    side, _, part = norm.place.partition(" ")
    return f"{side} {_PARTS.get(part, part)}"


def _norm(norm: Norm) -> str:
    kind = "RMSNorm" if "rms" in norm.class_name.lower() else "LayerNorm" if norm.bias else norm.class_name
    return f"{kind}, scales by 1 + weight" if norm.offset else kind


def _positions(fields: Fields, layers: Sequence[Layer], structure: Structure | None) -> Iterator[Fact]:
    given = fields.all.get("rope_parameters") or fields.all.get("rope_scaling")
    rope = given if isinstance(given, Mapping) else {}
    rotated = structure.rotary if structure is not None else bool(rope or fields.all.get("rope_theta"))
    if rotated:
        tables = {name: table for name, table in rope.items() if isinstance(table, Mapping)}
        told = [f"{name.replace('_', ' ')}: {_rope(table, fields)}" for name, table in tables.items()]
        yield Fact("Positions", "positions", "rotated: " + ("; ".join(told) or _rope(rope, fields)))
    elif structure is not None:
        table = any("wpe" in name or "position" in name for name in structure.modules)
        yield Fact("Positions", "positions", "a table that is learned" if table else "none")
    else:
        yield Fact("Positions", "positions", UNKNOWN)
    plain = [number for number, layer in enumerate(layers) if layer.mixer.heads and not layer.mixer.rotated]
    if plain:
        yield Fact("Positions", "without rope", f"{len(plain)} of {len(layers)} layers ({ranges(plain)})")


def _rope(table: Mapping[str, Any], fields: Fields) -> str:
    theta = table.get("rope_theta", fields.all.get("rope_theta"))
    words = [f"base {theta:,.0f}" if isinstance(theta, int | float) else "base unknown"]
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind != "default":
        factor = f" by {table['factor']:g}" if isinstance(table.get("factor"), int | float) else ""
        words.append(f"stretched{factor} ({kind})" if factor else kind)
    was = table.get("original_max_position_embeddings")
    words += [f"from {was:,} tokens"] if isinstance(was, int) else []
    part = table.get("partial_rotary_factor", fields.all.get("partial_rotary_factor"))
    words += [f"{part:.0%} of each head"] if isinstance(part, float) and part < 1 else []
    return ", ".join(words)


def _rest(fields: Fields, structure: Structure | None) -> Iterator[Fact]:
    if structure is None:
        tied: Any = fields.all.get("tie_word_embeddings")
        yield Fact("The rest", "head", None if tied is None else _head(bool(tied)))
        yield Fact("The rest", "biases", UNKNOWN)
    else:
        yield Fact("The rest", "head", _head(structure.tied))
        scales = [f"{value:g} ({name.split('.')[-2]})" for name, value in structure.scales.items()]
        yield Fact("The rest", "embedding scale", ", ".join(scales) or "none")
        biased = [
            each.name.removesuffix(".bias")
            for each in structure.parameters
            if each.name.endswith(".bias") and "norm" not in each.class_name.lower()
        ]
        yield Fact("The rest", "biases", ", ".join(_ends(biased)) or "none")
    caps = {name: value for name, value in fields.all.items() if "softcap" in name and isinstance(value, int | float)}
    told = ", ".join(f"{value:g} ({name})" for name, value in caps.items())
    yield Fact("The rest", "softcaps", told or "none")


def _head(tied: bool) -> str:
    return "the embedding" if tied else "a matrix of its own"


def _ends(names: Sequence[str]) -> list[str]:
    """Names without the layers that they are in."""
    return list(dict.fromkeys(name.rpartition(".")[2] if numbers(name) else name for name in names))


def _kept(kept: KVCache) -> Iterator[Fact]:
    yield Fact("KV cache", "bytes per token", f"{kept.per_token():,} ({kept.per_token() / 1024:,.4g} KiB)", "bfloat16")
    indexer = kept.indexer_per_token()
    if indexer:
        yield Fact("KV cache", "indexer's keys", f"{indexer:,} ({indexer / 1024:,.4g} KiB) per token", "bfloat16")
    saturated = kept.per_token(saturated=True)
    if saturated != kept.per_token():
        yield Fact("KV cache", "past the window", f"{saturated:,} ({saturated / 1024:,.4g} KiB) per token", "bfloat16")
