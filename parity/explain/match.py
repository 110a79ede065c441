"""Matching by value: which values of one run stand in the other, whatever they are called there.

A floating value is looked up by moments that do not depend on order, and then held to be the same only if some layout
makes it equal. What a mask hides is minus infinity to one author, the smallest number to another, and a boolean of
either sign to a third: masks are compared by what they let through.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from typing import Literal

import torch
from torch import Tensor

from parity.compare.measure import best_layout
from parity.explain.fused import within
from parity.explain.trace import Ref, Step, Tape
from parity.records import PROMOTED_NOISE

_FEWEST = 4  # elements; smaller values agree by chance
_HIDDEN = -1e9  # a score this low is a masked one
_LARGE = 1 << 22  # elements from which on permuting axes is left out

Relation = Literal["same", "reordered", "scaled"]


def mask_of(value: Tensor) -> Tensor | None:
    """What a mask lets through, `[..., T, S]` bool; None if the value is no mask.

    A token always sees itself, which tells the sign of a boolean mask. What lies after the token is left out where a
    part of a mask says nothing of it.
    """
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < 3:
        return None
    if value.dtype == torch.bool:
        visible = value
    elif value.is_floating_point():
        hidden = value <= _HIDDEN
        if not bool(hidden.any()) or not bool((value[~hidden] == 0).all()):
            return None
        visible = ~hidden
    else:
        return None
    diagonal = visible.diagonal(dim1=-2, dim2=-1)
    if not bool(diagonal.all()):
        if bool(diagonal.any()):
            return None
        visible = ~visible
    visible = visible.reshape(-1, *visible.shape[-2:])
    later = torch.ones(visible.shape[-2:], dtype=torch.bool, device=visible.device).triu(1)
    if bool(visible[:, later].all()) and not bool(visible.all()):
        visible = visible.tril()
    return visible[:1] if bool((visible == visible[:1]).all()) else visible


@dataclass(frozen=True)
class Key:
    """What is looked up: size, and moments that no reordering changes."""

    size: int
    norm: float
    first: float
    third: float

    def near(self, other: "Key") -> bool:
        """Whether two values can be the same but for order."""
        return self.scaled(other) and abs(self.norm - other.norm) <= PROMOTED_NOISE * max(self.norm, other.norm)

    def scaled(self, other: "Key") -> bool:
        """Whether one can be a positive multiple of the other but for order."""
        room = PROMOTED_NOISE * max(1.0, self.size**0.5)
        return bool(abs(self.first - other.first) <= room and abs(self.third - other.third) <= room)


def key_of(value: Tensor) -> Key | None:
    """The key of a floating or complex value; masked scores do not count. None if it is too small to be told apart."""
    if value.numel() < _FEWEST or not (value.is_floating_point() or value.is_complex()):
        return None
    flat = _seen(value)
    norm = float(torch.linalg.vector_norm(flat))
    if not norm > 0:
        return None
    unit = flat / norm
    first, third = torch.stack((unit.sum(), unit.pow(3).sum())).tolist()
    return Key(flat.numel(), norm, first, third)


def norm_of(value: Tensor) -> float:
    """The norm in a value's key, which is quickly had and tells most values apart."""
    return float(torch.linalg.vector_norm(_seen(value)))


def _seen(value: Tensor) -> Tensor:
    flat = torch.view_as_real(value) if value.is_complex() else value
    flat = flat.detach().double().reshape(-1)
    return flat.where(flat > _HIDDEN, 0.0).nan_to_num_()


def same(value: Tensor, other: Tensor, tolerance: float = PROMOTED_NOISE) -> bool:
    """Whether two values are equal up to layout; what is masked is so on both sides."""
    if value.numel() != other.numel() or _kind(value) != _kind(other):
        return False
    if not (value.is_floating_point() or value.is_complex()):
        return bool(torch.equal(value.reshape(-1), other.reshape(-1)))
    value, other = value.detach(), other.detach()
    if value.is_floating_point() and other.is_floating_point():
        if not _hide_alike(value, other):
            return False
        value, other = (each.where(each > _HIDDEN, 0.0) for each in (value, other))
    if value.shape == other.shape or value.is_complex() or value.numel() > _LARGE:
        return value.shape == other.shape and _close(value, other, tolerance)
    if _nested(value.shape, other.shape) and _close(value.reshape(-1), other.reshape(-1), tolerance):
        return True
    both_ways = (best_layout(value, other), best_layout(other, value))
    return any(found is not None and found[1] <= tolerance for found in both_ways)


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_complex(), value.is_floating_point()


def _hide_alike(value: Tensor, other: Tensor) -> bool:
    """Whether two values have the same entries masked, or as many where their shapes do not tell which."""
    ours, theirs = value <= _HIDDEN, other <= _HIDDEN
    return bool(torch.equal(ours, theirs)) if ours.shape == theirs.shape else int(ours.sum()) == int(theirs.sum())


def _nested(first: torch.Size, second: torch.Size) -> bool:
    """Whether one shape only splits axes of the other, so that a reshape between them keeps what an axis means."""
    ours, theirs = (set(accumulate((size for size in shape if size > 1), mul)) for shape in (first, second))
    return bool(ours <= theirs or theirs <= ours)


def _axes(value: Tensor) -> list[int]:
    return sorted(size for size in value.shape if size > 1)


def _close(value: Tensor, other: Tensor, tolerance: float) -> bool:
    size = torch.linalg.vector_norm(other)
    return bool(torch.linalg.vector_norm(value - other) <= tolerance * size)


