"""The weights of two models that are lifted by the operations that use them, rather than with a block."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from parity.compare.sides import parameters
from parity.pair.lifting import Lifter, Streamed
from parity.pair.parts import Register, Stored


def register(sides: Iterable[tuple[Streamed, Iterable[str]]], lifter: Lifter, promoted: bool) -> Register:
    """A register of weights by name, and of tensors that a model keeps in lists, dictionaries and plain attributes.

    The latter only in promoted float64: in low precision it is the author's to say which of them are to be rounded.
    """
    stored = []
    for side, names in sides:
        stored += [
            Stored(side.tensors.get(name, name), side.held(name), side.dtypes.get(name, lifter.dtype)) for name in names
        ]
        if promoted:
            stored += [Stored(name, tensor, torch.float64) for name, tensor in _loose(side)]
    return Register(stored)


def _loose(side: Streamed) -> Iterator[tuple[str, Tensor]]:
    """Floating tensors in low precision that are neither parameters nor buffers."""
    known = {id(tensor) for tensor in (*side.model.parameters(), *side.model.buffers())}
    for name, tensor in parameters(side.model).items():
        if id(tensor) not in known and tensor.dtype != torch.float64 and tensor.device.type == "cpu":
            yield name, tensor
