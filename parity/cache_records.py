"""What a comparison of caches hands on and its report reads: frozen records, standard library only."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

from parity.errors import ParityError

Role = Literal["keys", "values"]
LossVerdict = Literal["measured", "within", "beyond"]

# What `--cache-dtype` takes.
CACHE_DTYPES = (
    "float32", "bfloat16", "float16", "float8", "int8", "int4", "turbo8", "turbo4", "turbo3.5", "turbo2",
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a quantised cache may cost; None for no limit. mean_kl: in nats; error: of any stored tensor, relative."""

    mean_kl: float | None = None
    error: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.mean_kl is not None or self.error is not None


def known(dtypes: Sequence[str], cached: bool, limits: Limits) -> None:
    """Refuse what cannot be asked of caches, before anything is done.

    Raises:
        ParityError: a way to store one is unknown, there is to be no cache, or there are limits and nothing to judge.
    """
    for name in dtypes:
        if name not in CACHE_DTYPES:
            raise ParityError(f"there is no cache dtype {name!r}", f"Those are {', '.join(CACHE_DTYPES)}.")
    if dtypes and not cached:
        raise ParityError("--cache-dtype and --no-cache exclude each other", "Leave one of them out.")
    if limits.any and not dtypes:
        option = "--max-kl" if limits.mean_kl is not None else "--max-cache-error"
        raise ParityError(f"{option} limits what a quantised cache costs, and there is none", "Give --cache-dtype too.")
    for option, most in (("--max-kl", limits.mean_kl), ("--max-cache-error", limits.error)):
        if most is not None and not most >= 0:
            raise ParityError(f"{option} {most} is no limit", "Give 0 or more.")


@dataclass(frozen=True)
class LeftAlone:
    """A tensor of the cache that is kept as the port has it. bytes: of one sequence, when it was looked at."""

    path: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Place:
    """A tensor of the cache that holds vectors of tokens.

    path: from the cache to it; layer: the number in that. role: keys are what queries are compared with, values what is
    weighed and summed. size: coordinates of a vector; vectors: of one token. kept: the most tokens whose vectors it
    keeps, None if all. bytes: of a token, as the port has it.
    """

    path: str
    layer: int | None
    role: Role
    size: int
    vectors: int
    kept: int | None
    bytes: int


@dataclass(frozen=True)
class Stored:
    """A place in a quantised cache. All errors are relative, in the L2 norm, over all prompts.

    error: of vectors by being stored. drift: of the same, as stored, from those of the full cache, after all that was
    stored before. bytes: of a token.
    """

    place: Place
    error: float
    drift: float
    bytes: int


@dataclass(frozen=True)
class BlockError:
    """By how much a block's output is off along the full cache's text: relative, in the L2 norm."""

    layer: int
    error: float


@dataclass(frozen=True)
class Flip:
    """A place where the quantised cache leads to another token. index: of the new token. margin: of the full cache's
    choice over the other one, in its own logits.
    """

    index: int
    full: int
    full_piece: str
    quantised: int
    quantised_piece: str
    margin: float


@dataclass(frozen=True)
class LossRow:
    """One prompt. tokens: new ones that were chosen with the cache read, which the first is not; flips: those of them
    that the quantised cache chooses otherwise, along the full cache's text. mean_kl, largest_kl: of its next-token
    distribution from the full cache's, in nats. ids, text: what it writes by itself.
    """

    tokens: int
    flips: tuple[Flip, ...]
    mean_kl: float
    largest_kl: float
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class CacheLoss:
    """What one way to store a cache costs, and saves. total: bytes of all prompts' caches at the end of their texts."""

    dtype: str
    stored: tuple[Stored, ...]
    blocks: tuple[BlockError, ...]
    rows: tuple[LossRow, ...]
    total: int

    @property
    def bytes_per_token(self) -> int:
        """That one more token adds before any window is full."""
        return sum(each.bytes for each in self.stored)

    @property
    def tokens(self) -> int:
        """New tokens that were compared."""
        return sum(row.tokens for row in self.rows)

    @property
    def agreeing(self) -> int:
        """Those of them that are chosen alike."""
        return self.tokens - sum(len(row.flips) for row in self.rows)

    @property
    def mean_kl(self) -> float:
        """Over all prompts, in nats."""
        return sum(row.mean_kl * row.tokens for row in self.rows) / self.tokens

    @property
    def largest_kl(self) -> float:
        """Of any new token, in nats."""
        return _worst(row.largest_kl for row in self.rows)

    @property
    def first(self) -> tuple[int, Flip] | None:
        """The prompt and the place of the earliest new token that is another; None if all texts are the same."""
        found = [(number, row.flips[0]) for number, row in enumerate(self.rows) if row.flips]
        return min(found, key=lambda each: each[1].index, default=None)

    @property
    def worst(self) -> Stored:
        """What is stored with the largest error."""
        return max(self.stored, key=lambda each: _ordered(each.error))

    @property
    def output(self) -> float | None:
        """The error of the last block's output; None if no blocks were found."""
        return self.blocks[-1].error if self.blocks else None

    def error(self, role: Role, measure: Callable[[Stored], float] = lambda each: each.error) -> float | None:
        """The largest error of keys, or of values; None if there are none."""
        found = [measure(each) for each in self.stored if each.place.role == role]
        return _worst(found) if found else None

    def verdict(self, limits: Limits) -> LossVerdict:
        """Whether it keeps within limits; `measured` if there are none. What is not a number keeps within none."""
        if not limits.any:
            return "measured"
        figures = ((self.mean_kl, limits.mean_kl), (self.worst.error, limits.error))
        return "within" if all(most is None or figure <= most for figure, most in figures) else "beyond"


@dataclass(frozen=True)
class Caches:
    """The same port with its full cache and with quantised ones, along the text that it writes with the full one.

    places: what is quantised; left: what is not. total: bytes of the full caches at the end of their texts, without
    what is left alone.
    """

    places: tuple[Place, ...]
    left: tuple[LeftAlone, ...]
    losses: tuple[CacheLoss, ...]
    total: int
    limits: Limits = Limits()

    @property
    def bytes_per_token(self) -> int:
        """Of the full cache."""
        return sum(place.bytes for place in self.places)

    @property
    def beyond(self) -> tuple[CacheLoss, ...]:
        """Those that do not keep within the limits."""
        return tuple(loss for loss in self.losses if loss.verdict(self.limits) == "beyond")

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of all layers of which there is an error."""
        stored = {place.layer for place in self.places if place.layer is not None}
        return tuple(sorted(stored | {block.layer for loss in self.losses for block in loss.blocks}))

    def of_layer(self, loss: CacheLoss, layer: int) -> tuple[float | None, float | None, float | None]:
        """Errors of one layer: keys as stored, values as stored, the block's output; None for what there is not."""
        own = [each for each in loss.stored if each.place.layer == layer]
        keys, values = ([each.error for each in own if each.place.role == role] for role in ("keys", "values"))
        output = next((block.error for block in loss.blocks if block.layer == layer), None)
        return _worst(keys) if keys else None, _worst(values) if values else None, output

    def kept(self, layer: int) -> Sequence[int | None]:
        """How many tokens the tensors of a layer keep."""
        return sorted({place.kept for place in self.places if place.layer == layer}, key=lambda each: each or 0)


def _worst(figures: Iterable[float]) -> float:
    """The largest, or what is not a number."""
    return max(figures, key=_ordered)


def _ordered(figure: float) -> tuple[bool, float]:
    return isnan(figure), figure
