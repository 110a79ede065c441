"""What a card and a difference of two cards consist of: plain frozen records, standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Effect = Literal["acts", "no_effect", "off", "silent", "unknown"]
BITS = {
    "float32": 32, "bfloat16": 16, "float16": 16, "float8": 8, "int8": 8, "int4": 4,
}  # fmt: skip
_BYTE = 8


def bytes_of(elements: int, dtype: str) -> int:
    """Bytes that so many numbers take in a dtype of `BITS`, rounded up."""
    return -(-elements * BITS[dtype] // _BYTE)


@dataclass(frozen=True)
class Fact:
    """One line of a card. value is None where nobody knows; group is its heading; why: where it is known from."""

    group: str
    name: str
    value: str | None
    why: str = ""


@dataclass(frozen=True)
class FieldFact:
    """A field of the config: inner names after dots, its value as in a config.json, what it is, whether it acts."""

    name: str
    value: str
    effect: Effect
    phrase: str = ""


@dataclass(frozen=True)
class Part:
    """Parameters of one kind: how many, how many a token meets, and the product that they come from."""

    name: str
    total: int
    active: int
    formula: str


@dataclass(frozen=True)
class Parameters:
    """Parameters by formula, in parts, and as counted in the reference; None where there is no reference.

    estimated: what of the formula had to be assumed, for an architecture that nobody knows.
    """

    parts: tuple[Part, ...]
    counted_total: int | None = None
    counted_active: int | None = None
    estimated: tuple[str, ...] = ()

    @property
    def formula_total(self) -> int:
        """All parts, from the config's fields."""
        return sum(part.total for part in self.parts)

    @property
    def formula_active(self) -> int:
        """What one token meets, from the config's fields."""
        return sum(part.active for part in self.parts)

    @property
    def total(self) -> int:
        """Counted where it could be, else by formula."""
        return self.formula_total if self.counted_total is None else self.counted_total

    @property
    def active(self) -> int:
        """Counted where it could be, else by formula."""
        return self.formula_active if self.counted_active is None else self.counted_active

    @property
    def agree(self) -> bool | None:
        """Whether count and formula are the same; None where there is only one of them."""
        if self.counted_total is None:
            return None
        return (self.formula_total, self.formula_active) == (self.counted_total, self.counted_active)


@dataclass(frozen=True)
class CacheTensor:
    """What one layer keeps under one name: numbers per token, or a fixed number of them whatever the length.

    dtype: of its own, whatever that of the cache; None follows the cache's. window: tokens that are kept at most; None
    for all. indexer: it serves the choice of keys, and is neither key nor value.
    """

    name: str
    per_token: int
    fixed: int = 0
    window: int | None = None
    dtype: str | None = None
    indexer: bool = False

    def elements(self, tokens: int) -> int:
        """Numbers that it holds after so many tokens."""
        kept = tokens if self.window is None else min(tokens, self.window)
        return self.per_token * kept + self.fixed

    def bytes(self, tokens: int, dtype: str) -> int:
        """Bytes that it takes after so many tokens, in a cache of this dtype."""
        return bytes_of(self.elements(tokens), self.dtype or dtype)


@dataclass(frozen=True)
class CacheKind:
    """Layers that keep the same: what they are called, which they are, and what each of them keeps."""

    name: str
    layers: tuple[int, ...]
    tensors: tuple[CacheTensor, ...]

    def bytes(self, tokens: int, dtype: str) -> int:
        """Bytes of all its layers for one sequence."""
        return len(self.layers) * sum(tensor.bytes(tokens, dtype) for tensor in self.tensors)

    @property
    def window(self) -> int | None:
        """Tokens that are kept at most, if there is such a bound."""
        return next((tensor.window for tensor in self.tensors if tensor.window is not None), None)

    def per_token(self, dtype: str, saturated: bool = False) -> int:
        """Bytes that one more token adds to keys and values, and to an indexer's keys; before or after saturation."""
        return len(self.layers) * sum(
            bytes_of(tensor.per_token, tensor.dtype or dtype)
            for tensor in self.tensors
            if not (saturated and tensor.window is not None)
        )


