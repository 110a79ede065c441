"""How many parameters, by formula: products of the config's fields, in parts.

What fields do not say, whether a feed-forward part has a gate, how many norms there are, is read from the reference
and taken for granted where there is none.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from parity.card.fields import NONE, STRANGE, Fields
from parity.card.layers import Ffn, Layer, Mixer
from parity.card.structure import Shape, Structure
from parity.card_records import Parameters, Part
from parity.names import numbers, template

_Product = tuple[str, int, int, str]  # part, parameters, those a token meets, the product in words


def count(fields: Fields, layers: Sequence[Layer], structure: Structure | None) -> Parameters:
    """By formula, and as counted in the reference if there is one."""
    found: dict[str, Counter[str]] = {}
    formulas: dict[str, dict[str, None]] = {}
    traits = _Traits(fields, layers, structure)
    for name, total, active, words in _products(fields, layers, traits):
        if total:
            found.setdefault(name, Counter()).update(total=total, active=active)
            formulas.setdefault(name, {})[words] = None
    parts = tuple(Part(name, both["total"], both["active"], "; ".join(formulas[name])) for name, both in found.items())
    if structure is None:
        return Parameters(parts, estimated=traits.assumed)
    return Parameters(parts, structure.total, structure.active)


class _Traits:
    """What the formula needs and fields do not say."""

    def __init__(self, fields: Fields, layers: Sequence[Layer], structure: Structure | None):
        self._fields = fields
        self._shapes = () if structure is None else structure.parameters
        self.hidden = fields.number("hidden") or 0
        self.known = structure is not None
        self.tied = structure.tied if structure is not None else fields.all.get("tie_word_embeddings") is not False
        norms = 2 * len(layers) + 1
        self.vectors = sum(each.numel for each in self._shapes if len(each.shape) < 2) or norms * self.hidden
        self.assumed = (
            ()
            if self.known
            else (
                "two norms to a layer, and no biases",
                "feed-forward parts have a gate",
                *(() if fields.number("inner") else ("feed-forward parts are four times the width inside",)),
                *(() if "tie_word_embeddings" in fields.all else ("the head is the embedding",)),
            )
        )

    def gated(self, width: int, experts: bool) -> bool:
        """Whether what is so wide inside has a gate, as two matrices or as one of twice the width."""
        if not self.known:
            return True
        owners: Counter[str] = Counter()
        for each in self._shapes:
            sizes = each.shape[1:] if each.expert else each.shape
            if each.expert != experts or len(sizes) != 2:
                continue
            if 2 * width in sizes and not _mixes(each):
                return True
            if width in sizes:
                owners[_owner(each)] += 1
        return max(owners.values(), default=0) > 2

    def gate_of(self, mixer: Mixer, layer: int) -> bool:
        """Whether queries' projection holds an output gate beside them."""
        wide = 2 * mixer.heads * mixer.head_dim
        own = [each for each in self._shapes if "q_proj" in each.name and numbers(each.name)[:1] == (layer,)]
        return any(each.shape == (wide, self.hidden) for each in own)

    def rows(self, name: str) -> int:
        """Sum over parameters that are called this."""
        return sum(each.numel for each in self._shapes if name in each.name)

    @property
    def positions(self) -> int:
        """Of a table of positions that are learned."""
        context = self._fields.number("context")
        tables = [each for each in self._shapes if each.class_name == "Embedding" and each.shape[0] == context]
        return context or 0 if any("wpe" in each.name or "position" in each.name for each in tables) else 0


def _owner(shape: Shape) -> str:
    parent, _, own = shape.name.rpartition(".")
    return parent if shape.expert or own not in ("weight", "bias") else parent.rpartition(".")[0]


def _mixes(shape: Shape) -> bool:
    return any(word in template(shape.name) for word in ("attn", "mixer.in_proj", "attention"))


def _products(fields: Fields, layers: Sequence[Layer], traits: _Traits) -> Iterator[_Product]:
    vocab, hidden = fields.number("vocab") or 0, traits.hidden
    yield _all("embedding", vocab * hidden, "vocabulary x width")
    if traits.positions:
        yield _all("positions", traits.positions * hidden, "positions x width")
    yield from _per_layer_inputs(fields, hidden, len(layers))
    for number, layer in enumerate(layers):
        yield from _mixer(layer.mixer, hidden, traits, number)
        yield from _ffn(layer.ffn, hidden, traits)
    yield _all("norms, biases, other vectors", traits.vectors, _vectors_words(traits))
    if not traits.tied:
        yield _all("head", vocab * hidden, "vocabulary x width")


