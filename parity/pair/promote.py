"""Promotion: run code written for float32 in float64, explicit casts included.

Rounding shrinks by nine orders of magnitude in float64 and a bug does not shrink at all, so a verdict needs no
tolerance. `model.double()` alone is not enough: norms, rope and softmax cast to float32 by name. A
`TorchFunctionMode` lifts each such cast, while the model is built and while it runs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy
import torch
from torch.overrides import TorchFunctionMode

_LIFTED = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_CASTS = {
    torch.Tensor.float: torch.Tensor.double,
    torch.Tensor.half: torch.Tensor.double,
    torch.Tensor.bfloat16: torch.Tensor.double,
    torch.Tensor.cfloat: torch.Tensor.cdouble,  # type: ignore[attr-defined]
}

_REINTERPRETING = (torch.Tensor.view, torch.frombuffer)  # a dtype given to these says how to read bits


def _lift_argument(value: Any) -> Any:
    return _LIFTED.get(value, value) if isinstance(value, torch.dtype) else value


def _lift_result(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        lifted = _LIFTED.get(value.dtype)
        return value if lifted is None else value.to(lifted)
    if type(value) in (tuple, list):
        return type(value)(_lift_result(item) for item in value)
    return value


def lifted(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A call of torch as it is made in double precision."""
    func = _CASTS.get(func, func)
    if not any(type(value) is torch.dtype for value in (*args, *kwargs.values())) or func in _REINTERPRETING:
        return func, args, dict(kwargs)
    keywords = {name: _lift_argument(value) for name, value in kwargs.items()}
    return func, tuple(_lift_argument(value) for value in args), keywords


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def double() -> AbstractContextManager[None]:
    """Call what was lifted before, without looking at every call again."""
    return _default_dtype(torch.float64)


class _Promotion(TorchFunctionMode):
    """Lifts every low-precision dtype argument and result to double precision."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = lifted(func, args, kwargs or {})
        return _lift_result(func(*args, **kwargs))


@contextmanager
def precision(promoted: bool, watch: AbstractContextManager[object] | None = None) -> Iterator[None]:
    """Build and run models inside this: in promoted float64, or plainly in float32.

    numpy's name for float32 stands for float64 meanwhile, because tables computed with it are casts too. `watch` is
    entered inside, where it sees what the author's code calls and what comes out of it after promotion.
    """
    with _default_dtype(torch.float64 if promoted else torch.float32):
        if promoted:
            with _Promotion(), mock.patch.object(numpy, "float32", numpy.float64), watch or nullcontext():
                yield
        else:
            with watch or nullcontext():
                yield
