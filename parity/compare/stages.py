"""The comparison: both models run plainly, promoted and in isolation, and everything that was measured on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parity.compare import isolate as isolation
from parity.compare.align import ModulePair, align
from parity.compare.capture import LOGITS, Endpoint, Trace, run, settled
from parity.compare.isolate import Errors, Isolation
from parity.compare.lineage import Index
from parity.compare.loading import Loading, audit
from parity.compare.lower import lower
from parity.compare.measure import worst
from parity.compare.sides import NEVER, Side, holdings, parameters
from parity.compare.wires import Wire, by_endpoint, connect
from parity.compare.witness import Watcher, witnessed
from parity.errors import ParityError
from parity.pair import oracle, running
from parity.pair import pair as pairs
from parity.pair.pair import Pair
from parity.pair.port import DoesNotFit
from parity.pair.promote import precision
from parity.pair.weights import Tensors


@dataclass(frozen=True)
class Sides:
    """Both models in promoted float64 after a free run each, and what the port's load did."""

    reference: Side
    port: Side
    loading: Loading


@dataclass(frozen=True)
class Forward:
    """What the forward stage measured, by reference endpoint.

    plain: largest and mean absolute difference in the pair's dtype. total: relative errors of the free promoted run.
    isolated: own errors. witnessed: endpoints without a wire whose value the port computes. reasons: why paired modules
    could not be compared. unstable: where the port differs from itself. broken: where NaN or infinity first appears, on
    the reference's and on the port's side. shape: why the logits do not fit, if so.
    """

    pairs: tuple[ModulePair, ...]
    wires: tuple[Wire, ...]
    reasons: Mapping[str, str]
    plain: Mapping[Endpoint, tuple[float, float]]
    total: Errors
    isolated: Isolation
    witnessed: frozenset[Endpoint]
    unstable: Endpoint | None
    broken: tuple[Endpoint | None, Endpoint | None]
    shape: str


@dataclass(frozen=True)
class _Free:
    """The reference in promoted float64 after a free run, and what of the checkpoint a port is held against."""

    side: Side
    index: Index
    shapes: Mapping[str, torch.Size]


def _free(pair: Pair) -> _Free:
    model = pairs.promoted_reference(pair)
    checkpoint = dict(Tensors(pair.checkpoint, promoted=True))
    index = Index(checkpoint)
    with precision(True):
        trace = settled(run(model, lambda: oracle.execute(model, pair.program)))
    shapes = {name: tensor.shape for name, tensor in checkpoint.items()}
    return _Free(Side(model, trace, holdings(model, index)), index, shapes)


@torch.no_grad()
def load(pair: Pair) -> Sides:
    """Build and load both models in promoted float64, run each freely, and audit the load."""
    reference = pair.kept.once("free run", lambda: _free(pair))
    loaded = pairs.promoted_port_model(pair)
    with precision(True):
        port = run(loaded.model, _forward(pair, loaded.model))
    port_holdings = holdings(loaded.model, reference.index)
    now = parameters(loaded.model)

    def began(module: str) -> int:
        inside = [calls[0].began for name, calls in port.calls.items() if f"{name}.".startswith(f"{module}.")]
        return min(inside, default=NEVER)

    return Sides(
        reference.side,
        Side(loaded.model, port, port_holdings),
        audit(
            port_holdings,
            now,
            loaded.initial,
            reference.shapes,
            loaded.dropped,
            loaded.read,
            lambda tensor: _affected(pair, tensor, now, port.logits),
            began,
        ),
    )


def _affected(pair: Pair, tensor: str, now: Mapping[str, Tensor], logits: Tensor) -> set[str]:
    """What changes if one tensor of the checkpoint does: names of parameters, and "" for the logits."""
    other = pairs.perturbed(pair, tensor).model
    changed = {name for name, value in parameters(other).items() if name in now and not _same(value, now[name])}
    with precision(True):
        return changed if _same(_forward(pair, other)(), logits) else changed | {""}


def _forward(pair: Pair, model: nn.Module) -> Callable[[], Tensor]:
    return lambda: running.execute(pair.port, model, pair.program)


