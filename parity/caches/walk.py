"""The tensors that a port's cache holds, whatever objects, lists and tuples it is made of, and the way to each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

_NO_HOLDERS = (str, bytes, int, float, type, torch.dtype, torch.device, BuiltinFunctionType, FunctionType, MethodType)


@dataclass(frozen=True)
class Path:
    """Steps from a cache to one of its tensors: (how, name or number)."""

    steps: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return ".".join(str(name) for _, name in self.steps)

    def get(self, cache: object) -> Tensor | None:
        """The tensor that stands there now, if one does."""
        found: Any = cache
        for how, name in self.steps:
            try:
                found = getattr(found, name) if how == "attribute" else found[name]
            except (AttributeError, KeyError, IndexError, TypeError):
                return None
        return found if isinstance(found, Tensor) else None


def tensors(cache: object, model: nn.Module) -> dict[Path, Tensor]:
    """All floating tensors of a cache, each under the first way to it; the model's own do not count."""
    own = {id(each) for each in (*model.modules(), *model.parameters(), *model.buffers())}
    found = {path: value for path, value in _walk(cache, (), own) if value.is_floating_point()}
    return _apart(found)


def _walk(value: object, steps: tuple[tuple[str, Any], ...], seen: set[int]) -> Iterator[tuple[Path, Tensor]]:
    if value is None or isinstance(value, _NO_HOLDERS) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield Path(steps), value
        return
    inner: Iterator[tuple[tuple[str, Any], Any]]
    if isinstance(value, Mapping):
        inner = ((("item", key), each) for key, each in list(value.items()))
    elif isinstance(value, Sequence):
        inner = ((("item", at), each) for at, each in enumerate(list(value)))
    else:
        inner = ((("attribute", name), each) for name, each in _attributes(value))
    for step, each in inner:
        yield from _walk(each, (*steps, step), seen)


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    slots = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)}
    for name in (*getattr(value, "__dict__", {}), *sorted(slots)):
        if hasattr(value, name):
            yield name, getattr(value, name)


def _apart(found: dict[Path, Tensor]) -> dict[Path, Tensor]:
    """Without tensors that lie, even in part, where a larger one lies: what is written once is rounded once."""
    taken: dict[int, Tensor] = {}
    kept = set()
    for path, value in sorted(found.items(), key=lambda each: -each[1].numel()):
        storage = value.untyped_storage()
        room = len(storage) // max(1, value.element_size())
        mark = taken.setdefault(storage.data_ptr(), torch.zeros(room, dtype=torch.bool))
        view = mark.as_strided(value.shape, value.stride(), value.storage_offset())
        if not bool(view.any()):
            view.fill_(True)
            kept.add(path)
    return {path: value for path, value in found.items() if path in kept}