@dataclass(frozen=True)
class Measured:
    """The reference's own cache, in bytes, in bfloat16, for one sequence of so many tokens; and whether formula agrees.

    growth: of one more token at the shortest length.
    """

    lengths: tuple[int, ...]
    bytes: tuple[int, ...]
    computed: tuple[int, ...]
    growth: int

    @property
    def agree(self) -> bool:
        """Whether what was computed from the config is what the reference keeps, at every length."""
        return self.bytes == self.computed


@dataclass(frozen=True)
class KVCache:
    """What is kept of tokens that have been seen."""

    kinds: tuple[CacheKind, ...]
    measured: Measured | None = None
    why: tuple[str, ...] = ()

    def per_token(self, dtype: str = "bfloat16", saturated: bool = False) -> int:
        """Bytes of keys and values that one more token adds in the whole stack, without an indexer's keys."""
        return sum(_only(kind, indexer=False).per_token(dtype, saturated) for kind in self.kinds)

    def indexer_per_token(self, dtype: str = "bfloat16") -> int:
        """Bytes of an indexer's keys that one more token adds in the whole stack."""
        return sum(_only(kind, indexer=True).per_token(dtype) for kind in self.kinds)

    def fixed(self, dtype: str = "bfloat16") -> int:
        """Bytes of states that do not grow."""
        return self.bytes(0, dtype)

    def bytes(self, tokens: int, dtype: str = "bfloat16") -> int:
        """Bytes of all that is kept of one sequence."""
        return sum(kind.bytes(tokens, dtype) for kind in self.kinds)


def _only(kind: CacheKind, indexer: bool) -> CacheKind:
    return CacheKind(kind.name, kind.layers, tuple(each for each in kind.tensors if each.indexer == indexer))


@dataclass(frozen=True)
class Memory:
    """What running it takes. points: tokens of context, and bytes of cache for the whole batch, by kind of layer."""

    context: int
    longest: int | None
    batch: int
    cache_dtype: str
    weights_dtype: str
    weights: int
    cache: int
    points: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def total(self) -> int:
        """Weights and cache; what a forward needs on the way is not counted."""
        return self.weights + self.cache


@dataclass(frozen=True)
class Card:
    """The fact sheet of one architecture. reference is None if nobody knows its model_type."""

    name: str
    source: str
    model_type: str
    reference: str | None
    transformers: str
    parity: str
    facts: tuple[Fact, ...]
    parameters: Parameters
    kv_cache: KVCache
    memory: Memory
    fields: tuple[FieldFact, ...]
    notes: tuple[str, ...] = ()
    modules: Mapping[str, int] = field(default_factory=dict)
    port: str | None = None

    def fact(self, name: str) -> str | None:
        """The value of a fact by its name; None if it is unknown or not there."""
        return next((each.value for each in self.facts if each.name == name), None)


@dataclass(frozen=True)
class Side:
    """A fact or a field on both sides; None where a side has none."""

    name: str
    left: str | None
    right: str | None
    group: str = ""


@dataclass(frozen=True)
class CauseBetween:
    """A cause of the catalogue that tells two architectures apart: a port of one, used for the other, has it."""

    code: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """What differs in the ports of both: names, and the lines of a unified diff."""

    left: str
    right: str
    text: tuple[str, ...]
    removed: int
    added: int


@dataclass(frozen=True)
class Difference:
    """Two cards beside each other.

    shared, different: facts. fields: those that act on a side and are not the same on both. modules: on one side only,
    by what they do where that is known, else by name. lines: None where there are no two ports.
    """

    left: Card
    right: Card
    shared: tuple[Fact, ...]
    different: tuple[Side, ...]
    fields: tuple[Side, ...]
    modules_left: tuple[str, ...]
    modules_right: tuple[str, ...]
    causes: tuple[CauseBetween, ...]
    lines: Lines | None
    notes: tuple[str, ...] = ()
