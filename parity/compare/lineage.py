"""Lineage: which checkpoint tensors a parameter holds, read from its content.

With random weights every row and column is unique. A vector is recognised by two moments that neither reordering its
elements nor scaling it changes, so a parameter that was split, fused, transposed, permuted, scaled or cast still shows
where each of its rows came from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_TOLERANCE = 1e-9
SHORTEST = 3  # vectors with fewer elements have moments too alike to tell apart
_NEAR = 4  # entries to either side that tell which of several equal ones is meant
_OFFSETS = (0.0, -1.0, 1.0)  # a norm's +1 may be folded into its weight, or taken out of it


@dataclass(frozen=True)
class Holding:
    """Part or all of one checkpoint tensor found in one parameter.

    places[axis], for each axis of the tensor, gives the positions along the parameter's axis param_axes[axis] that
    hold the tensor's entries `entries` (all of them on the axis that was matched whole).
    """

    tensor: str
    matched_axis: int
    entries: Tensor
    places: tuple[Tensor | None, ...]
    param_axes: tuple[int, ...]
    complete: bool


def share(first: Holding, second: Holding) -> bool:
    """Whether two parameters hold entries of a tensor in common, as far as both were matched along the same axis."""
    if first.matched_axis != second.matched_axis:
        return True
    return bool(torch.isin(first.entries, second.entries).any())


@dataclass(frozen=True)
class _Vectors:
    """Unit-scale moments of all vectors of one tensor along one direction: `[N]` each."""

    first: Tensor
    third: Tensor


def _squeeze(tensor: Tensor) -> Tensor:
    """Two axes at most: size-one axes dropped, leading ones merged."""
    flat = tensor.detach().squeeze()
    if flat.ndim == 0:
        flat = flat[None]
    return (flat.flatten(0, -2) if flat.ndim > 2 else flat).double()


def _moments(matrix: Tensor) -> _Vectors:
    """Moments of the rows of `[N, M]`."""
    norm = torch.linalg.vector_norm(matrix, dim=1).clamp_min(1e-300)
    unit = matrix / norm[:, None]
    return _Vectors(unit.sum(1), unit.pow(3).sum(1))


class Index:
    """All vectors of a checkpoint, ready for look-up."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = {name: _squeeze(value) for name, value in tensors.items() if value.is_floating_point()}
        self._by_length: dict[int, list[tuple[str, int]]] = {}
        for name, value in self._tensors.items():
            for axis in range(value.ndim):
                self._by_length.setdefault(value.shape[axis], []).append((name, axis))
        self._tables: dict[int, _Table] = {}
        self._elements: tuple[Tensor, list[tuple[str, int]]] | None = None

    def find(self, parameter: Tensor) -> tuple[Holding, ...]:
        """What `parameter` holds, empty if nothing of the checkpoint is recognised in it."""
        value = _squeeze(parameter)
        if value.ndim == 1:
            return self._find_vector(value)
        best: tuple[Holding, ...] = ()
        for direction in (1, 0):
            found = self._find_matrix(value, direction)
            if sum(len(holding.entries) for holding in found) == value.shape[1 - direction]:
                return found
            best = max(best, found, key=lambda some: sum(holding.entries.numel() for holding in some))
        return best

    def _table(self, length: int) -> "_Table":
        if length not in self._tables:
            sources = self._by_length.get(length, [])
            self._tables[length] = _Table([(name, axis, self._tensors[name]) for name, axis in sources])
        return self._tables[length]

    def _find_vector(self, value: Tensor) -> tuple[Holding, ...]:
        table = self._table(value.shape[0])
        for offset in _OFFSETS:
            found = table.look_up(_moments(value[None] + offset)) if value.shape[0] >= SHORTEST else []
            for name, _, _, _ in found:
                tensor = self._tensors[name]
                if tensor.ndim == 1:
                    return (_whole_vector(name, tensor, value + offset),)
        return self._find_elements(value)

    def _find_elements(self, value: Tensor) -> tuple[Holding, ...]:
        """Vectors fused or split: recognised element by element, by exact value."""
        if self._elements is None:
            vectors = [(name, tensor) for name, tensor in self._tensors.items() if tensor.ndim == 1]
            labels = [(name, entry) for name, tensor in vectors for entry in range(tensor.shape[0])]
            values = torch.cat([tensor for _, tensor in vectors]) if vectors else torch.empty(0)
            ordered, order = values.sort()
            self._elements = ordered, [labels[int(place)] for place in order]
        ordered, labels = self._elements
        if not len(labels):
            return ()
        first, last = (torch.searchsorted(ordered, value, right=right).tolist() for right in (False, True))
        hits = [[labels[slot] for slot in range(*ends)] for ends in zip(first, last, strict=True)]
        grouped: dict[str, list[tuple[int, int]]] = {}
        for place, (name, entry) in _chosen(hits).items():
            grouped.setdefault(name, []).append((entry, place))
        return tuple(
            _partial_vector(name, self._tensors[name], pairs)
            for name, pairs in grouped.items()  # a chance hit or two is no lineage, nor is one value many times
            if len({entry for entry, _ in pairs}) >= min(SHORTEST, self._tensors[name].shape[0])
        )

    def _find_matrix(self, value: Tensor, direction: int) -> tuple[Holding, ...]:
        """Match the vectors of `value` that run along `direction`."""
        rows = value if direction == 1 else value.T
        if rows.shape[1] < SHORTEST:
            return ()
        grouped: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for name, axis, entry, place in self._table(rows.shape[1]).look_up(_moments(rows)):
            grouped.setdefault((name, axis), []).append((entry, place))
        return tuple(
            self._holding(name, axis, pairs, rows, direction)
            for (name, axis), pairs in grouped.items()
            if self._tensors[name].ndim == 2
        )

    def _holding(self, name: str, axis: int, pairs: Sequence[tuple[int, int]], rows: Tensor, direction: int) -> Holding:
        """`axis` is the direction of the tensor's vectors, so they are counted along the other axis."""
        tensor = self._tensors[name]
        counted = 1 - axis
        entries = torch.tensor([entry for entry, _ in sorted(pairs)])
        places = torch.tensor([place for _, place in sorted(pairs)])
        held = rows[places]
        expected = (tensor if counted == 0 else tensor.T)[entries]
        along = _permutation(held, expected)
        by_axis: list[Tensor | None] = [None, None]
        by_axis[counted], by_axis[axis] = places, along
        param_axes = [0, 0]
        param_axes[counted], param_axes[axis] = 1 - direction, direction
        return Holding(
            tensor=name,
            matched_axis=counted,
            entries=entries,
            places=tuple(by_axis),
            param_axes=tuple(param_axes),
            complete=len(set(entries.tolist())) == tensor.shape[counted],
        )


