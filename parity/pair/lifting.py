"""Weights lifted to the dtype of a run while they are used, and no longer: a block at a time, or an operation.

What both sides hold in the same memory is lifted once for both. Memory for lifted weights is used again from block to
block: asking for it anew costs more than the arithmetic. Not so where weights are made of several tensors, since making
them takes memory of its own, beside which that of a whole block would be too much.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_Key = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype, torch.dtype]


@dataclass(frozen=True)
class Streamed:
    """A model that holds its weights as they are stored.

    names: of its weights, tied ones once. made: what makes a weight that is not a tensor of the checkpoint as it is.
    dtypes: what weights have in a run, by name; all others take the run's own. tensors: the checkpoint's names of
    weights that have another. spare: tensors of the checkpoint that the model has no use for, on purpose.
    """

    model: nn.Module
    names: tuple[str, ...]
    made: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    spare: frozenset[str] = frozenset()

    def inside(self, module: str) -> list[str]:
        """Names of the weights in a module."""
        return [name for name in self.names if name.startswith(f"{module}.")]

    def tables_to(self, device: torch.device) -> None:
        """Move what is no weight, such as rotary tables, to the device of a run."""
        kept = set(self.names)
        for prefix, module in self.model.named_modules():
            for leaf, table in module._buffers.items():
                if table is not None and f"{prefix}.{leaf}".removeprefix(".") not in kept:
                    module._buffers[leaf] = table.to(device)

    def held(self, name: str) -> Tensor:
        """A weight as it is kept; of one that is made, a tensor without content."""
        owner, leaf = place_of(self.model, name)
        value = owner._parameters[leaf] if leaf in owner._parameters else owner._buffers[leaf]
        assert value is not None
        return value


def place_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that keeps a parameter or buffer, and the name it has there."""
    prefix, _, leaf = name.rpartition(".")
    return model.get_submodule(prefix), leaf


class Lifter:
    """Lifts weights to the dtype of a run on its device, and gives them back."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype = dtype
        self.device = device
        self.not_finite: list[str] = []
        self._spare: dict[tuple[tuple[int, ...], torch.dtype], list[Tensor]] = {}

    @contextmanager
    def lifted(self, sides: Sequence[tuple[Streamed, Iterable[str]]]) -> Iterator[None]:
        """Within this, the named weights of one or two models are in the dtype and on the device of the run.

        Names of weights that hold a NaN or an infinity are added to `not_finite`.
        """
        shared: dict[_Key, Tensor] = {}
        checked: set[_Key] = set()
        makes = False
        with ExitStack() as stack:
            for streamed, names in sides:
                for name in names:
                    place = _Place.of(streamed, name)
                    known_as = streamed.tensors.get(name, name)
                    if place.held.is_meta:
                        makes = True
                        # What is made for this place alone lies in no memory that anything else shares.
                        value = self._converted(known_as, streamed.made[name](), streamed.dtypes.get(name), {}, set())
                    else:
                        value = self._converted(known_as, place.held.data, streamed.dtypes.get(name), shared, checked)
                    stack.callback(place.put(value))
            self._spare.clear()  # of the block before; what this one needed of it is taken
            yield
        for buffer in shared.values() if not makes else ():
            self._spare.setdefault((tuple(buffer.shape), buffer.dtype), []).append(buffer)

    def _converted(
        self, name: str, stored: Tensor, dtype: torch.dtype | None, shared: dict[_Key, Tensor], checked: set[_Key]
    ) -> Tensor:
        if not stored.is_floating_point():
            return stored.to(self.device)
        wanted = dtype or self.dtype
        key = (stored.data_ptr(), tuple(stored.shape), stored.stride(), stored.dtype, wanted)
        if key not in checked and not finite(stored):
            self.not_finite.append(name)
        checked.add(key)
        if stored.dtype == wanted and stored.device == self.device:
            return stored
        if key not in shared:
            spare = self._spare.get((tuple(stored.shape), wanted))
            buffer = spare.pop() if spare else torch.empty(stored.shape, dtype=wanted, device=self.device)
            shared[key] = buffer.copy_(stored)
        return shared[key]


@dataclass(frozen=True)
class _Place:
    """A weight of a model as it is kept, and where, if that is a tensor without content."""

    held: Tensor
    owners: tuple[tuple[nn.Module, str], ...]

    @classmethod
    def of(cls, streamed: Streamed, name: str) -> "_Place":
        held = streamed.held(name)
        owners = (
            (module, key)
            for module in (streamed.model.modules() if held.is_meta else ())
            for key, other in module._parameters.items()
            if other is held
        )
        return cls(held, tuple(owners))

    def put(self, value: Tensor) -> Callable[[], None]:
        """Put a value there; returns what puts back what was there."""
        if not self.held.is_meta:
            stored = self.held.data
            self.held.data = value  # in place, so that it changes under every name it is kept by
            return lambda: setattr(self.held, "data", stored)
        parameter = nn.Parameter(value, requires_grad=False)
        for module, key in self.owners:
            module._parameters[key] = parameter

        def put_back() -> None:
            for module, key in self.owners:
                module._parameters[key] = self.held  # type: ignore[assignment]

        return put_back


def finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity in a tensor; its sum tells at once, but for one that overflows."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