@torch.no_grad()
def forward(pair: Pair, sides: Sides) -> Forward:
    """Compare every boundary of one full forward."""
    reference, port = sides.reference, sides.port
    found = align(reference, port, sides.loading, pair.port.modules)
    connection = connect(reference, port, found)
    shape = _misfit(port.trace.logits, reference.trace.logits)
    port_forward = _forward(pair, port.model)
    with precision(True):
        torch.manual_seed(pair.seed + 1)  # other random numbers, should the port draw any
        again = run(port.model, port_forward)
        unstable = _first_difference(port.trace, again)
        connection = connect(reference, port, found, False) if unstable else connection
        connection = isolation.settle(connection, reference, port, port_forward)
        wires = connection.wires
        isolated = None if unstable else isolation.isolate(wires, reference.trace, port, port_forward)
        seen = _witnessed(isolated, reference, port, port_forward) if isolated else frozenset()
    wires = isolated.wires if isolated else wires
    total = isolation.errors(wires, port.trace, reference.trace)
    isolated = isolation.vouched_for(isolated, total) if isolated else None
    return Forward(
        pairs=found,
        wires=wires,
        reasons=connection.reasons,
        plain=_plain(pair, sides, wires),
        total=total,
        isolated=isolated or Isolation(wires, {}, frozenset(), port.trace),
        witnessed=seen,
        unstable=unstable,
        broken=(isolation.first_not_finite(reference.trace), isolation.first_not_finite(port.trace)),
        shape=shape,
    )


def _witnessed(
    isolated: Isolation, reference: Side, port: Side, port_forward: Callable[[], Tensor]
) -> frozenset[Endpoint]:
    """Values of reference modules without a counterpart that the port computes; asked only on a failure."""
    if not isolation.failing(isolated):
        return frozenset()
    wired = {wire.reference for wire in isolated.wires}
    unwired = [endpoint for endpoint in reference.trace.endpoints() if endpoint not in wired]
    watcher = Watcher()
    with watcher:
        isolation.rerun(isolated, reference.trace, port.model, port_forward)
    return witnessed(watcher, reference.trace, unwired)


def _misfit(port: Tensor, reference: Tensor) -> str:
    """Why the logits' shape is wrong, or nothing."""
    if isolation.fitted(reference, port) is not None:
        return ""
    return f"logits are {list(port.shape)}, expected [B, T, V] = {list(reference.shape)}"


def _first_difference(first: Trace, second: Trace) -> Endpoint | None:
    """Where two runs of one model on one input first differ."""
    calls = sorted((call for found in first.calls.values() for call in found), key=lambda call: call.ended)
    for call in calls:
        endpoint = Endpoint(call.module, call.number, "output")
        other = second.at(endpoint)
        if other is None or not all(_same(a, b) for a, b in zip(call.outputs, other, strict=True)):
            return endpoint
    return None if _same(first.logits, second.logits) else LOGITS


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(torch.equal(first.nan_to_num(), second.nan_to_num()))


def _plain(pair: Pair, sides: Sides, wires: tuple[Wire, ...]) -> dict[Endpoint, tuple[float, float]]:
    """Largest and mean absolute differences of two plain runs, in the dtype of the weights."""
    lower(pair, sides.loading)
    reference = pair.kept.once("plain run", lambda: plain_run(pair))
    with precision(False):
        port = _plain_port(pair)
    found = {}
    for endpoint, meeting in by_endpoint(wires, "reference").items():
        values = [wire.compared(port, reference) for wire in meeting]
        figures = [worst(*value) for value in values if value is not None]
        if figures:
            found[endpoint] = (max(high for high, _ in figures), sum(mean for _, mean in figures) / len(figures))
    expected = isolation.fitted(reference.logits, port.logits)
    if expected is not None:
        found[LOGITS] = worst(port.logits, expected)
    return found


def plain_run(pair: Pair) -> Trace:
    """The reference's free run in the dtype that it is in."""
    with precision(False):
        return settled(run(pair.reference_model, lambda: oracle.execute(pair.reference_model, pair.program)))


def _plain_port(pair: Pair) -> Trace:
    try:
        return run(pair.port_model.model, _forward(pair, pair.port_model.model))
    except DoesNotFit as error:  # it ran in float32 when the pair was made
        raise ParityError(
            f"{error.problem}; that is with {str(pair.dtype).removeprefix('torch.')} weights, in float32 it runs",
            "Cast where two dtypes meet, or compare in float32.",
        ) from error
