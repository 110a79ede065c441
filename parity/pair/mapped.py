"""Weights that take no memory: a checkpoint's tensors mapped from their files, and models that hold them as such."""

import ctypes
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.errors import ParityError
from parity.pair.lifting import place_of
from parity.pair.safetensors_header import Entry

_UNINITIALISED = 1 << 26  # elements from which memory is not even asked for
_RANDOM = 1 << 14  # no table is made of as many random numbers
_FILLED = {torch.empty: _UNINITIALISED, torch.randn: _RANDOM, torch.rand: _RANDOM}


class Mapped(Mapping[str, Tensor]):
    """A checkpoint's tensors as they are stored, mapped from their files; a name always gives the same memory.

    `names` are what its users call the tensors, and what the files call them.
    """

    def __init__(self, files: Mapping[str, Path], names: Mapping[str, str] | None = None):
        self._names = {name: name for name in files} if names is None else dict(names)
        self._files = files
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        stored = self._names[name]
        path = self._files[stored]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            with torch._C.DisableTorchFunction():  # reading bytes is not a cast to promote
                tensor: Tensor = self._open[path].get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise ParityError(f"{path} cannot be read: {error}", "Download or copy it again.") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def described(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Tensors of the shapes and dtypes of a checkpoint's, without any content."""
    return {name: torch.empty(entry.shape, dtype=entry.dtype, device="meta") for name, entry in entries.items()}


class _NoLargeMemory(TorchFunctionMode):
    """Tensors that can only be weights, by their size and by what is in them, are made without memory."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FILLED and kwargs.get("device") is None and _elements(args, kwargs) >= _FILLED[func]:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _elements(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    sizes = kwargs.get("size", args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
    total = 1
    for size in sizes if isinstance(sizes, tuple | list) else ():
        total *= int(size)
    return total


@contextmanager
def without_memory(kept: Container[int] = ()) -> Iterator[list[tuple[nn.Module, str]]]:
    """Build a model whose parameters take no memory, while its buffers and tables are computed as ever.

    Gives a list that grows by the owner and the name of each parameter as it is made.

    Args:
        kept: which parameters to leave as they are, counted in the order in which they are made.
    """
    register = nn.Module.register_parameter
    made: list[tuple[nn.Module, str]] = []

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is None:
            return
        if not parameter.is_meta and len(made) not in kept:  # one that is tied stays the same object
            with torch._C.DisableTorchFunction():
                bare = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            bare.__dict__.update(parameter.__dict__)
            module._parameters[name] = bare
        made.append((module, name))

    with _NoLargeMemory(), mock.patch.object(nn.Module, "register_parameter", on_meta):
        yield made


def hold(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors where a model's parameters and buffers of these names are, as they are and without a copy.

    A parameter that gets nothing and is tied to one that does becomes that one.
    """
    places = dict(model.named_parameters(remove_duplicate=False))
    held: dict[int, nn.Parameter] = {}
    for name, value in values.items():
        owner, leaf = place_of(model, name)
        if name in places:
            parameter = nn.Parameter(value, requires_grad=False)
            held.setdefault(id(places[name]), parameter)
            owner._parameters[leaf] = parameter
        else:
            owner._buffers[leaf] = value
    for name, bare in places.items():
        if name not in values and id(bare) in held:
            owner, leaf = place_of(model, name)
            owner._parameters[leaf] = held[id(bare)]


def release() -> None:
    """Give memory that was freed back to the system, where the C library keeps it and can be asked not to."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
