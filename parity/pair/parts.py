"""Large weights used in parts: rows that are looked up, a head over slices of the vocabulary.

A weight as large as a vocabulary stays as it is stored. Whoever uses it gets what the lifted weight would give, and
only as much of it is lifted as an operation touches.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from parity.pair.lifting import finite
from parity.pair.port import quiet
from parity.pair.promote import precision

LARGE = 1 << 22  # elements from which a weight is used in parts
_LOOKUPS = {
    functional.embedding, torch.embedding, torch.index_select, Tensor.index_select, Tensor.__getitem__,
    torch.gather, Tensor.gather, torch.select, Tensor.select, torch.take_along_dim, Tensor.take_along_dim,
}  # fmt: skip
_VIEWS = {
    Tensor.t, torch.t, Tensor.transpose, torch.transpose, Tensor.permute, torch.permute, Tensor.detach, torch.detach,
    Tensor.view, Tensor.unsqueeze, torch.unsqueeze, Tensor.squeeze, torch.squeeze, Tensor.narrow, torch.narrow,
    Tensor.requires_grad_,
}  # fmt: skip
_CASTS = {Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.type, Tensor.type_as}
_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}


@dataclass(frozen=True)
class Stored:
    """A weight as it is stored, and the dtype that it has in a run."""

    name: str
    tensor: Tensor
    dtype: torch.dtype


class Register:
    """Weights that are used as they are stored, found by their memory, so that views of them are known too."""

    def __init__(self, weights: Iterable[Stored]):
        self._weights = sorted(weights, key=lambda weight: weight.tensor.data_ptr())
        self._starts = [weight.tensor.data_ptr() for weight in self._weights]
        self.not_finite: set[str] = set()
        self._room: Tensor | None = None

    def room(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for a part of a large weight, the same each time."""
        if self._room is None:
            self._room = torch.empty(LARGE, dtype=dtype, device=device)
        return self._room

    def find(self, value: Any) -> Stored | None:
        """The weight that a value lies in, None for anything else."""
        if not isinstance(value, Tensor) or value.device.type != "cpu":
            return None
        address = value.data_ptr()
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._starts[at] + self._weights[at].tensor.nbytes:
            return None
        return self._weights[at] if value.dtype == self._weights[at].tensor.dtype else None


@contextmanager
def running(promoted: bool, dtype: torch.dtype, device: torch.device, register: Register) -> Iterator[None]:
    """Run a model inside this: as in `precision`, with the weights of a register lifted as they are used."""
    parts = _Parts(promoted, dtype, device, register)
    place = nullcontext() if device.type == "cpu" else device  # where tensors are made if the code does not say
    with torch.no_grad(), place, quiet(), precision(promoted, parts):
        yield


class _Parts(TorchFunctionMode):
    """Lifts weights of a register as operations use them; of large ones no more than is used."""

    def __init__(self, promoted: bool, dtype: torch.dtype, device: torch.device, register: Register):
        super().__init__()
        self._promoted = promoted
        self._register = register
        self._device = device
        self._dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._functorch.peek_interpreter_stack() is not None:  # tensors there stand for others
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            found = [self._register.find(each) for each in (*args, *kwargs.values())]
            weight = next((each for each in found if each is not None), None)
            if weight is None and not any(type(each) in (list, tuple) for each in args):
                result = NotImplemented
            elif weight is None:
                args = tuple(self._lift(each) for each in args)
                result = NotImplemented
            else:
                result = self._used(func, args, kwargs, weight)
                if result is NotImplemented:
                    args = tuple(self._lift(each) for each in args)
                    kwargs = {name: self._lift(each) for name, each in kwargs.items()}
        return func(*args, **kwargs) if result is NotImplemented else result

    def _used(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], weight: Stored) -> Any:
        """What an operation gives on a weight as it is stored; NotImplemented if the weight has to be lifted."""
        fixed = {Tensor.dtype.__get__: weight.dtype, Tensor.device.__get__: self._device}  # type: ignore[attr-defined]
        if func in fixed:
            return fixed[func]
        if func in _CASTS and self._promoted and self._register.find(args[0]):
            return args[0]  # it stands for its promoted value already
        if func in _VIEWS or func in _LOOKUPS or _describes(func):
            return self._found(func, args, kwargs, weight)
        large = [each for each in (*args, *kwargs.values()) if self._register.find(each) and each.numel() >= LARGE]
        return self._product(func, args, kwargs, large[0], weight) if len(large) == 1 else NotImplemented

    def _found(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], weight: Stored) -> Any:
        """Another view of a weight, rows of a table looked up where it is stored, or what is asked about it."""

        def at_home(value: Any) -> Any:
            return value.cpu() if isinstance(value, Tensor) else value

        result = func(*map(at_home, args), **{name: at_home(each) for name, each in kwargs.items()})
        if not isinstance(result, Tensor) or self._register.find(result):
            return result
        return self._lifted(result, weight)

    def _product(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], large: Tensor, weight: Stored
    ) -> Any:
        """A value times a large matrix, a part of the result's features after another."""
        if func is functional.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs)
            value, rows, bias = given["input"], given["weight"], given.get("bias")
        elif func in _PRODUCTS and len(args) == 2:
            (value, columns), bias = args, None
            rows = columns.T if columns.ndim == 2 else columns
        else:
            return NotImplemented
        if rows.data_ptr() != large.data_ptr() or rows.ndim != 2:
            return NotImplemented
        if weight.dtype != self._dtype:
            return NotImplemented
        size, width = rows.shape
        room = self._register.room(self._dtype, self._device)
        result = torch.empty((*value.shape[:-1], size), dtype=weight.dtype, device=self._device)
        step = max(1, room.numel() // width)
        for start in range(0, size, step):
            part = rows[start : start + step]
            lifted = room[: part.numel()].view(part.shape).copy_(self._checked(part, weight))
            result[..., start : start + step] = value @ lifted.T
        return result if bias is None else result + self._lift(bias)

    def _lift(self, value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(map(self._lift, value))
        weight = self._register.find(value)
        return value if weight is None else self._lifted(value, weight)

    def _lifted(self, value: Tensor, weight: Stored) -> Tensor:
        return self._checked(value, weight).to(self._device, weight.dtype)

    def _checked(self, value: Tensor, weight: Stored) -> Tensor:
        if not finite(value):
            self._register.not_finite.add(weight.name)
        return value


def _describes(func: Callable[..., Any]) -> bool:
    """Whether a call asks about a tensor, rather than for what is in it."""
    name = getattr(func, "__name__", "")
    return name in ("__get__", "size", "dim", "stride", "numel", "element_size", "is_contiguous", "data_ptr", "__len__")
