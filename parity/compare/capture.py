"""Capture: what goes into and comes out of every module call, and handing on other values in its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from parity.records import Kind

_KINDS: tuple[Kind, Kind] = ("input", "output")


class Endpoint(NamedTuple):
    """One side of one call of one module."""

    module: str
    number: int
    kind: Kind


LOGITS = Endpoint("", 0, "output")


@dataclass(frozen=True)
class Call:
    """One call of a module: its tensors, copied, and when it began and ended in the run's own count of events.

    inputs holds the main input alone (the first floating tensor, else the first tensor); label is a string argument if
    one was given, which tells repeated calls of one module apart.
    """

    module: str
    number: int
    label: str
    began: int
    ended: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def tensors(self, kind: Kind) -> tuple[Tensor, ...]:
        """What the call took or gave."""
        return self.inputs if kind == "input" else self.outputs


@dataclass(frozen=True)
class Trace:
    """One run of one model: its calls by module name and number, and the logits it returned."""

    calls: Mapping[str, tuple[Call, ...]]
    logits: Tensor

    def at(self, endpoint: Endpoint) -> tuple[Tensor, ...] | None:
        """The tensors at an endpoint, None if that call did not happen."""
        calls = self.calls.get(endpoint.module, ())
        return calls[endpoint.number].tensors(endpoint.kind) if endpoint.number < len(calls) else None

    def event(self, endpoint: Endpoint) -> float:
        """When the run passed an endpoint, in its own count of events; the logits come last."""
        if endpoint == LOGITS:
            return float("inf")
        call = self.calls[endpoint.module][endpoint.number]
        return call.began if endpoint.kind == "input" else call.ended

    def endpoints(self) -> list[Endpoint]:
        """Both ends of every call, in the order in which the run passed them."""
        found = [
            Endpoint(call.module, call.number, kind)
            for calls in self.calls.values()
            for call in calls
            for kind in _KINDS
        ]
        return sorted(found, key=self.event)


def settled(trace: Trace) -> Trace:
    """The trace with repeated calls of one module in the order of their labels, where these tell them apart.

    A reference may go through a set of layer types, whose order changes from one process to the next.
    """
    return Trace({name: _by_label(calls) for name, calls in trace.calls.items()}, trace.logits)


def renumbered(trace: Trace) -> dict[tuple[str, int], int]:
    """The numbers that `settled` gives to calls that it puts in another order: module and number -> new number."""
    found: dict[tuple[str, int], int] = {}
    for name, calls in trace.calls.items():
        after = {call.label: call.number for call in _by_label(calls)}
        if len(after) == len(calls):
            moved = {call.number: after[call.label] for call in calls if after[call.label] != call.number}
            found |= {(name, old): new for old, new in moved.items()}
    return found


def _by_label(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    labels = {call.label for call in calls}
    if len(calls) == 1 or len(labels) < len(calls) or "" in labels:
        return calls
    ordered = sorted(calls, key=lambda call: call.label)
    return tuple(
        replace(call, number=slot.number, began=slot.began, ended=slot.ended)
        for call, slot in zip(ordered, calls, strict=True)
    )


Substitute = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Observer(Protocol):
    """Somebody who is told as a run goes into and out of modules, with the very tensors."""

    def enter(self, module: str, number: int) -> None:
        """A module begins."""

    def leave(self) -> None:
        """The module that began last ends."""

    def passed(self, endpoint: Endpoint, tensors: Sequence[Tensor]) -> Tensor | None:
        """The run passes an endpoint with these tensors, before they are substituted.

        Of an input, the same value may be given back as another tensor, which the module then takes in its place.
        """


class _Recorder:
    """Hooks of one run. Inner calls end before outer ones, so open calls form a stack."""

    def __init__(self, substitutes: Mapping[Endpoint, Substitute], observer: Observer | None):
        self.substitutes = substitutes
        self.observer = observer
        self.calls: dict[str, list[Call]] = {}
        self._open: list[tuple[str, int, int, tuple[Tensor, ...], str]] = []
        self._counts: dict[str, int] = {}
        self._events = 0

    def _tick(self) -> int:
        self._events += 1
        return self._events

    def enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        number = self._counts.get(name, 0)
        self._counts[name] = number + 1
        leaves, _ = tree_flatten((args, kwargs))
        main = _main_tensor(leaves)
        taken = () if main is None else (_copy(leaves[main]),)
        label = next((leaf for leaf in leaves if isinstance(leaf, str)), "")
        self._open.append((name, number, self._tick(), taken, label))
        alias = None
        if self.observer is not None:
            alias = self.observer.passed(Endpoint(name, number, "input"), () if main is None else (leaves[main],))
            self.observer.enter(name, number)
        substitute = self.substitutes.get(Endpoint(name, number, "input"))
        if main is None or (substitute is None and alias is None):
            return None
        return with_leaves(args, kwargs, {main: alias if substitute is None else substitute(taken)[0]})

    def leave(self, output: Any) -> Any:
        name, number, began, taken, label = self._open.pop()
        leaves, spec = tree_flatten(output)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        given = tuple(_copy(leaves[place]) for place in places)
        call = Call(name, number, label, began, self._tick(), taken, given)
        self.calls.setdefault(name, []).append(call)
        if self.observer is not None:
            self.observer.leave()
            self.observer.passed(Endpoint(name, number, "output"), [leaves[place] for place in places])
        substitute = self.substitutes.get(Endpoint(name, number, "output"))
        if substitute is None or not places:
            return None
        for place, value in zip(places, substitute(given), strict=True):
            leaves[place] = value
        return tree_unflatten(leaves, spec)


def run(
    model: nn.Module,
    forward: Callable[[], Tensor],
    substitutes: Mapping[Endpoint, Substitute] | None = None,
    observer: Observer | None = None,
) -> Trace:
    """Run `forward`, recording every call of every submodule of `model`.

    Args:
        model: the model that `forward` runs.
        forward: returns the logits.
        substitutes: per endpoint, a function from the model's own tensors there to those it goes on with. The trace
            keeps the model's own.
        observer: is told of every module's begin and end.
    """
    recorder = _Recorder(substitutes or {}, observer)
    with _hooks(model, recorder):
        logits = forward()
    calls = {name: tuple(sorted(found, key=lambda call: call.number)) for name, found in recorder.calls.items()}
    return Trace(calls, logits.detach().clone())


@contextmanager
def _hooks(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if not name:
                continue
            before = module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: recorder.enter(name, args, kwargs), with_kwargs=True, prepend=True
            )
            after = module.register_forward_hook(lambda _m, _a, output: recorder.leave(output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield


def with_leaves(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], values: Mapping[int, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with other values in some places, counted in flattened order.

    Of the rest everything stays the object that it is: modules hand things to each other by writing into a dict or a
    list that all of them are given.
    """
    passed = 0

    def changed(argument: Any) -> Any:
        nonlocal passed
        leaves, spec = tree_flatten(argument)
        places = range(passed, passed + len(leaves))
        passed += len(leaves)
        if values.keys().isdisjoint(places):
            return argument
        return tree_unflatten([values.get(place, leaf) for place, leaf in zip(places, leaves, strict=True)], spec)

    return tuple(map(changed, args)), {name: changed(argument) for name, argument in kwargs.items()}


def _main_tensor(leaves: list[Any]) -> int | None:
    tensors = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    floating = [place for place in tensors if leaves[place].is_floating_point()]
    return next(iter(floating or tensors), None)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
