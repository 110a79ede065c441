"""A port on a checkpoint of any size: built without memory for weights, which it holds as they are stored.

With WEIGHTS, parameters are the checkpoint's own mapped tensors. With `load_weights`, they are mapped temporary files
that any code can fill; what it stores in another order, or fused, it stores in the checkpoint's dtype.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from parity.errors import ParityError
from parity.names import template
from parity.pair import port as ports
from parity.pair.lifting import Streamed
from parity.pair.mapped import Mapped, hold, release, without_memory
from parity.pair.port import Port, quiet
from parity.pair.promote import precision
from parity.pair.streamed import once, some
from parity.pair.weights import MissingTensor

_Made = list[tuple[nn.Module, str]]  # parameters by owner and name, in the order in which they were made


@dataclass(frozen=True)
class Habits:
    """How the port loads, as the check on the small config saw it, by templates of names.

    untouched: parameters that keep their initial values. derived: parameters that are computed from tensors, rather
    than made of their numbers. held: parameter -> the tensors in it. dtypes: of parameters in a run in low precision.
    """

    untouched: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)


def port_on(
    port: Port,
    config: Mapping[str, Any],
    tensors: Mapped,
    promoted: bool,
    seed: int,
    habits: Habits,
    scratch: Path,
    spare: Container[str] = (),
) -> Streamed:
    """The port's model with a checkpoint in it.

    Args:
        port: imported for float64 if promoted.
        config: the checkpoint's, parsed.
        tensors: the checkpoint's.
        promoted: buffers and tables are computed in promoted float64.
        seed: of whatever the constructor draws.
        habits: how the port loads.
        scratch: a directory for temporary files as large as the checkpoint, for `load_weights`.
        spare: tensors that the reference has no use for, and that need no place.

    Raises:
        ParityError: the port cannot be built or loaded, or leaves a parameter without a tensor.
    """
    model = _built(port, config, promoted, seed, habits.untouched, scratch)
    sources: dict[str, str] = {}
    if port.load_weights is not None:
        _filled_by_code(port, model, tensors, promoted, habits, scratch)
        names = once(model, dict(model.named_parameters()))
    else:
        sources = _filled_by_templates(port, model, tensors, spare)
        _check_filled(port, model, sources, habits)
        names = once(model, {*dict(model.named_parameters()), *sources})
    dtypes = {name: habits.dtypes[template(name)] for name in names if template(name) in habits.dtypes}
    return Streamed(model.eval(), names, {}, dtypes, sources)


def _filled_by_templates(port: Port, model: nn.Module, tensors: Mapped, spare: Container[str]) -> dict[str, str]:
    """Put the checkpoint's own tensors where WEIGHTS says; returns which is where."""
    places = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    sources = {
        target: name
        for name, target in ports.placed(port, tensors)
        if target is not None and (target in places or name not in spare)
    }
    values = {target: tensors[name] for target, name in sources.items()}
    for target, value in values.items():
        ports.fitting(port, sources[target], value.shape, target, places)
    hold(model, values)
    return sources


def _check_filled(port: Port, model: nn.Module, sources: Mapping[str, str], habits: Habits) -> None:
    """Every parameter has a tensor, but for those that never get one."""
    every = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(every[name]) for name in sources if name in every}
    empty = [name for name, each in every.items() if id(each) not in filled and template(name) not in habits.untouched]
    if empty:
        raise ParityError(
            f"{port.name}: no tensor of the checkpoint goes to {some(empty)}",
            "Compare its names in the checkpoint with those in WEIGHTS.",
        )


def _built(
    port: Port, config: Mapping[str, Any], promoted: bool, seed: int, untouched: frozenset[str], scratch: Path
) -> nn.Module:
    """The model as its constructor leaves it, parameters without memory but for those that keep their first values.

    A constructor that looks into its parameters gets real ones, in mapped files.
    """

    def build(place: AbstractContextManager[_Made]) -> tuple[nn.Module, _Made]:
        torch.manual_seed(seed)
        with place as made, precision(promoted), quiet():
            return ports.made(port, config), made

    try:
        model, made = build(without_memory())
        if untouched:
            prefixes = {id(module): name for name, module in model.named_modules()}
            names = [f"{prefixes.get(id(owner), '')}.{leaf}".removeprefix(".") for owner, leaf in made]
            kept = frozenset(at for at, name in enumerate(names) if template(name) in untouched)
            model, _ = build(without_memory(kept))
    except ports.DoesNotFit:
        model, _ = build(_Files(scratch).keeping())
    for owner in model.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None and buffer.is_floating_point() and not buffer.is_meta:
                owner._buffers[name] = buffer.double() if promoted else buffer.float()
    return model


