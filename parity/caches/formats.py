"""Ways to store the vectors of a cache: each makes bytes of vectors, and vectors of bytes.

`turbo...` is in the manner of TurboQuant (Zandieh, Daliri, Hadian, Mirrokni, 2025, https://arxiv.org/abs/2504.19874): a
vector's length is kept apart, the rest is rotated at random, and each coordinate is rounded to Lloyd-Max levels. Of
keys, one bit of each coordinate is a sign of what rounding left over (QJL, https://arxiv.org/abs/2406.03482), so that
inner products with queries are right on average.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from parity.cache_records import CACHE_DTYPES, Role
from parity.caches.levels import levels
from parity.caches.pack import as_bytes, from_bytes, pack, packed_size, unpack
from parity.caches.rotate import projection, rotation
from parity.caches.signs import estimate, signs
from parity.errors import ParityError

SMALLEST = 8  # coordinates; a rotation of fewer mixes too little for them to be nearly normal
_NUMBER = torch.float16  # of lengths and scales
_NUMBER_BYTES = 2
_FLOATS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}
_SCALED = {"int8": 8, "int4": 4}
# Bits of each coordinate, signs included; several share the coordinates equally.
_ROTATED = {"turbo8": (8,), "turbo4": (4,), "turbo3.5": (4, 3), "turbo2": (2,)}


class Format(Protocol):
    """A way to store vectors of one size."""

    def size(self, count: int) -> int:
        """Bytes of a vector of so many coordinates."""

    def pack(self, vectors: Tensor) -> Tensor:
        """Vectors `[N, count]` float32 -> bytes `[N, size]`."""

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """Bytes -> vectors `[N, count]` float32."""


def format_of(name: str, role: Role) -> Format:
    """How a cache of this name stores keys, or values."""
    if name in _FLOATS:
        return Cast(_FLOATS[name])
    if name in _SCALED:
        return Scaled(_SCALED[name])
    return Rotated(_ROTATED[name], signed=role == "keys")


def hold(name: str, count: int, where: str) -> None:
    """Refuse vectors that a format cannot store.

    Raises:
        ParityError: they are too short to be rotated.
    """
    if name in _ROTATED and count < SMALLEST:
        fit = ", ".join(each for each in CACHE_DTYPES if each not in _ROTATED)
        raise ParityError(
            f"--cache-dtype {name}: vectors of {where} have {count} coordinates, and rotating takes {SMALLEST}",
            f"Those that take any are {fit}.",
        )


@dataclass(frozen=True)
class Cast:
    """Each number in another floating dtype; what is too large becomes the largest there is."""

    dtype: torch.dtype

    def size(self, count: int) -> int:
        """All numbers alike."""
        return count * self.dtype.itemsize

    def pack(self, vectors: Tensor) -> Tensor:
        """Rounded to the nearest."""
        return as_bytes(_within(vectors, self.dtype))

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """As they were rounded."""
        return from_bytes(packed, self.dtype).float()


@dataclass(frozen=True)
class Scaled:
    """Integers from -most to most, and a scale for each vector, by its largest number."""

    bits: int

    @property
    def _most(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    def size(self, count: int) -> int:
        """The integers and the scale."""
        return packed_size(count, self.bits) + _NUMBER_BYTES

    def pack(self, vectors: Tensor) -> Tensor:
        """Rounded to the nearest integer of the scale as it is stored."""
        scale = _within(vectors.abs().amax(-1, keepdim=True) / self._most, _NUMBER)
        codes = (vectors / _nonzero(scale.float())).round().clamp(-self._most, self._most)
        return torch.cat((pack(_whole(codes) + self._most, self.bits), as_bytes(scale)), dim=-1)

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """Integers times the scale."""
        codes, scale = _split(packed, [packed_size(count, self.bits), _NUMBER_BYTES])
        return (unpack(codes, count, self.bits) - self._most) * from_bytes(scale, _NUMBER).float()


@dataclass(frozen=True)
class Rotated:
    """Rotated coordinates rounded to Lloyd-Max levels, and the vector's length.

    widths: bits of a coordinate; of several, each is for an equal part of the coordinates, which are all alike once
    they are rotated. signed: one bit of each is the sign of what is left over, and the length of that is kept too.
    """

    widths: tuple[int, ...]
    signed: bool

    def _parts(self, count: int) -> list[tuple[int, int]]:
        """How many coordinates, and how many bits each, without signs."""
        counts = [len(part) for part in torch.arange(count).tensor_split(len(self.widths))]
        return [(each, width - self.signed) for each, width in zip(counts, self.widths, strict=True)]

    def _sizes(self, count: int) -> list[int]:
        sizes = [packed_size(*part) for part in self._parts(count)]
        return [*sizes, *([packed_size(count, 1), _NUMBER_BYTES] if self.signed else []), _NUMBER_BYTES]

    def size(self, count: int) -> int:
        """Codes, the length, and with signs those and the length of what is left over."""
        return sum(self._sizes(count))

    def pack(self, vectors: Tensor) -> Tensor:
        """Codes of each part, signs, length of the rest as a share of the vector's, length of the vector."""
        count = vectors.shape[-1]
        lengths = _within(vectors.norm(dim=-1, keepdim=True), _NUMBER)
        turned = vectors / _nonzero(lengths.float()) @ rotation(count).to(vectors.device).T
        parts = self._parts(count)
        cut = _split(turned, [each for each, _ in parts])
        codes = [self._codes(part, count, bits) for part, (_, bits) in zip(cut, parts, strict=True)]
        found = [pack(part, bits) for part, (_, bits) in zip(codes, parts, strict=True)]
        if self.signed:
            rest = turned - self._rounded(codes, parts, count)
            left = _within(rest.norm(dim=-1, keepdim=True), _NUMBER)
            found += [pack(signs(rest, projection(count).to(rest.device)), 1), as_bytes(left)]
        return torch.cat((*found, as_bytes(lengths)), dim=-1)

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """Rotated back."""
        parts, fields = self._parts(count), _split(packed, self._sizes(count))
        codes = [unpack(field, *part) for field, part in zip(fields, parts, strict=False)]
        turned = self._rounded(codes, parts, count)
        if self.signed:
            *_, positive, left, _ = fields
            lengths = from_bytes(left, _NUMBER).float()
            turned = turned + estimate(unpack(positive, count, 1), lengths, projection(count).to(packed.device))
        return turned @ rotation(count).to(packed.device) * from_bytes(fields[-1], _NUMBER).float()

    @staticmethod
    def _codes(turned: Tensor, count: int, bits: int) -> Tensor:
        """The nearest level of each coordinate of a unit vector that has `count` of them in all."""
        found = levels(count, bits).float().to(turned.device)
        return torch.bucketize(turned * sqrt(count), (found[1:] + found[:-1]) / 2)

    @staticmethod
    def _rounded(codes: list[Tensor], parts: list[tuple[int, int]], count: int) -> Tensor:
        known = [levels(count, bits).float().to(codes[0].device) for _, bits in parts]
        return torch.cat([found[each] for each, found in zip(codes, known, strict=True)], dim=-1) / sqrt(count)


def _split(rows: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Columns of these numbers."""
    return torch.split_with_sizes(rows, sizes, dim=-1)


def _within(values: Tensor, dtype: torch.dtype) -> Tensor:
    """In another dtype; infinities and what would become one are its largest number, what is none stays none."""
    most = torch.finfo(dtype).max
    return values.clamp(-most, most).to(dtype)


def _nonzero(scale: Tensor) -> Tensor:
    """To divide by; what is zero everywhere stays that."""
    return torch.where(scale == 0, 1.0, scale)


def _whole(codes: Tensor) -> Tensor:
    """As integers; a number that is none is stored as zero times a scale that is none."""
    return codes.nan_to_num(0.0).long()
