"""The trace: a model built, loaded and run while every torch operation is written down with its value and its source.

A tape can be played again with changes: only what depends on a change is computed anew, so that a changed reference
costs as much as the operations that the change reaches.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import TreeSpec, tree_flatten

from parity.compare.capture import Endpoint
from parity.compare.witness import in_transform
from parity.pair.promote import lifted

_TORCH = str(Path(torch.__file__).parent)
_PARITY = str(Path(__file__).parent.parent)
_FROM_NUMPY = torch.from_numpy
_VACANT = ("empty", "zeros", "empty_strided")
_LEAVING = ("numpy", "__array__", "tolist")
_MOST_BYTES = 3 << 29  # of values kept; the run of a full-size model is larger, that of a small config much smaller


Span = tuple[tuple[int, ...], tuple[int, ...], int]  # a part of a tensor: its shape, strides and first element


class TooLarge(Exception):
    """A run holds more values than may be kept."""


class Ref(NamedTuple):
    """The value that a step gave, by number; part tells several results of one step apart."""

    step: int
    part: int = 0


class Frame(NamedTuple):
    """One Python frame under which an operation ran. instance and site tell one call of a function from the next."""

    code: CodeType
    line: int
    instance: int
    site: int
    at: int

    @property
    def span(self) -> tuple[int, int, int, int]:
        """First and last line, first and last column, of the expression that was being worked out; zeros if unknown."""
        positions = next(islice(self.code.co_positions(), self.at // 2, None), (None,) * 4)
        first, last, start, end = (value or 0 for value in positions)
        return first, last, start, end

    @property
    def file(self) -> str:
        """The file of the code."""
        return self.code.co_filename


@dataclass(frozen=True)
class Step:
    """One operation: what was called, on what (`Ref` in place of tensors), what it gave, where it was written.

    A step without a function is a leaf, a tensor that no recorded operation made, or `unseen`, one that came back from
    numpy or the like. modules are the modules that were running, innermost first, each with the number of its call.
    scope: what names stood for where a number was given.
    """

    number: int
    name: str
    function: Callable[..., Any] | None
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    values: tuple[Tensor, ...]
    spec: TreeSpec | None
    frames: tuple[Frame, ...]
    modules: tuple[tuple[str, int], ...]
    label: str = ""
    scope: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """The values it took."""
        found: list[Ref] = []

        def note(value: Any) -> None:
            if isinstance(value, Ref):
                found.append(value)

        for value in (*self.arguments, *self.keywords.values()):
            each_value(note, value)
        return tuple(found)

    @cached_property
    def refs(self) -> tuple[Ref, ...]:
        """The values it gave."""
        return tuple(Ref(self.number, part) for part in range(len(self.values)))

    @property
    def module(self) -> str:
        """The innermost module that was running, "" outside any."""
        return self.modules[0][0] if self.modules else ""


@dataclass(frozen=True)
class Tape:
    """All steps of one run, the values that stood at its endpoints, and from where modules were called."""

    steps: tuple[Step, ...]
    marks: Mapping[Endpoint, tuple[Ref | None, ...]]
    logits: Ref | None
    called: Mapping[tuple[str, int], tuple[Frame, ...]] = field(default_factory=dict)

    def value(self, ref: Ref) -> Tensor:
        """What a step gave."""
        return self.steps[ref.step].values[ref.part]

    def at(self, endpoint: Endpoint, part: int = 0) -> Ref | None:
        """The value at an endpoint, None if it was not recorded."""
        refs = self.marks.get(endpoint, ())
        return refs[part] if part < len(refs) else None

    def renumbered(self, numbers: Mapping[tuple[str, int], int]) -> "Tape":
        """The tape with other numbers for some calls: module and number -> new number."""
        if not numbers:
            return self

        def call(old: tuple[str, int]) -> tuple[str, int]:
            return old[0], numbers.get(old, old[1])

        steps = tuple(replace(step, modules=tuple(map(call, step.modules))) for step in self.steps)
        marks = {Endpoint(*call(end[:2]), end.kind): refs for end, refs in self.marks.items()}
        return Tape(steps, marks, self.logits, {call(old): frames for old, frames in self.called.items()})


@dataclass
class Recorder:
    """What a run writes while it goes."""

    names: dict[int, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    known: dict[int, tuple[Ref, int]] = field(default_factory=dict)
    alive: list[object] = field(default_factory=list)
    frames: dict[int, FrameType] = field(default_factory=dict)
    changed: dict[int, tuple[Ref, int]] = field(default_factory=dict)
    open: list[tuple[str, int]] = field(default_factory=list)
    bytes: int = 0
    here: tuple[Frame, ...] = ()
    escaped: list[tuple[int, Ref]] = field(default_factory=list)
    unseen: bool = False
    writes: dict[int, int] = field(default_factory=dict)
    spans: dict[int, Span] = field(default_factory=dict)

    def version(self, tensor: Tensor) -> int:
        """How often a tensor was written into; torch does not count for tensors of inference mode."""
        if tensor.is_inference():
            return self.writes.get(tensor.untyped_storage().data_ptr(), 0)
        return tensor._version

    def escape(self, tensor: Tensor) -> None:
        """A value leaves torch, for numpy or a list; what comes back is made of it in a way that is not seen."""
        self.escaped.append((self.here[0].instance, self.ref(tensor)))
        self.unseen = True

    def returned(self, tensor: Tensor, frames: tuple[Frame, ...]) -> Ref:
        """A value comes back into torch, made of those that left it in the same function, if any did there."""
        self.unseen = False
        instances = {frame.instance for frame in frames}
        made_of = tuple(ref for instance, ref in self.escaped if instance in instances)
        return self.add("unseen", None, made_of, {}, (tensor,), None, frames)

    def ref(self, tensor: Tensor) -> Ref:
        """The step that made a tensor; a leaf is added for one that nothing made, or that was written into."""
        found = self.known.get(id(tensor))
        version = self.version(tensor)
        if found is not None and found[1] == version:
            return found[0]
        label = self.names.get(id(tensor), "")
        if found is None:
            if self.unseen and not label and self.here and tensor.numel() > 1:
                return self.returned(tensor, self.here)
            return self.add("leaf", None, (), {}, (tensor,), None, (), label)
        by, last = self.changed.get(tensor.untyped_storage().data_ptr(), (Ref(0), -1))
        if version != last:  # written by nobody who was watched, such as a loader of Parity's
            return self.add("leaf", None, (), {}, (tensor,), None, (), label)
        within = self._within(tensor)
        return self.add("written", None, (found[0], by), within, (tensor,), None, self.steps[by.step].frames, label)

    def _within(self, tensor: Tensor) -> dict[str, Span]:
        """Which part of a tensor was written into last, if it was a part and the tensor has no gaps."""
        size, stride, offset = self.spans[tensor.untyped_storage().data_ptr()]
        if size == tuple(tensor.shape) or not tensor.is_contiguous():
            return {}
        return {"span": (size, stride, offset - int(tensor.storage_offset()))}

    def add(
        self,
        name: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...],
        keywords: Mapping[str, Any],
        results: Sequence[Tensor],
        spec: TreeSpec | None,
        frames: tuple[Frame, ...],
        label: str = "",
        scope: Mapping[str, Any] | None = None,
    ) -> Ref:
        """Write one step down; its results are known from here on."""
        number = len(self.steps)
        values = tuple(result.detach().clone() for result in results)
        self.bytes += sum(value.numel() * value.element_size() for value in values)
        if self.bytes > _MOST_BYTES:
            raise TooLarge
        modules = tuple(reversed(self.open))
        self.steps.append(
            Step(number, name, function, arguments, keywords, values, spec, frames, modules, label, scope or {})
        )
        for part, result in enumerate(results):
            self.known[id(result)] = Ref(number, part), self.version(result)
            self.alive.append(result)  # or its identity would recur
        return Ref(number)


class _Tracer(TorchFunctionMode):
    def __init__(self, recorder: Recorder, promoted: bool):
        super().__init__()
        self.recorder = recorder
        self.promoted = promoted

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        frames = _frames(sys._getframe(1), self.recorder.frames)
        if not frames:
            return func(*args, **kwargs)
        if in_transform():
            self.recorder.unseen = True
            return func(*args, **kwargs)
        self.recorder.here = frames
        scope = _scope(sys._getframe(1), args, kwargs)
        with torch._C.DisableTorchFunction():
            arguments, keywords = each_value(self._referred, args), each_value(self._referred, kwargs)
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            self._write(func, args, kwargs, arguments, keywords, result, frames, scope)
        return result

    def __enter__(self) -> "_Tracer":
        self._patch = mock.patch.object(torch, "from_numpy", self._from_numpy)
        self._patch.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._patch.stop()

    def _from_numpy(self, array: Any) -> Tensor:
        """What torch tells modes nothing of."""
        result = _FROM_NUMPY(array)
        frames = _frames(sys._getframe(1), self.recorder.frames)
        if frames and result.numel() > 1:
            with torch._C.DisableTorchFunction():
                self.recorder.returned(result, frames)
        return result

    def _referred(self, value: Any) -> Any:
        return self.recorder.ref(value) if isinstance(value, Tensor) else value

    def _write(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        arguments: tuple[Any, ...],
        keywords: Mapping[str, Any],
        result: Any,
        frames: tuple[Frame, ...],
        scope: Mapping[str, Any],
    ) -> None:
        name = (resolve_name(func) or getattr(func, "__name__", "")).removeprefix("torch.").removeprefix("Tensor.")
        written = written_into(name, args, kwargs)
        if written is not None:
            result = written
        elif name in _LEAVING and args[0].numel() > 1:
            self.recorder.escape(args[0])
        elif any(result is given for given in args):
            return  # a cast to the type it has, say: no value was made
        leaves, spec = tree_flatten(result)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors or len(tensors) < len(leaves):
            return
        if name.removeprefix("new_").removesuffix("_like") in _VACANT:  # room for values, none that could be wrong
            self.recorder.add("leaf", None, (), {}, tensors, spec, frames)
            return
        if written is not None:
            storage = written.untyped_storage().data_ptr()
            self.recorder.writes[storage] = self.recorder.writes.get(storage, 0) + 1
        call = func
        if self.promoted:  # a tape is played without the promoting mode
            call, arguments, keywords = lifted(func, arguments, keywords)
        ref = self.recorder.add(name, call, arguments, keywords, tensors, spec, frames, scope=scope)
        if written is not None:
            self.recorder.changed[storage] = ref, self.recorder.version(written)
            span = tuple(written.shape), tuple(written.stride()), int(written.storage_offset())
            self.recorder.spans[storage] = span


def written_into(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that an operation changes in place."""
    last = name.rpartition(".")[2]
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]  # type: ignore[no-any-return]
    in_place = last == "__setitem__" or last.startswith("__i") or (last.endswith("_") and not last.endswith("__"))
    not_in_place = last in ("__invert__", "__index__", "__int__")
    return args[0] if in_place and not not_in_place and args and isinstance(args[0], Tensor) else None