def _all(name: str, total: int, words: str) -> _Product:
    """Parameters that every token meets."""
    return name, total, total, words


def _vectors_words(traits: _Traits) -> str:
    return "counted in the reference" if traits.known else "two norms to a layer and one at the end"


def _per_layer_inputs(fields: Fields, hidden: int, layers: int) -> Iterator[_Product]:
    """An embedding for each layer, and what brings it in."""
    width = fields.count("hidden_size_per_layer_input")
    if width:
        vocab = fields.count("vocab_size_per_layer_input") or fields.number("vocab") or 0
        yield _all("embeddings of layers", vocab * layers * width, "vocabulary x layers x width of layers' inputs")
        words = "(3 x layers x width of layers' inputs) x width"
        yield _all("inputs of layers", 3 * layers * width * hidden, words)


def _mixer(mixer: Mixer, hidden: int, traits: _Traits, number: int) -> Iterator[_Product]:
    if mixer.kind in (NONE, STRANGE):
        return
    if mixer.recurrent is not None:
        yield _recurrent(mixer, hidden)
        return
    if mixer.latent is not None:
        yield from _latent(mixer, hidden)
        return
    queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    own = 0 if mixer.shares else keys if mixer.keys_as_values else 2 * keys
    gate = queries if traits.gate_of(mixer, number) else 0
    words = "width x (2 x heads" + (" + gate" if gate else "") + " + 2 x key-value heads) x head_dim"
    yield _all("attention", hidden * (2 * queries + gate + own), words)


def _latent(mixer: Mixer, hidden: int) -> Iterator[_Product]:
    latent = mixer.latent
    assert latent is not None
    queries = mixer.heads * (latent.nope + latent.rope)
    down = hidden * latent.q_rank + latent.q_rank * queries if latent.q_rank else hidden * queries
    keys = hidden * (latent.kv_rank + latent.rope) + latent.kv_rank * mixer.heads * (latent.nope + latent.value)
    out = mixer.heads * latent.value * hidden
    words = "queries, keys and values down to their ranks and up again, and the output"
    yield _all("attention", down + keys + out, words)
    if mixer.indexer is not None:
        index = mixer.indexer
        total = latent.q_rank * index.heads * index.width + hidden * (index.width + index.heads)
        words = "query rank x index heads x index width + width x (index width + index heads)"
        yield _all("indexers", total, words)


def _recurrent(mixer: Mixer, hidden: int) -> _Product:
    state = mixer.recurrent
    assert state is not None
    values = state.value_heads * state.value_width
    columns = values + 2 * state.key_heads * state.key_width
    per_head = 2 if mixer.kind == "linear" else 1  # decay and strength of writing, or the time step
    total = hidden * (columns + values + per_head * state.value_heads) + columns * state.kernel + values * hidden
    words = "width x (keys + queries + 2 x values + gates of heads) + convolution + values x width"
    return _all("recurrence", total, words)


def _ffn(ffn: Ffn, hidden: int, traits: _Traits) -> Iterator[_Product]:
    if ffn.dense:
        matrices = _matrices(traits.gated, ffn.dense, False)
        yield _all("feed-forward", matrices * hidden * ffn.dense, f"{matrices} x width x inner width")
    if not ffn.experts:
        return
    across = ffn.latent or hidden
    matrices = _matrices(traits.gated, ffn.expert_inner, True)
    each = matrices * across * ffn.expert_inner
    words = f"experts x {matrices} x {'latent' if ffn.latent else 'width'} x inner width of an expert"
    yield "experts", ffn.experts * each, ffn.per_token * each, words
    router = hidden * ffn.experts + 2 * hidden * ffn.latent
    yield _all("routers", router, "width x experts" + (" + 2 x width x latent" if ffn.latent else ""))
    if ffn.shared:
        matrices = _matrices(traits.gated, ffn.expert_inner, True)
        gate = hidden if traits.rows("shared_expert_gate") else 0
        words = f"{matrices} x width x inner width" + (" + width" if gate else "")
        yield _all("shared experts", matrices * hidden * ffn.shared + gate, words)


def _matrices(gated: Callable[[int, bool], bool], width: int, experts: bool) -> int:
    return 3 if gated(width, experts) else 2


def modules(structure: Structure) -> Mapping[str, int]:
    """Kinds of modules, names with `{}` for numbers, and how many there are of each."""
    return Counter(template(name) for name in structure.modules if name)
