"""Witnesses: which of the reference's values a port computes somewhere, as a module or not.

A port need not have a module for each of the reference's. Every result of every torch operation of the port is
watched, and a value of the reference counts as witnessed if one of them equals it up to the order of its elements.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from parity.compare.capture import Endpoint, Trace
from parity.records import PROMOTED_NOISE

_FEWEST = 8  # elements; smaller values agree by chance


def in_transform() -> bool:
    """Whether `vmap`, `grad` or the like are at work: the tensors there stand for others, and cannot be looked into."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class Watcher(TorchFunctionMode):
    """Keeps size and moments of every floating result while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, list[tuple[float, float, float]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if in_transform():
            return result
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() >= _FEWEST:
                with torch._C.DisableTorchFunction():
                    self._seen.setdefault(value.numel(), []).append(_moments(value))
        return result

    def saw(self, value: Tensor) -> bool:
        """Whether a result had these elements, in whatever order and shape."""
        wanted = _moments(value)
        return any(
            all(abs(a - b) <= PROMOTED_NOISE * max(1.0, abs(b)) for a, b in zip(seen, wanted, strict=True))
            for seen in self._seen.get(value.numel(), ())
        )


def _moments(value: Tensor) -> tuple[float, float, float]:
    """Norm, and the first and third moments at unit norm: unchanged by order. Detached, of any shape."""
    flat = value.detach().double().reshape(-1)
    norm = torch.linalg.vector_norm(flat)
    unit = flat / norm.clamp_min(1e-300)
    return float(norm), float(unit.sum()), float(unit.pow(3).sum())


def witnessed(watcher: Watcher, reference: Trace, endpoints: Iterable[Endpoint]) -> frozenset[Endpoint]:
    """Of some endpoints of the reference, those whose (main) value the port computed."""
    found = set()
    for endpoint in endpoints:
        value = reference.at(endpoint)
        if value and value[0].is_floating_point() and any(map(watcher.saw, _forms(value[0]))):
            found.add(endpoint)
    return frozenset(found)


def _forms(value: Tensor) -> tuple[Tensor, ...]:
    """The whole of a value, its first row, its last position: a port may take rows or tokens one by one."""
    return (value, value[0], value[:, -1]) if value.ndim > 2 else (value,)
