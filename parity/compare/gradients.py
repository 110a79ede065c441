"""The stage `gradient`: whether every parameter, and every value on the way, gets the reference's gradient.

Both models run in promoted float64 and are differentiated along one random direction of the logits. Parameters are held
against each other entry by entry: with random weights each value stands in one place, whatever a loader made of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.compare.capture import Endpoint, run
from parity.compare.measure import relative_error, worst
from parity.compare.sides import Side
from parity.compare.stages import Forward, Sides
from parity.compare.wires import Wire, by_endpoint
from parity.pair import oracle, running
from parity.pair.pair import Pair
from parity.pair.promote import precision
from parity.records import PROMOTED_NOISE

_SAME = 1e-12
_CHANCE = 0.02  # of the entries of a parameter, those that another tensor may hold as well


@dataclass(frozen=True)
class Slope:
    """One gradient: of a parameter (endpoint None) or of the value at an endpoint.

    error: relative, infinite if the port has none; None if it could not be compared. blocked: the port's is nothing but
    zeros, or is missing, where the reference's is not.
    """

    reference: str
    port: str
    endpoint: Endpoint | None
    error: float | None
    max_abs: float | None = None
    mean_abs: float | None = None
    blocked: bool = False

    @property
    def right(self) -> bool:
        """Whether it is the reference's, as far as it was compared."""
        return self.error is None or self.error <= PROMOTED_NOISE


@dataclass(frozen=True)
class Slopes:
    """All gradients, those of values in the order in which the reference passes them."""

    values: tuple[Slope, ...]
    parameters: tuple[Slope, ...]

    @property
    def failing(self) -> tuple[Slope, ...]:
        """The wrong ones."""
        return tuple(slope for slope in (*self.values, *self.parameters) if not slope.right)


@dataclass
class _Kept:
    """Remembers the values at endpoints, so that they keep their gradients; those that went into a module twice.

    One author hands the same tensor to several modules, another a view to each: a value's gradient then means all of
    them to one and a single one to the other. So each module takes a view of its own here, and both are kept.
    """

    at: dict[Endpoint, list[Tensor]] = field(default_factory=dict)
    through: dict[Endpoint, list[Tensor]] = field(default_factory=dict)

    def enter(self, module: str, number: int) -> None:
        """Nothing to do."""

    def leave(self) -> None:
        """Nothing to do."""

    def passed(self, endpoint: Endpoint, tensors: Sequence[Tensor]) -> Tensor | None:
        """The run passes an endpoint."""
        for tensor in tensors:
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.retain_grad()
        self.at[endpoint] = list(tensors)
        if endpoint.kind == "output" or not tensors or not tensors[0].requires_grad:
            return None
        alias = tensors[0].view_as(tensors[0])
        alias.retain_grad()
        self.through[endpoint] = [alias]
        return alias

    def gradient(self, endpoint: Endpoint, part: int, through: bool) -> Tensor | None:
        """That of one of the values at an endpoint, or of what goes through the module alone; zeros if none arrived."""
        tensors = (self.through if through and endpoint in self.through else self.at).get(endpoint, [])
        if part >= len(tensors) or not tensors[part].is_floating_point():
            return None
        tensor = tensors[part]
        if not tensor.requires_grad:
            return torch.zeros_like(tensor)
        found = tensor.grad
        return torch.zeros_like(tensor) if found is None else found


class Cuts(TorchFunctionMode):
    """Notes the first operation that gives a value without a gradient though what it took has one.

    What takes of a tensor no more than its shape, as `new_zeros` and `zeros_like` do, cuts nothing.
    """

    def __init__(self, seen: Callable[[], object]):
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)]
        with torch._C.DisableTorchFunction():
            floats = isinstance(result, Tensor) and result.is_floating_point() and result.numel() > 1
            name = getattr(func, "__name__", "")
            shaped = name.startswith("new_") or name.endswith("_like")
            if floats and not shaped and not result.requires_grad and any(each.requires_grad for each in given):
                self._seen()
        return result


def measure(pair: Pair, sides: Sides, measured: Forward) -> Slopes:
    """Differentiate both models and compare every gradient."""
    reference, port = _Kept(), _Kept()
    direction = torch.randn(
        sides.reference.trace.logits.shape, generator=torch.Generator().manual_seed(pair.seed), dtype=torch.float64
    )
    with torch.enable_grad(), precision(True):
        ours = _differentiate(
            sides.reference.model, lambda: oracle.execute(sides.reference.model, pair.program), direction, reference
        )
        theirs = _differentiate(
            sides.port.model, lambda: running.execute(pair.port, sides.port.model, pair.program), direction, port
        )
    return Slopes(
        tuple(_values(sides.reference, measured, reference, port)),
        tuple(parameter_slopes(sides.reference.model, ours, sides.port.model, theirs)),
    )


@contextmanager
def _padding_counted(model: nn.Module) -> Iterator[None]:
    """Let the padding token's row of an embedding have its gradient; whether it is frozen is a setting of training."""
    frozen = [(module, module.padding_idx) for module in model.modules() if isinstance(module, nn.Embedding)]
    try:
        for module, _ in frozen:
            module.padding_idx = None
        yield
    finally:
        for module, row in frozen:
            module.padding_idx = row