@dataclass
class Index:
    """Values of one run, to be looked up by values of another."""

    tape: Tape
    values: dict[Ref, Tensor] = field(default_factory=dict)
    _tables: dict[int, list[tuple[float, Ref, Key]]] = field(default_factory=dict)
    _masks: dict[tuple[int, ...], list[tuple[Ref, Tensor]]] = field(default_factory=dict)
    _whole: dict[int, list[Ref]] = field(default_factory=dict)
    _parts: dict[int, list[tuple[Ref, Tensor, Key]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tape: Tape, changed: Mapping[Ref, Tensor] | None = None) -> "Index":
        """All values of a tape, some of them changed."""
        index = cls(tape)
        changed = changed or {}
        for step in tape.steps:
            for ref in step.refs:
                index.add(ref, changed.get(ref, step.values[ref.part]))
            for number, value in enumerate(within(tape, step)):
                index.add(Ref(-1 - step.number, number), value)
        for table in index._tables.values():
            table.sort(key=lambda entry: entry[0])
        return index

    def add(self, ref: Ref, value: Tensor) -> None:
        """Take one value in; one from within a step has that step's number below zero."""
        self.values[ref] = value
        mask = mask_of(value)
        if mask is not None:
            self._masks.setdefault(tuple(mask.shape), []).append((ref, mask))
            return
        key = key_of(value)
        if key is not None:
            self._tables.setdefault(key.size, []).append((key.norm, ref, key))
        elif not value.is_floating_point() and value.numel() >= _FEWEST:
            self._whole.setdefault(value.numel(), []).append(ref)

    def find(self, value: Tensor) -> tuple[Ref, Relation] | None:  # noqa: PLR0911 (one way of matching after another)
        """A value that is the same, else one that differs in order alone, else in a factor alone."""
        mask = mask_of(value)
        if mask is not None:
            found = self._masks.get(tuple(mask.shape), ())
            return next(((ref, "same") for ref, other in found if torch.equal(mask, other)), None)
        key = key_of(value)
        if key is None:
            refs = self._whole.get(value.numel(), ()) if not value.is_floating_point() else ()
            return next(((ref, "same") for ref in refs if same(value, self.values[ref])), None)
        exact = self._near(key)
        for ref in exact:
            if same(value, self.values[ref]):
                return ref, "same"
        if exact:
            return exact[0], "reordered"
        part = self._part(value)
        if part is not None:
            return part, "same"
        for _, ref, other in self._tables.get(key.size, ()):
            if key.scaled(other):
                return ref, "scaled"
        return None

    def twisted(self, value: Tensor) -> Ref | None:
        """A value with the same axes, whose entries stand in another order along them; None if one has the same."""
        key = key_of(value)
        found = None
        for ref in self._near(key) if key is not None else ():
            other = self.values[ref]
            if _axes(other) != _axes(value):
                continue
            if same(value, other):
                return None
            found = found or ref
        return found

    def _near(self, key: Key) -> list[Ref]:
        table = self._tables.get(key.size, [])
        room = 2 * PROMOTED_NOISE * key.norm
        at = bisect_left(table, key.norm - room, key=lambda entry: entry[0])
        found = []
        while at < len(table) and table[at][0] <= key.norm + room:
            if key.near(table[at][2]):
                found.append(table[at][1])
            at += 1
        return found

    def _part(self, value: Tensor) -> Ref | None:
        """A value of which this is one row, head, token or half: authors loop over them, or fuse what is apart here."""
        if not value.is_floating_point() or value.numel() < 2 * _FEWEST:
            return None
        size = value.numel()
        wanted = key_of(value)
        if size not in self._parts:
            self._slice(size)
        for ref, part, key in self._parts[size]:
            if wanted is not None and wanted.near(key) and same(value, part):
                return ref
        return None

    def _slice(self, size: int) -> None:
        found = self._parts.setdefault(size, [])
        for ref, value in self.values.items():
            if value.ndim < 3 or not value.is_floating_point() or value.numel() > _LARGE:
                continue
            for axis in range(value.ndim - 1):
                if value.shape[axis] > 1 and value.numel() == size * value.shape[axis]:
                    for part in value.unbind(axis):
                        key = key_of(part)
                        if key is not None:
                            found.append((ref, part, key))


_LAYOUT = {
    "view", "reshape", "transpose", "permute", "contiguous", "flatten", "unflatten", "squeeze", "unsqueeze", "to",
    "float", "double", "type_as", "clone", "detach", "expand", "movedim", "T.__get__", "mT.__get__", "swapaxes",
    "chunk",
    "split", "split_with_sizes", "unbind", "__getitem__", "narrow", "select", "view_as", "nn.functional.dropout",
    "leaf",
    "written", "data.__get__", "bfloat16", "half", "t", "einops", "requires_grad_", "copy_", "swapdims", "tensor_split",
}  # fmt: skip


def is_layout(name: str) -> bool:
    """Whether an operation only moves values around."""
    return name in _LAYOUT


def moves(tape: Tape, ref: Ref) -> Iterator[Ref]:
    """A value, and what it was before it was only moved, back to where it was made."""
    yield ref
    while is_layout((step := tape.steps[ref.step]).name) and step.inputs:
        ref = step.inputs[0]
        yield ref


def is_neutral(step: Step) -> bool:
    """Whether a step multiplies by one or adds nothing: what an author wrote to mean nothing."""
    numbers = [value for value in step.arguments if isinstance(value, int | float)]
    return (1 in numbers and step.name in ("mul", "div", "truediv")) or (0 in numbers and step.name in ("add", "sub"))
