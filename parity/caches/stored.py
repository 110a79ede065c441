"""A port's cache run as it would be stored: after each call, what it wrote is made bytes, and read back from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from parity.caches.formats import Format, format_of, hold
from parity.caches.places import Slot
from parity.caches.walk import Path
from parity.compare import generation as measuring
from parity.compare.generation import Models
from parity.pair import running


@dataclass(frozen=True)
class Written:
    """What one call wrote in one place: vectors `[N, size]` as the port made them and as they are stored."""

    made: Tensor
    stored: Tensor


@dataclass
class Sums:
    """Squared lengths added up: of errors, and of what they are errors of."""

    error: float = 0.0
    whole: float = 0.0

    def add(self, error: Tensor, whole: Tensor) -> None:
        """More of them."""
        self.error += float(error.double().square().sum())
        self.whole += float(whole.double().square().sum())

    @property
    def relative(self) -> float:
        """In the L2 norm; zero for no error of nothing."""
        if not self.error:
            return 0.0
        return (self.error / self.whole) ** 0.5 if self.whole else float("inf")


@dataclass
class Decoder:
    """A port with a cache of one sequence, stored in some format; the port's own one if that is None.

    A call sees what it writes itself as it made it, and all before as it is stored. written: what the last call wrote.
    """

    models: Models
    slots: Sequence[Slot]
    dtype: str | None = None
    written: Mapping[Path, Written] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with an empty cache."""
        self._cache = running.new_cache(self.models.port, self.models.port_model, 1)
        self._formats: dict[Path, Format] = {}
        if self.dtype is not None:
            for slot in self.slots:
                hold(self.dtype, slot.place.size, str(slot.path))
                self._formats[slot.path] = format_of(self.dtype, slot.place.role)

    def next(self, ids: Sequence[int]) -> Tensor:
        """Logits `[V]` float32 of what follows some more tokens."""
        fixed = [(slot.path, slot.path.get(self._cache)) for slot in self.slots if not slot.grows]
        before = {path: value.clone() for path, value in fixed if value is not None}
        logits = measuring.last(self.models, torch.tensor([list(ids)], device=self.models.device), None, self._cache)
        found = ((slot, self._store(slot, before.get(slot.path), len(ids))) for slot in self.slots)
        self.written = {slot.path: written for slot, written in found if written is not None}
        return logits[0].cpu()

    def _store(self, slot: Slot, before: Tensor | None, tokens: int) -> Written | None:
        tensor = slot.path.get(self._cache)
        if tensor is None:
            return None
        entries = slot.added(tensor, before, tokens)
        if not len(entries):
            return None
        made = slot.vectors(tensor, entries)
        if self.dtype is None:
            return Written(made, made)
        form = self._formats[slot.path]
        packed = form.pack(made)
        if packed.shape != (len(made), form.size(slot.place.size)):
            raise AssertionError(f"{self.dtype} takes {packed.shape[-1]} bytes, and says {form.size(slot.place.size)}")
        slot.write(tensor, entries, form.unpack(packed, slot.place.size))
        return Written(made, slot.vectors(tensor, entries))

    def length(self, slot: Slot) -> int:
        """How many tokens' vectors a tensor has room for now."""
        tensor = slot.path.get(self._cache)
        return 0 if tensor is None else tensor.shape[slot.time]

    def bytes(self, slot: Slot) -> int:
        """Of a token."""
        if self.dtype is None:
            return slot.place.bytes
        return slot.place.vectors * self._formats[slot.path].size(slot.place.size)
