"""What is a key in a cache: what the first weights of its layer are made of. Values come in after them.

One step is watched, operation by operation: which tensors of the cache went into each softmax, an indexer's through
what it picked. Names do not matter, nor does it what the attention is written with.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parity.caches.walk import Path
from parity.compare.generation import Models
from parity.pair import running

_EXPONENTS = ("exp", "exp_", "exp2")  # of a softmax written out
_FUSED = "scaled_dot_product"  # takes queries, keys and values at once


def first_read(models: Models, ids: Tensor, cache: object, paths: Sequence[Path]) -> dict[Path, int | None]:
    """For each tensor of a cache, the number of the operation that weighs by it first; None if none does.

    Args:
        models: the port.
        ids: one more token `[1, 1]`; it is appended.
        cache: with some tokens in it.
        paths: which tensors.
    """
    watched = _Flow({path: value for path in paths if (value := path.get(cache)) is not None})
    with watched:
        running.call(models.port, models.port_model, ids, None, cache)
    return {path: watched.first.get(path) for path in paths}


class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which tensors of the cache any value is made of, by the memory that it lies in."""

    def __init__(self, sources: dict[Path, Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: dict[Path, int] = {}
        self._from: dict[int, set[Path]] = {}
        self._alive: list[Tensor] = []  # memory that is freed would be taken again
        self._count = 0
        for path, value in sources.items():
            self._mark(value, {path})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Follow one operation."""
        given = kwargs or {}
        result = func(*args, **given)
        name = func.overloadpacket.__name__
        sources = self._of(tree_leaves((args, given)))
        weighs = self._of(list(args[:2])) if _FUSED in name else sources
        if "softmax" in name or _FUSED in name or name in _EXPONENTS:
            self._count += 1
            for path in weighs:
                self.first.setdefault(path, self._count)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._mark(value, sources)
        return result

    def _of(self, values: Sequence[object]) -> set[Path]:
        held = (self._from.get(_memory(value)) for value in values if isinstance(value, Tensor))
        return set().union(*(each for each in held if each))

    def _mark(self, value: Tensor, sources: set[Path]) -> None:
        self._alive.append(value)
        if sources:
            self._from.setdefault(_memory(value), set()).update(sources)


def _memory(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata) if value.layout == torch.strided else id(value)