def _scope(frame: FrameType | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The names where an operation was written, if it was given a number."""
    given = (*args, *kwargs.values())
    inside = [value for each in given if isinstance(each, tuple | list) for value in each]
    numbers = [value for value in (*given, *inside) if isinstance(value, int | float) and not isinstance(value, bool)]
    sliced = any(isinstance(value, slice) for each in given if isinstance(each, tuple) for value in each)
    if not numbers and not sliced and not any(isinstance(value, Tensor) and value.numel() == 1 for value in given):
        return {}
    caller = _caller(frame)
    return dict(caller.f_locals) if caller is not None else {}


def _frames(frame: FrameType | None, alive: dict[int, FrameType]) -> tuple[Frame, ...]:
    """The frames of an author's code, innermost first; none where Parity itself called the operation.

    They are kept in `alive`, or the identity of one would recur in a later one.
    """
    found = []
    caller = frame
    while caller is not None:
        file = caller.f_code.co_filename
        if file.startswith(_PARITY):
            break
        if not file.startswith((_TORCH, "<frozen")):
            alive[id(caller)] = caller
            parent = caller.f_back
            site = parent.f_lasti if parent is not None else 0
            found.append(Frame(caller.f_code, caller.f_lineno, id(caller), site, caller.f_lasti))
        caller = caller.f_back
    return tuple(found)


def _caller(frame: FrameType | None) -> FrameType | None:
    """Past the frames of Parity and torch: where an author's code called a module."""
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _PARITY)):
        frame = frame.f_back
    return frame