class _Table:
    """Vectors of one length from many tensors, sorted by their first moment."""

    def __init__(self, sources: Sequence[tuple[str, int, Tensor]]):
        moments, self._labels = [], []
        for name, axis, tensor in sources:
            matrix = tensor[None] if tensor.ndim == 1 else (tensor if axis == 1 else tensor.T)
            moments.append(_moments(matrix))
            self._labels.append((name, axis))
        counts = [len(part.first) for part in moments]
        first = torch.cat([part.first for part in moments]) if moments else torch.empty(0, dtype=torch.float64)
        third = torch.cat([part.third for part in moments]) if moments else torch.empty(0, dtype=torch.float64)
        source = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
        entry = torch.cat([torch.arange(count) for count in counts]) if counts else torch.empty(0, dtype=torch.long)
        self._first, order = first.sort()
        self._third, self._source, self._entry = third[order], source[order], entry[order]

    def look_up(self, wanted: _Vectors) -> list[tuple[str, int, int, int]]:
        """(tensor, direction, entry in it, which of the wanted vectors) for each vector that is recognised."""
        if not len(self._first):
            return []
        slot = torch.searchsorted(self._first, wanted.first)
        found = []
        taken = torch.zeros(len(wanted.first), dtype=torch.bool)
        for near in (slot.clamp_max(len(self._first) - 1), (slot - 1).clamp_min(0)):
            hit = (self._first[near] - wanted.first).abs() < _TOLERANCE
            hit &= (self._third[near] - wanted.third).abs() < _TOLERANCE
            hit &= ~taken
            taken |= hit
            for place in hit.nonzero().flatten().tolist():
                at = int(near[place])
                name, axis = self._labels[int(self._source[at])]
                found.append((name, axis, int(self._entry[at]), place))
        return found


def _chosen(hits: Sequence[Sequence[tuple[str, int]]]) -> dict[int, tuple[str, int]]:
    """The entry of a tensor that stands at each place, given all entries of that value.

    In low precision many entries share a value. Then the one whose neighbours stand next to it is meant, else one of
    the tensor that accounts for the most places; a place that agrees by chance in the middle of others has neither.
    """
    if all(len(entries) < 2 for entries in hits):
        return {place: entries[0] for place, entries in enumerate(hits) if entries}
    known = [set(entries) for entries in hits]
    places = Counter(name for entries in known for name in {name for name, _ in entries})

    def neighbours(place: int, name: str, entry: int) -> int:
        near = [step for step in range(-_NEAR, _NEAR + 1) if 0 <= place + step < len(known)]
        return sum((name, entry + step) in known[place + step] for step in near)

    return {
        place: max(entries, key=lambda each: (neighbours(place, *each), places[each[0]]))
        for place, entries in enumerate(hits)
        if entries
    }


def _permutation(held: Tensor, expected: Tensor) -> Tensor | None:
    """Where each column of `expected` stands in `held`, both `[N, M]`; None if they are not the same columns."""
    if torch.equal(held, expected):
        return torch.arange(expected.shape[1])
    ours, theirs = _moments(held.T), _moments(expected.T)
    places = _match_sorted(ours, theirs)
    if places is None and held.shape[0] == 1:
        return None
    return places


def _match_sorted(ours: _Vectors, theirs: _Vectors) -> Tensor | None:
    our_order, their_order = ours.first.argsort(), theirs.first.argsort()
    close = (ours.first[our_order] - theirs.first[their_order]).abs() < _TOLERANCE
    close &= (ours.third[our_order] - theirs.third[their_order]).abs() < _TOLERANCE
    if not bool(close.all()):
        return None
    places = torch.empty_like(our_order)
    places[their_order] = our_order
    return places


def _whole_vector(name: str, tensor: Tensor, value: Tensor) -> Holding:
    size = tensor.shape[0]
    if torch.equal(tensor, value):
        places = torch.arange(size)
    else:
        our_order, their_order = value.argsort(), tensor.argsort()
        places = torch.empty_like(our_order)
        places[their_order] = our_order
    return Holding(name, 0, torch.arange(size), (places,), (0,), True)


def _partial_vector(name: str, tensor: Tensor, pairs: Sequence[tuple[int, int]]) -> Holding:
    entries = torch.tensor([entry for entry, _ in sorted(pairs)])
    places = torch.tensor([place for _, place in sorted(pairs)])
    return Holding(name, 0, entries, (places,), (0,), len(entries) == tensor.shape[0])
