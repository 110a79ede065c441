"""Choices, such as those of a router: recorded in one run, handed on in another, and where they are near ties."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from parity.compare.capture import LOGITS, Endpoint

_CHOOSING = (torch.topk, torch.Tensor.topk)
_CLOSE = 2  # roundings by which scores may differ without deciding anything


@dataclass
class Choices:
    """What a run chose, in order, and which tokens it chose for by a margin that rounding may turn.

    tied: one mask for each choice, over the rows that it was made for. before: how many choices had been made when the
    run passed an endpoint.
    """

    indices: list[Tensor] = field(default_factory=list)
    tied: list[Tensor] = field(default_factory=list)
    before: dict[Endpoint, int] = field(default_factory=dict)

    def near_ties(self, rows: int, tokens: int, endpoint: Endpoint = LOGITS) -> Tensor | None:
        """`[B, T]`: tokens for which a choice made before `endpoint` is a near tie; None if none was for each token."""
        made = self.tied[: self.before.get(endpoint, len(self.tied))]
        own = [each.reshape(rows, tokens) for each in made if each.numel() == rows * tokens]
        return torch.stack(own).any(0) if own else None


class Recording(TorchFunctionMode):
    """Notes the choices of a run in low precision, and observes how many were made before each endpoint."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.choices = Choices()
        self._eps = torch.finfo(dtype).eps

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CHOOSING:
            with torch._C.DisableTorchFunction():
                count, dim = _asked(args, kwargs or {})
                self.choices.indices.append(result[1].clone())
                self.choices.tied.append(self._tied(args[0].movedim(dim, -1), count))
        return result

    def enter(self, module: str, number: int) -> None:
        """A module begins."""

    def leave(self) -> None:
        """The module that began last ends."""

    def passed(self, endpoint: Endpoint, tensors: Sequence[Tensor]) -> None:
        """The run passes an endpoint."""
        self.choices.before[endpoint] = len(self.choices.indices)

    def _tied(self, scores: Tensor, count: int) -> Tensor:
        """Where the last score that is chosen and the first that is not are as good as equal."""
        if count >= scores.shape[-1]:
            return torch.zeros(scores.shape[:-1], dtype=torch.bool)
        best = scores.double().topk(count + 1, dim=-1).values
        margin = best[..., -2] - best[..., -1]
        return margin <= _CLOSE * self._eps * best[..., -2].abs()


class Replaying(TorchFunctionMode):
    """Makes the choices that another run of the same code made."""

    def __init__(self, choices: Choices):
        super().__init__()
        self._left = list(choices.indices)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _CHOOSING or not self._left or self._left[0].shape != result[1].shape:
            return result
        with torch._C.DisableTorchFunction():
            chosen = self._left.pop(0)
            _, dim = _asked(args, kwargs or {})
            return type(result)((args[0].gather(dim, chosen), chosen))


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """How many are chosen, and along which axis."""
    count = args[1] if len(args) > 1 else kwargs["k"]
    return int(count), int(args[2] if len(args) > 2 else kwargs.get("dim", -1))