class Session:
    """One model being traced: built, loaded and run, in turn; in promoted float64 or as it is."""

    def __init__(self, promoted: bool = True) -> None:
        self.recorder = Recorder()
        self.marks: dict[Endpoint, tuple[Ref | None, ...]] = {}
        self.called: dict[tuple[str, int], tuple[Frame, ...]] = {}
        self.asked: dict[str, list[tuple[Frame, ...]]] = {}
        self.mode = _Tracer(self.recorder, promoted)

    def ask(self, tensor: str) -> None:
        """A loader asks for a tensor of the checkpoint."""
        frames = _frames(_caller(sys._getframe(1)), self.recorder.frames)
        if frames:
            self.asked.setdefault(tensor, []).append(frames)

    def name(self, model: nn.Module) -> None:
        """Tell which tensors are a model's parameters and buffers."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.recorder.names[id(tensor)] = name

    def written(self, model: nn.Module) -> dict[str, Ref]:
        """The step that last wrote into each parameter, or made it."""
        known = self.recorder.known
        found = {}
        for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
            storage = tensor.untyped_storage().data_ptr()
            ref = self.recorder.changed.get(storage, known.get(id(tensor)))
            if ref is not None:
                found[name] = ref[0]
        return found

    def enter(self, module: str, number: int) -> None:
        """A module begins."""
        self.recorder.open.append((module, number))
        self.called[module, number] = _frames(_caller(sys._getframe(1)), self.recorder.frames)

    def leave(self) -> None:
        """The module that began last ends."""
        self.recorder.open.pop()

    def passed(self, endpoint: Endpoint, tensors: Iterable[Tensor]) -> None:
        """The run passes an endpoint with these tensors."""
        with torch._C.DisableTorchFunction():
            self.marks[endpoint] = tuple(self.recorder.ref(tensor) for tensor in tensors)

    def tape(self, logits: Tensor) -> Tape:
        """What was recorded."""
        with torch._C.DisableTorchFunction():
            last = self.recorder.ref(logits)
        return Tape(tuple(self.recorder.steps), self.marks, last, self.called)


def each_value(change: Callable[[Any], Any], value: Any) -> Any:
    """A change made to every value in tuples, lists and dicts."""
    if type(value) in (tuple, list):
        return type(value)(each_value(change, item) for item in value)
    if type(value) is dict:
        return {name: each_value(change, item) for name, item in value.items()}
    return change(value)