class _Lent(Mapping[str, Tensor]):
    """A checkpoint as a loader sees it, its tensors as they are stored or in another dtype."""

    def __init__(self, tensors: Mapped, files: "_Files", dtype: torch.dtype | None):
        self._tensors = tensors
        self._files = files
        self._dtype = dtype
        self._memory: dict[str, range] = {}

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of the checkpoint's, or a part or view of one."""
        return any(tensor.data_ptr() in memory for memory in self._memory.values())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise MissingTensor(name)
        tensor = self._tensors[name]
        if self._dtype is not None and tensor.is_floating_point():
            with torch._C.DisableTorchFunction():
                return self._files.empty(tensor.shape, self._dtype).copy_(tensor)
        self._memory[name] = range(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._tensors))

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


def _filled_by_code(
    port: Port, model: nn.Module, tensors: Mapped, promoted: bool, habits: Habits, scratch: Path
) -> None:
    """Let the port's own loader fill parameters that are mapped files.

    A loader that computes with tensors gets them in float64, so that what it stores keeps its digits.
    """
    files = _Files(scratch)
    main = _main_dtype(tensors)
    exact = promoted and bool(habits.derived)
    bare = {name: parameter for name, parameter in model.named_parameters() if parameter.is_meta}
    stored = {template(name): tensors[name].dtype for name in tensors} if habits.held else {}

    def dtype_of(name: str) -> torch.dtype:
        dtypes = [stored[each] for each in habits.held.get(template(name), ()) if each in stored]
        return torch.float64 if exact else reduce(torch.promote_types, dtypes) if dtypes else main

    def load(lent: _Lent) -> None:
        with torch.no_grad(), precision(exact), quiet(), files.keeping(lent):
            ports.load(port, model, lent)

    hold(model, {name: files.empty(parameter.shape, dtype_of(name)) for name, parameter in bare.items()})
    try:
        load(_Lent(tensors, files, torch.float64 if exact else None))
    except ports.DoesNotFit:
        if exact or main == torch.float32:
            raise
        load(_Lent(tensors, files, torch.float32))  # numpy, for one, has no bfloat16


def _main_dtype(tensors: Mapped) -> torch.dtype:
    """What most floating tensors are stored as."""
    found = Counter(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    return found.most_common(1)[0][0] if found else torch.float32


class _Files:
    """Tensors whose memory is a temporary file, so that the system may write it out."""

    def __init__(self, folder: Path):
        self._folder = folder

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A tensor of zeros."""
        count = shape.numel()
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        try:
            handle, name = tempfile.mkstemp(dir=self._folder)
            try:
                os.posix_fallocate(handle, 0, count * dtype.itemsize)
            finally:
                os.close(handle)
        except OSError as error:
            raise ParityError(
                f"no room for the port's weights in {self._folder}: {error.strerror}",
                "Free some space, set TMPDIR to a larger disk, or use WEIGHTS, which needs none.",
            ) from error
        with torch._C.DisableTorchFunction():
            made = torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
        with suppress(OSError):  # where a mapped file cannot be removed, the directory is, later
            Path(name).unlink()
        return made

    @contextmanager
    def keeping(self, lent: _Lent | None = None) -> Iterator[_Made]:
        """Parameters that are made meanwhile are moved to files, unless they are the checkpoint's own tensors."""
        register = nn.Module.register_parameter

        def to_file(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            register(module, name, parameter)
            if parameter is None or parameter.is_meta or parameter.numel() < _WORTH_A_FILE:
                return
            with torch._C.DisableTorchFunction():
                if lent is not None and lent.owns(parameter):
                    return
                moved = self.empty(parameter.shape, parameter.dtype).copy_(parameter.detach())
                module._parameters[name] = nn.Parameter(moved, requires_grad=False)
            release()  # of the parameter before

        with mock.patch.object(nn.Module, "register_parameter", to_file):
            yield []


_WORTH_A_FILE = 1 << 16  # elements
