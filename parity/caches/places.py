"""Which tensors of a port's cache hold vectors of tokens, found by running it: what grows or fills up with tokens does.

Nothing goes by names. A tensor that is one longer for each token, or of which one entry more is written for each, holds
entries of tokens; one that is no longer and changes as a whole is a state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.cache_records import LeftAlone, Place, Role
from parity.caches.roles import first_read
from parity.caches.walk import Path, tensors
from parity.compare.generation import Models
from parity.errors import ParityError
from parity.names import numbers
from parity.pair import running

_CALLS = (1, 2, 5)  # tokens of each call by which a cache is looked at
_SHORT = 4  # entries; what never has more is the inputs of a convolution
_MATRIX = 3  # axes that it takes to hold vectors of tokens: sequences, tokens, coordinates


@dataclass(frozen=True)
class Slot:
    """Where vectors of tokens are, in a cache of one sequence: time and vector are axes.

    grows: entries are appended, the oldest may go; else they are written into a tensor of fixed size.
    """

    path: Path
    time: int
    vector: int
    grows: bool
    place: Place

    def added(self, now: Tensor, before: Tensor | None, tokens: int) -> Tensor:
        """Which entries a call of so many tokens wrote, int64; before: a copy, for tensors of fixed size."""
        length = now.shape[self.time]
        if self.grows:
            return torch.arange(max(0, length - tokens), length, device=now.device)
        if before is None or before.shape != now.shape:
            return torch.arange(length, device=now.device)[changed(now, torch.zeros_like(now), self.time)]
        return changed(now, before, self.time).nonzero()[:, 0]

    def vectors(self, tensor: Tensor, entries: Tensor) -> Tensor:
        """Vectors `[N, size]` float32 of some entries."""
        return tensor.index_select(self.time, entries).movedim(self.vector, -1).flatten(0, -2).float()

    def write(self, tensor: Tensor, entries: Tensor, vectors: Tensor) -> None:
        """Put vectors where `vectors` took them from, in place.

        Raises:
            ParityError: the tensor cannot be written to.
        """
        shape = list(tensor.shape)
        shape[self.time] = len(entries)
        moved = torch.empty(shape, device="meta").movedim(self.vector, -1).shape
        value = vectors.to(tensor.dtype).reshape(moved).movedim(-1, self.vector)
        try:
            with torch.inference_mode(tensor.is_inference()):
                tensor.index_copy_(self.time, entries, value)
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            raise ParityError(
                f"{self.path} of the cache cannot be written to: {said}", "Keep a tensor of its own there."
            ) from error


@dataclass(frozen=True)
class Layout:
    """What a cache consists of: slots that are quantised, and what is left as it is."""

    slots: tuple[Slot, ...]
    left: tuple[LeftAlone, ...]


def changed(now: Tensor, before: Tensor, axis: int) -> Tensor:
    """Which entries along an axis are not bit for bit what they were, `[length]` bool."""
    other = (now != before) & ~(now.isnan() & before.isnan())
    return other.movedim(axis, 0).flatten(1).any(1)


def layout(models: Models, ids: Sequence[int]) -> Layout:
    """Look at a cache while some tokens go in.

    Args:
        models: the port that has it.
        ids: tokens to do it with, repeated as needed.

    Raises:
        ParityError: nothing in it holds vectors of tokens, or the port failed.
    """
    row = torch.tensor([[ids[at % len(ids)] for at in range(sum(_CALLS) + 1)]], device=models.device)
    cache = running.new_cache(models.port, models.port_model, 1)
    seen: list[dict[Path, Tensor]] = []
    at = 0
    for count in _CALLS:
        running.call(models.port, models.port_model, row[:, at : at + count], None, cache)
        at += count
        seen.append({path: value.clone() for path, value in tensors(cache, models.port_model).items()})
    told = {path: _axis(path, seen) for path in seen[-1]}
    axes = {path: found for path, found in told.items() if not isinstance(found, str)}
    if not axes:
        raise ParityError(
            f"{models.port.name}: nothing in its cache grows with tokens", "Leave --cache-dtype out for this port."
        )
    first = first_read(models, row[:, at:], cache, list(axes))
    left = [LeftAlone(str(path), seen[-1][path].nbytes, why) for path, why in told.items() if isinstance(why, str)]
    slots = (_slot(path, seen[-1][path], *found, first) for path, found in axes.items())
    return Layout(tuple(slots), tuple(left))


def _axis(path: Path, seen: Sequence[dict[Path, Tensor]]) -> tuple[int, bool] | str:
    """Along which axis entries of tokens stand, and whether it grows; or why there is none."""
    values = [each.get(path) for each in seen]
    last = values[-1]
    assert last is not None
    if last.ndim < _MATRIX:
        return "no vectors of tokens"
    grown = _grown(values) if len({value.shape for value in values if value is not None}) > 1 else None
    if grown is not None:
        axis, told = grown
        return told or _whole(last, axis, True)
    fixed = _filled(values)
    return "a state of fixed size" if fixed is None else _whole(last, fixed, False)


def _whole(tensor: Tensor, time: int, grows: bool) -> tuple[int, bool] | str:
    return (time, grows) if tensor.shape[_vector(tensor, time)] > 1 else "a number for each token, no vector"


def _vector(tensor: Tensor, time: int) -> int:
    """The axis of coordinates: the last one that is not time."""
    return max(at for at in range(tensor.ndim) if at != time)


def _grown(values: Sequence[Tensor | None]) -> tuple[int, str | None]:
    """The axis along which it grows, and what speaks against it."""
    one, other, last = values
    if one is None or other is None or last is None or not one.ndim == other.ndim == last.ndim:
        return 0, "it is not the same kind of tensor at each call"
    axes = [at for at in range(last.ndim) if len({value.shape[at] for value in (one, other, last)}) > 1]
    if len(axes) != 1:
        return 0, "it grows along several axes"
    (axis,) = axes
    if last.shape[axis] <= _SHORT:
        return axis, "the inputs of a convolution"
    tokens = sum(_CALLS)
    gone = tokens - last.shape[axis]  # of a window
    if other.shape[axis] != tokens - _CALLS[-1] or gone < 0:
        return axis, "it grows, but not by one entry for each token"
    kept = other.shape[axis] - gone
    stays = kept <= 0 or torch.equal(last.narrow(axis, 0, kept), other.narrow(axis, gone, kept))
    return axis, None if stays else "its entries change after they are written"


def _filled(values: Sequence[Tensor | None]) -> int | None:
    """The axis of a tensor of fixed size along which each call writes as many entries as it has tokens."""
    one, other, last = values
    if one is None or other is None or last is None:
        return None
    for axis in range(1, last.ndim):
        wrote = [int(changed(b, a, axis).sum()) for a, b in ((one, other), (other, last))]
        if wrote == list(_CALLS[1:]) and last.shape[axis] > sum(_CALLS):
            return axis
    return None


def _slot(path: Path, tensor: Tensor, time: int, grows: bool, first: dict[Path, int | None]) -> Slot:
    vector = _vector(tensor, time)
    size, length = tensor.shape[vector], tensor.shape[time]
    found = numbers(str(path))
    layer = found[0] if found else None
    own = [read for other, read in first.items() if numbers(str(other))[:1] == found[:1] and read is not None]
    role: Role = "keys" if not own or first[path] == min(own) else "values"
    vectors = tensor.numel() // (size * length)
    place = Place(str(path), layer, role, size, vectors, None, tensor.nbytes // length)
    return Slot(path, time, vector, grows, place)
