"""Lloyd-Max levels: the scalar quantiser that errs least on one coordinate of a randomly rotated vector.

A unit vector of `size` coordinates, rotated at random, is as likely to point anywhere. Each of its coordinates then has
the density (1 - x^2)^((size - 3) / 2), which is nearly normal with variance 1 / size. Here a coordinate is taken times
sqrt(size), so that levels hardly depend on the size: for large ones they are those of the standard normal distribution
(Max, 1960).
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_CELLS = 2**17  # that the density is cut into
_FAR = 10.0  # standard deviations; beyond them is nothing that counts
_STILL = 1e-6  # levels that move less are settled: what is left to gain is less than a ten thousandth
_ROUNDS = 5_000


@dataclass(frozen=True)
class _Density:
    """Cells of equal width: their edges, and at each edge how much of the mass, first and second moment lies before."""

    edges: Tensor
    mass: Tensor
    first: Tensor
    second: Tensor
    rooted: Tensor  # how much of the density's cube root lies before: where good levels are, is what it says

    def at(self, told: Tensor, points: Tensor) -> Tensor:
        """One of the sums at any points."""
        step = self.edges[1] - self.edges[0]
        place = ((points - self.edges[0]) / step).clamp(0, _CELLS)
        before = place.floor().clamp(max=_CELLS - 1).long()
        return told[before] + (place - before) * (told[before + 1] - told[before])


@cache
def levels(size: int, bits: int) -> Tensor:
    """The `2**bits` values that a coordinate times sqrt(size) is rounded to, ascending; float64 on the CPU.

    Args:
        size: coordinates of a vector, 4 or more.
        bits: 0 or more; of none, zero is the only level.
    """
    density = _density(size)
    wanted = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
    places = torch.searchsorted(density.rooted, wanted * density.rooted[-1])
    found = density.edges[places]
    for _ in range(_ROUNDS):
        bounds = _bounds(found)
        mass, first = (density.at(told, bounds).diff() for told in (density.mass, density.first))
        moved = first / mass
        still = float((moved - found).abs().max()) < _STILL
        found = moved
        if still:
            break
    return (found - found.flip(0)) / 2  # the density is even, and so are its best levels


def distortion(size: int, bits: int) -> float:
    """The mean squared error of a unit vector that is rotated and rounded to these levels."""
    density, found = _density(size), levels(size, bits)
    bounds = _bounds(found)
    mass, first, second = (density.at(told, bounds).diff() for told in (density.mass, density.first, density.second))
    return float((second - 2 * found * first + found**2 * mass).sum())


def _bounds(found: Tensor) -> Tensor:
    """Where one level gives way to the next, and the ends."""
    end = torch.full((1,), 2 * _FAR, dtype=torch.float64)
    return torch.cat((-end, (found[1:] + found[:-1]) / 2, end))


@cache
def _density(size: int) -> _Density:
    far = min(size**0.5, _FAR)
    edges = torch.linspace(-far, far, _CELLS + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    weight = torch.exp((size - 3) / 2 * torch.log1p(-(middle**2) / size))
    weight = weight / weight.sum()
    sums = (weight, weight * middle, weight * middle**2, weight ** (1 / 3))
    return _Density(edges, *(torch.cat((each.new_zeros(1), each.cumsum(0))) for each in sums))
