"""What is kept of tokens that have been seen, by the config's fields; and what that and the weights come to."""

from collections.abc import Sequence

from parity.card.fields import LATENT, LINEAR, NONE, SLIDING, STATE_SPACE, STRANGE
from parity.card.layers import Layer, Mixer
from parity.card_records import CacheKind, CacheTensor, KVCache, Memory, bytes_of
from parity.names import ranges

_SHORTEST = 1024  # tokens, where a chart begins
_STATE_DTYPE = "float32"  # a state that is added to for as long as there are tokens is not rounded on the way


def cache(layers: Sequence[Layer]) -> KVCache:
    """What each layer keeps, those that keep the same as one, and why it is not what one would expect."""
    kinds: dict[tuple[str, tuple[CacheTensor, ...]], list[int]] = {}
    for number, layer in enumerate(layers):
        kinds.setdefault((_called(layer.mixer), _tensors(layer.mixer)), []).append(number)
    found = tuple(CacheKind(name, tuple(numbers), tensors) for (name, tensors), numbers in kinds.items())
    grows = KVCache(found).per_token()
    return KVCache(found, why=tuple(_why(layers, grows)))


def _called(mixer: Mixer) -> str:
    if mixer.kind in (NONE, STRANGE):
        return "no mixer" if mixer.kind == NONE else "unknown"
    if mixer.shares:
        return "shared keys and values"
    names = {
        LATENT: "latent attention",
        SLIDING: "sliding attention",
        LINEAR: "linear attention",
        STATE_SPACE: "state space",
    }
    name = names.get(mixer.kind, "full attention")
    return f"sparse {name}" if mixer.indexer is not None else name


def _tensors(mixer: Mixer) -> tuple[CacheTensor, ...]:
    if mixer.kind in (NONE, STRANGE) or mixer.shares:
        return ()
    if mixer.recurrent is not None:
        return _states(mixer)
    if mixer.latent is not None:
        latent = (CacheTensor("latent", mixer.latent.kv_rank), CacheTensor("rotated key", mixer.latent.rope))
        if mixer.indexer is None:
            return latent
        return (*latent, CacheTensor("indexer key", mixer.indexer.width, indexer=True))
    kept = None if mixer.window is None else mixer.window - 1  # the next token brings its own key
    width = mixer.kv_heads * mixer.head_dim
    return CacheTensor("keys", width, window=kept), CacheTensor("values", width, window=kept)


def _states(mixer: Mixer) -> tuple[CacheTensor, ...]:
    state = mixer.recurrent
    assert state is not None
    values = state.value_heads * state.value_width
    columns = values + 2 * state.key_heads * state.key_width
    return (
        CacheTensor("convolution", 0, columns * state.kernel),
        CacheTensor("state", 0, values * state.key_width, dtype=_STATE_DTYPE),
    )


def plain_per_token(layers: Sequence[Layer]) -> int:
    """Bytes per token in bfloat16 if every layer kept keys and values of the first attention's heads."""
    first = next((layer.mixer for layer in layers if layer.mixer.kv_heads), None)
    return 0 if first is None else len(layers) * bytes_of(2 * first.kv_heads * first.head_dim, "bfloat16")


def _why(layers: Sequence[Layer], grows: int) -> list[str]:
    """Why the figure is not layers x 2 x heads x width, which is what tables often list."""
    told = []
    mixers = [layer.mixer for layer in layers]

    def where(numbers: Sequence[int]) -> str:
        return f"{len(numbers)} of {len(layers)} layers"

    shares = [number for number, mixer in enumerate(mixers) if mixer.shares]
    if shares:
        told.append(f"{where(shares)} ({ranges(shares)}) use keys and values of earlier ones and keep none")
    none = [number for number, mixer in enumerate(mixers) if mixer.kind == NONE]
    if none:
        told.append(f"{where(none)} do not mix tokens and keep nothing")
    states = [number for number, mixer in enumerate(mixers) if mixer.recurrent is not None]
    if states:
        told.append(f"{where(states)} keep a state of fixed size, in {_STATE_DTYPE} whatever the dtype of the rest")
    if any(mixer.latent for mixer in mixers):
        latent = next(mixer.latent for mixer in mixers if mixer.latent)
        told.append(
            f"keys and values of all heads come from a latent of {latent.kv_rank} and {latent.rope} rotated features, "
            "which is all that is kept"
        )
    if any(mixer.indexer for mixer in mixers):
        told.append(
            "an indexer's keys are kept as well; they are neither keys nor values, tables leave them out, and so does "
            "`bytes_per_token`: see `indexer_bytes_per_token`"
        )
    widths = {(mixer.kv_heads, mixer.head_dim) for mixer in mixers if mixer.kv_heads and not mixer.latent}
    if len(widths) > 1:
        each = " and ".join(f"{heads} of {width}" for heads, width in sorted(widths))
        told.append(f"layers differ in their key-value heads: {each} features")
    as_values = [number for number, mixer in enumerate(mixers) if mixer.keys_as_values]
    if as_values:
        told.append(
            f"values are made of the keys' projection in {where(as_values)}; both are kept all the same, as keys are "
            "normalised and rotated on the way"
        )
    windows = sorted({mixer.window for mixer in mixers if mixer.window is not None})
    if windows:
        listed = ", ".join(f"{window:,}" for window in windows)
        told.append(f"sliding layers stop growing at their window of {listed} tokens, of which all but one are kept")
    plain = plain_per_token(layers)
    if plain != grows and plain:
        told.append(
            f"layers x 2 x key-value heads x head_dim of the first layer would be {plain / 1024:,.1f} KiB per token"
        )
    return told


def memory(
    kept: KVCache, parameters: int, asked: int | None, longest: int | None, batch: int, cache_dtype: str, weights: str
) -> Memory:
    """Weights and cache at one context, and the cache along contexts up to it and to the longest.

    Args:
        kept: see `cache`.
        parameters: how many there are.
        asked: tokens of context; by default the longest.
        longest: tokens that the architecture is made for; None if it does not say.
        batch: sequences.
        cache_dtype: of keys and values, one of `BITS`.
        weights: dtype of the weights.
    """
    context = asked or longest or 4 * _SHORTEST
    points = sorted({*_doubling(max(context, longest or 0)), context, *([longest] if longest else [])})
    return Memory(
        context=context,
        longest=longest,
        batch=batch,
        cache_dtype=cache_dtype,
        weights_dtype=weights,
        weights=bytes_of(parameters, weights),
        cache=batch * kept.bytes(context, cache_dtype),
        points=tuple((each, tuple(batch * kind.bytes(each, cache_dtype) for kind in kept.kinds)) for each in points),
    )


def _doubling(end: int) -> list[int]:
    lengths, at = [], min(_SHORTEST, end)
    while at <= end:
        lengths.append(at)
        at *= 2
    return lengths