def _differentiate(
    model: nn.Module, forward: Callable[[], Tensor], direction: Tensor, kept: _Kept
) -> Mapping[str, Tensor | None]:
    """The gradients of a model's parameters by name; None where none arrived."""
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.grad = None
    loss: list[Tensor] = []

    def run_once() -> Tensor:
        logits = forward()
        fitting = direction if logits.shape == direction.shape else direction[:, -1:].reshape(logits.shape)
        loss.append((logits * fitting).sum())
        return logits

    with _padding_counted(model):
        run(model, run_once, observer=kept)
    if loss[0].requires_grad:
        loss[0].backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return found


def _values(reference: Side, measured: Forward, ours: _Kept, theirs: _Kept) -> Iterator[Slope]:
    """Gradients of the values at the boundaries that the full forward has right."""
    wires = by_endpoint(measured.isolated.wires, "reference")
    right = {end for end, error in measured.isolated.errors.items() if error <= PROMOTED_NOISE}
    for endpoint in sorted(set(wires) & right, key=reference.trace.event):
        found = [_value(endpoint, wires[endpoint], ours, theirs, through) for through in (False, True)]
        nearest = min(
            (slope for slope in found if slope is not None), key=lambda slope: slope.error or 0.0, default=None
        )
        if nearest is not None:
            yield nearest


def _value(endpoint: Endpoint, wires: Sequence[Wire], ours: _Kept, theirs: _Kept, through: bool) -> Slope | None:
    """The gradient of the value at one boundary; None if it could not be compared."""
    pairs = []
    for wire in wires:
        own = theirs.gradient(wire.port, wire.port_part, through)
        expected = ours.gradient(endpoint, wire.reference_part, through)
        if own is None or expected is None or own.numel() != expected.numel():
            continue  # not there, or one value that all rows share
        laid = wire.laid(own, expected)
        if laid is not None and bool(laid[1].any()):
            pairs.append(laid)
    return _slope(endpoint.module, wires[0].port.module, endpoint, pairs) if pairs else None


def _slope(reference: str, port: str, endpoint: Endpoint | None, pairs: Iterable[tuple[Tensor, Tensor]]) -> Slope:
    own, expected = (torch.cat([each.reshape(-1) for each in side]) for side in zip(*pairs, strict=True))
    largest, mean = worst(own, expected)
    return Slope(reference, port, endpoint, relative_error(own, expected), largest, mean, not bool(own.any()))


def parameter_slopes(
    reference: nn.Module, ours: Mapping[str, Tensor | None], port: nn.Module, theirs: Mapping[str, Tensor | None]
) -> Iterator[Slope]:
    """Gradients of the port's parameters, each entry against that of the reference's entry of the same value."""
    stored = {name: value for name, value in reference.named_parameters() if ours[name] is not None}
    names = list(stored)
    every = _Entries.of([stored[name].detach() for name in names])
    idle = {name: value.detach() for name, value in reference.named_parameters() if name not in stored}
    others = _Entries.of(list(idle.values())) if idle else None
    for name, parameter in port.named_parameters():
        flat = parameter.detach().reshape(-1)
        owners = every.owners(flat)
        if not owners:
            same = others.owners(flat) if others is not None else []
            yield Slope(list(idle)[same[0]] if same else "", name, None, None)
            continue
        held = _Entries.of([stored[names[owner]].detach() for owner in owners])
        places = held.places(flat)
        slopes = torch.cat([_given(ours[names[owner]]).reshape(-1) for owner in owners])
        own = theirs[name]
        gradient = torch.zeros_like(flat) if own is None else own.reshape(-1)
        found = places >= 0
        yield _slope(names[owners[0]], name, None, [(gradient[found], slopes[places[found]])])


@dataclass(frozen=True)
class _Entries:
    """The entries of some tensors by value, those that stand in one place alone."""

    values: Tensor
    order: Tensor
    unique: Tensor
    tensor: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "_Entries":
        """All entries, one tensor after the other."""
        values, order = torch.cat([each.reshape(-1) for each in tensors]).sort()
        apart = torch.cat([values.new_ones(1), values.diff(), values.new_ones(1)]) != 0
        owner = torch.cat([torch.full((each.numel(),), place) for place, each in enumerate(tensors)])
        return cls(values, order, apart[1:] & apart[:-1], owner)

    def places(self, flat: Tensor) -> Tensor:
        """Where each of some values stands, counted through all tensors; -1 if nowhere, or more than once."""
        after = torch.searchsorted(self.values, flat).clamp(max=len(self.values) - 1)
        before = (after - 1).clamp_min(0)
        nearest = torch.where((self.values[before] - flat).abs() < (self.values[after] - flat).abs(), before, after)
        found = ((self.values[nearest] - flat).abs() <= _SAME * flat.abs()) & self.unique[nearest]
        return torch.where(found, self.order[nearest], -1)

    def owners(self, flat: Tensor) -> list[int]:
        """The tensors that hold more of some values than chance would have it, the one that holds most first."""
        places = self.places(flat)
        votes = self.tensor[places[places >= 0]].bincount()
        most = votes.argsort(descending=True).tolist() if votes.numel() else []
        return [owner for owner in most if votes[owner] > _CHANCE * flat.numel() and votes[owner] > 1]


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient
