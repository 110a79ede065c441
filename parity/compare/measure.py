"""Measuring: how far two tensors are apart, and how one author's layout maps to another's."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.records import PROMOTED_NOISE

_FEW_AXES = 4


def relative_error(port: Tensor, reference: Tensor) -> float:
    """Relative L2 error of two tensors of one shape; 0.0 only if they are bitwise equal; NaN if either holds a NaN."""
    if torch.equal(port, reference):
        return 0.0
    if not reference.is_floating_point():
        return float((port != reference).double().mean())
    difference = torch.linalg.vector_norm(port.double() - reference.double())
    size = torch.linalg.vector_norm(reference.double())
    return float("inf") if size == 0 else float(difference / size)


def identical(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one shape and the same values, bit by bit."""
    return first.shape == second.shape and bool(torch.equal(first, second))


def worst(port: Tensor, reference: Tensor) -> tuple[float, float]:
    """Largest and mean absolute difference of two tensors of one shape."""
    if not reference.numel():
        return 0.0, 0.0
    difference = (port.double() - reference.double()).abs()
    return float(difference.max()), float(difference.mean())


@dataclass(frozen=True)
class Order:
    """Along one axis, where in the port's tensor each entry of the reference's stands (heads in another order, say)."""

    axis: int
    places: Tensor


@dataclass(frozen=True)
class Layout:
    """How a port's tensor is turned into the reference's: permute the axes, reshape or broadcast, reorder one axis.

    broadcast: one of the two has a single row where the other has one for each of the batch, all alike.
    """

    axes: tuple[int, ...]
    broadcast: bool = False
    order: Order | None = None

    def to_reference(self, port: Tensor, shape: torch.Size) -> Tensor:
        """The port's tensor in the reference's layout `shape`."""
        moved = port.permute(self.axes)
        value = _spread(moved, shape) if self.broadcast else moved.reshape(shape)
        return value if self.order is None else value.index_select(self.order.axis, self.order.places)

    def to_port(self, reference: Tensor, shape: torch.Size) -> Tensor:
        """The reference's tensor in the port's layout `shape`."""
        if self.order is not None:
            reference = reference.index_select(self.order.axis, self.order.places.argsort())
        moved = torch.Size([shape[axis] for axis in self.axes])
        inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        value = _narrowed(reference, moved).expand(moved) if self.broadcast else reference.reshape(moved)
        return value.permute(inverse).contiguous()


def _spread(value: Tensor, shape: torch.Size) -> Tensor:
    """One row for all rows of `shape`, if there is one alone."""
    return value.expand([max(sizes) if all(sizes) else 0 for sizes in zip(value.shape, shape, strict=True)])


def _narrowed(value: Tensor, shape: torch.Size) -> Tensor:
    """The first entry alone along the axes of which `shape` has one."""
    return value[tuple(slice(0, 1) if size == 1 else slice(None) for size in shape)]


def find_order(port: Tensor, reference: Tensor) -> Order | None:
    """The reordering along one axis that makes two tensors of one shape equal, if there is one."""
    for axis in range(reference.ndim):
        if reference.shape[axis] < 2:
            continue
        ours, theirs = _slices(reference, axis), _slices(port, axis)
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(ours.shape[1], generator=generator, dtype=ours.dtype)
        places = torch.empty(ours.shape[0], dtype=torch.long)
        places[(ours @ direction).argsort()] = (theirs @ direction).argsort()
        if relative_error(theirs[places], ours) <= PROMOTED_NOISE:
            return Order(axis, places)
    return None


def _slices(value: Tensor, axis: int) -> Tensor:
    return value.movedim(axis, 0).flatten(1).double()


def layouts(port: torch.Size, reference: torch.Size) -> list[Layout]:
    """Layouts that fit best by shape alone, the plainest first.

    Of several orders that could be reshaped to the reference, those whose axes end where the reference's do are the
    ones an author can have meant.
    """
    orders = _orders(len(port))
    ranked: dict[int, list[Layout]] = {}
    for order in orders:
        moved = torch.Size([port[axis] for axis in order])
        if moved.numel() == reference.numel():
            ranked.setdefault(len(_cuts(moved) & _cuts(reference)), []).append(Layout(order))
        elif len(moved) == len(reference) and (_repeats(moved, reference) or _one_row_of(moved, reference)):
            ranked.setdefault(len(moved), []).append(Layout(order, broadcast=True))
    return ranked[max(ranked)] if ranked else []


def _repeats(port: torch.Size, reference: torch.Size) -> bool:
    """Whether the port may have several times what the reference has once."""
    return all(theirs in (1, own) for own, theirs in zip(port, reference, strict=True))


def _one_row_of(port: torch.Size, reference: torch.Size) -> bool:
    """Whether the port may have once what the reference has for each row of the batch, as of positions."""
    return len(port) > 1 and port[0] == 1 and port[1:] == reference[1:]


def _orders(rank: int) -> list[tuple[int, ...]]:
    """Orders of axes worth trying, the identity first: all of few axes, exchanged neighbours of many."""
    if rank <= _FEW_AXES:
        return list(itertools.permutations(range(rank)))
    identity = tuple(range(rank))
    return [identity, *((*identity[:at], at + 1, at, *identity[at + 2 :]) for at in range(rank - 1))]


def _cuts(shape: torch.Size) -> set[int]:
    """Where axes end, counted in elements from the first on."""
    return set(itertools.accumulate(shape, int.__mul__))


def best_layout(port: Tensor, reference: Tensor) -> tuple[Layout, float] | None:
    """The layout that fits, and how close the two are under it; None if none fits.

    Values decide between layouts of equal merit only if they agree: two wrong values are near each other by chance
    alone.
    """
    candidates = layouts(port.shape, reference.shape)
    for layout in candidates:
        error = distance(layout, port, reference)
        if error <= PROMOTED_NOISE:
            return layout, error
    return (candidates[0], distance(candidates[0], port, reference)) if candidates else None


def distance(layout: Layout, port: Tensor, reference: Tensor) -> float:
    """Relative error of the port's tensor under a layout; infinite for NaN, so that it sorts last."""
    moved = layout.to_reference(port, reference.shape)
    error = relative_error(moved, reference.expand_as(moved))
    return error if error == error else float("inf")  # noqa: PLR0124 (NaN)
