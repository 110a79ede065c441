"""Which part of a full forward's value a call should have: the same tokens, the same rows, the keys so far.

A run of several calls, or of padded rows, computes nothing new. Each of its values is a part of one that the full
forward has, which the axes tell that are as long as the probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.records import PROMOTED_NOISE

_HIDDEN = -1e9  # a score this low is a masked one


@dataclass(frozen=True)
class Cells:
    """The tokens of one call: `tokens` of them from place `start` on, in rows of which the first `pads` are padding.

    probe: how many tokens the full forward has, a length that nothing else in the model has.
    """

    start: int
    tokens: int
    pads: tuple[int, ...]
    probe: int

    @property
    def so_far(self) -> int:
        """Tokens up to the end of this call."""
        return self.start + self.tokens

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return len(self.pads)

    def relation(self, value: Tensor, full: Tensor) -> bool | None:
        """Whether a value is the right part of a full forward's; None if the two cannot be compared."""
        value, full = self._unflattened(value, full)
        if value.ndim != full.ndim or value.dtype != full.dtype:
            return None
        axes = [axis for axis, size in enumerate(full.shape) if size == self.probe]
        if any(value.shape[axis] != size for axis, size in enumerate(full.shape) if axis not in axes):
            return None
        spans = {axis: self._span(value.shape[axis], place, len(axes)) for place, axis in enumerate(axes)}
        known = {axis: span for axis, span in spans.items() if span is not None}
        if not spans and self._is_state(value):
            return self._equal(value, full, known) or None
        if len(known) == len(spans):
            return self._equal(value, full, known)
        return self._partly(value, full, spans, known) if len(known) == len(spans) - 1 else None

    def _is_state(self, value: Tensor) -> bool:
        """Whether a value may be what a row's tokens so far add up to, of which the full forward has the last alone."""
        row = value.ndim > 2 and value.shape[0] == self.rows and value.is_floating_point()
        return row and self.so_far < self.probe

    def _partly(
        self,
        value: Tensor,
        full: Tensor,
        spans: dict[int, tuple[int, int] | None],
        known: dict[int, tuple[int, int]],
    ) -> bool | None:
        """The same where not all keys are kept, but the latest, as a rule."""
        latest = {axis: span or (self.so_far - value.shape[axis], self.so_far) for axis, span in spans.items()}
        if min(start for start, _ in latest.values()) >= 0 and self._equal(value, full, latest):
            return True
        if any(self.pads):
            return None
        if len(spans) > 1:
            return self._same_entries(value, full, known) if value.ndim - 1 not in known else None
        return self.places(value, full) is not None

    def _unflattened(self, value: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and tokens as two axes, where they are one."""
        for axis, size in enumerate(full.shape):
            joined = size == self.rows * self.probe and self.rows > 1 and value.ndim == full.ndim
            if joined and value.shape[axis] == self.rows * self.tokens:
                return _split(value, axis, (self.rows, self.tokens)), _split(full, axis, (self.rows, self.probe))
        return value, full

    def _span(self, size: int, place: int, count: int) -> tuple[int, int] | None:
        """From where to where the tokens of an axis are; None if that cannot be told from its length."""
        if place == count - 1 and size == self.so_far and (count > 1 or self.tokens != size):
            return 0, self.so_far
        return (self.start, self.so_far) if size == self.tokens else None

    def _equal(self, value: Tensor, full: Tensor, spans: dict[int, tuple[int, int]]) -> bool | None:
        if not spans:
            return close(value, full)
        by_row = full.ndim > 1 and full.shape[0] == value.shape[0] == self.rows and 0 not in spans
        if not by_row or not any(self.pads):
            return close(value, self._part(full, spans, 0)[0])
        for row, pad in enumerate(self.pads):
            expected, kept = self._part(full[row], {axis - 1: span for axis, span in spans.items()}, pad)
            own = value[row]
            for axis, first in kept.items():
                own = own.narrow(axis, first, own.shape[axis] - first)
            if not close(own, expected) or not self._hidden(value[row], full[row], pad):
                return False
        return True

    def _hidden(self, value: Tensor, full: Tensor, pad: int) -> bool:
        """Whether a row's real queries see no padding, if a value says what is seen."""
        keys = value.shape[-1] if value.ndim else 0
        first = max(0, pad - (self.so_far - keys))
        if not first or keys <= first or full.shape[-1] != self.probe:
            return True
        if value.dtype == torch.bool:
            last = value if value.ndim == 1 else value[..., -1, :]
            return not bool((last[..., :first] == last[..., -1:]).any())
        if not value.is_floating_point() or not bool((full <= _HIDDEN).any()):
            return True
        return bool((value[..., -1, :first] <= _HIDDEN).all())

    def _part(self, full: Tensor, spans: dict[int, tuple[int, int]], pad: int) -> tuple[Tensor, dict[int, int]]:
        """What a row should have at its real tokens, and at which place of each axis these begin in the call."""
        kept = {}
        for axis, (start, end) in spans.items():
            first = max(start, pad)
            kept[axis] = min(first, end) - start
            full = full.narrow(axis, min(first, end) - pad if end > pad else 0, max(0, end - first))
        return full, kept

    def _same_entries(self, value: Tensor, full: Tensor, spans: dict[int, tuple[int, int]]) -> bool | None:
        """Whether each query sees the same entries, whatever keys are kept beside them; of raw scores, some of them."""
        expected, _ = self._part(full, spans, 0)
        if value.dtype == torch.bool or not value.is_floating_point():
            return None
        whole = not bool(((expected == 0) | (expected <= _HIDDEN)).any())
        for own, other in zip(value.flatten(0, -2), expected.flatten(0, -2), strict=True):
            ours, theirs = _seen(own), _seen(other)
            if whole and not bool(_near(ours[:, None], theirs[None]).any(1).all()):
                return False
            if not whole and (len(ours) != len(theirs) or not bool(_near(ours.sort()[0], theirs.sort()[0]).all())):
                return False
        return True

    def places(self, value: Tensor, full: Tensor) -> list[int] | None:
        """Of which tokens of the full forward a value holds something, in its order; -1 for room not yet filled.

        None if it holds something that is of none of them, or has no axis of tokens of its own.
        """
        if value.ndim != full.ndim or not value.is_floating_point() or any(self.pads):
            return None
        axes = [axis for axis, size in enumerate(full.shape) if size == self.probe]
        shapes = zip(value.shape, full.shape, strict=True)
        if len(axes) != 1 or any(ours != theirs for axis, (ours, theirs) in enumerate(shapes) if axis != axes[0]):
            return None
        ours, theirs = (each.movedim(axes[0], 0).flatten(1) for each in (value, full))
        sizes = torch.linalg.vector_norm(theirs, dim=1).clamp_min(1e-300)
        apart = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist") / sizes
        nearest, where = apart.min(1)
        empty = ~ours.any(1)
        if not bool(((nearest <= PROMOTED_NOISE) | empty).all()):
            return None
        return [-1 if bool(none) else int(place) for none, place in zip(empty, where, strict=True)]


def close(value: Tensor, expected: Tensor) -> bool:
    """Whether two values of one shape are equal up to rounding; what is masked is so on both sides."""
    if value.shape != expected.shape:
        return False
    if not value.is_floating_point():
        return bool(torch.equal(value, expected))
    ours, theirs = value <= _HIDDEN, expected <= _HIDDEN
    if not torch.equal(ours, theirs):
        return False
    value, expected = value.where(~ours, 0.0), expected.where(~theirs, 0.0)
    size = torch.linalg.vector_norm(expected)
    return bool(torch.linalg.vector_norm(value - expected) <= PROMOTED_NOISE * size)


def _split(value: Tensor, axis: int, sizes: tuple[int, int]) -> Tensor:
    return value.reshape(*value.shape[:axis], *sizes, *value.shape[axis + 1 :])


def _seen(scores: Tensor) -> Tensor:
    return scores[(scores > _HIDDEN) & (scores != 0)]


def _near(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs() <= 1e-8 * theirs.abs() + 1e-12


def cells_of(starts: Sequence[int], lengths: Sequence[int], pads: tuple[int, ...], probe: int) -> list[Cells]:
    """The cells of each call of a program."""
    return [Cells(start, length, pads, probe) for start, length in zip(starts, lengths, strict=True)]
