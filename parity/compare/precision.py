"""The stage `precision`: in low precision, is each boundary bit-exact, or as accurate as the reference has it.

Both models run in the dtype of the weights, the port with the reference's values handed on at every boundary. The same
stretch in promoted float64, on the same rounded inputs and weights, says how large the error of each side is. A port
whose error is no larger than its reference's is right, however the two round.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS, Endpoint, Substitute, Trace, run, settled
from parity.compare.choices import Choices, Recording, Replaying
from parity.compare.lower import lower
from parity.compare.measure import worst
from parity.compare.stages import Forward, Sides
from parity.compare.wires import Wire, by_endpoint
from parity.pair import oracle, running
from parity.pair import pair as pairs
from parity.pair.pair import Pair
from parity.pair.port import DoesNotFit
from parity.pair.promote import precision
from parity.records import PROMOTED_NOISE

_OF_A_ROUNDING = 12**-0.5  # of the spacing of numbers: the error that rounding leaves on average
_FLOAT32_STEPS = 16  # roundings in float32 that an order of operations may cost


@dataclass(frozen=True)
class Accuracy:
    """One boundary in low precision.

    apart: relative error of the port against the reference, 0.0 if they are equal bit by bit. ratio: the port's error
    against the promoted truth, as a multiple of the reference's, or of one rounding where that has none. bias: by which
    factor, less one, the port's values are larger than the reference's throughout.
    """

    endpoint: Endpoint
    port: str
    apart: float
    ratio: float
    bias: float
    max_abs: float
    mean_abs: float


@dataclass(frozen=True)
class Lowered:
    """Both models in low precision after a run each: the reference's free, the port's in isolation; and the truth.

    measured: what the forward stage measured, of the boundaries that were compared. tied: how many tokens were left
    out of the logits, because a choice made for them in some layer is a near tie; before it they were compared.
    """

    pair: Pair
    measured: Forward
    reference: Trace
    port: Trace
    truth: Trace
    found: tuple[Accuracy, ...]
    raised: DoesNotFit | None = None
    tied: int = 0


@dataclass(frozen=True)
class _Reference:
    """The reference in low precision after a free run, what it chose in it, and its twin in promoted float64."""

    trace: Trace
    choices: Choices
    exact: nn.Module


def _reference(low: Pair, dtype: torch.dtype) -> _Reference:
    recording = Recording(dtype)
    model = low.reference_model
    with precision(False, recording):
        trace = settled(run(model, lambda: oracle.execute(model, low.program), None, recording))
    return _Reference(trace, recording.choices, pairs.promoted_reference(low))


@torch.no_grad()
def measure(pair: Pair, sides: Sides, measured: Forward, dtype: torch.dtype) -> Lowered:
    """Compare every boundary that the full forward had right, in `dtype`.

    Args:
        pair: what is compared, in whatever dtype.
        sides: both models in promoted float64.
        measured: what the forward stage measured.
        dtype: of weights and runs.
    """
    low = pairs.stored_in(pair, dtype)
    lower(low, sides.loading)
    own = pair.kept.once(("lowered", dtype), lambda: _reference(low, dtype))
    reference = own.trace
    chooses = bool(own.choices.indices)
    steady = _steady(measured, sides, pair.input_ids.shape) if chooses else measured
    handed = [wire for wire in steady.isolated.wires if wire.reference not in measured.isolated.elsewhere]
    given = frozenset(wire.reference for wire in handed)
    truth = pair.kept.once(("truth", dtype), lambda: _truth(low, own, given), given)
    model = low.port_model.model
    try:
        with precision(False):
            port = isolation.rerun(
                steady.isolated, reference, model, lambda: running.execute(low.port, model, low.program)
            )
    except DoesNotFit as error:
        return Lowered(low, steady, reference, truth, truth, (), error)
    right = {end for end, error in measured.isolated.errors.items() if error <= PROMOTED_NOISE}
    by_end = {end: wires for end, wires in by_endpoint(handed, "reference").items() if end in right}
    shape = pair.input_ids.shape

    def sift(end: Endpoint) -> _Sift:
        return _Sift(shape, own.choices.near_ties(shape[0], shape[1], end))

    ends = sorted(by_end, key=reference.event)
    found = [_accuracy(end, by_end[end], port, reference, truth, sift(end)) for end in ends]
    tied = own.choices.near_ties(*shape)
    fitted = isolation.fitted(reference.logits, port.logits)
    if LOGITS in right and fitted is not None:
        expected = isolation.fitted(truth.logits, port.logits)
        assert expected is not None
        logits = (port.logits.double(), fitted.double(), expected)
        centred = tuple(each - each.mean(-1, keepdim=True) for each in logits)  # a constant per token says nothing
        plain, shifted = (_judged(LOGITS, "", [sift(LOGITS).kept(*values)], dtype) for values in (logits, centred))
        found.append(plain if plain.ratio <= shifted.ratio else shifted)
    kept = tuple(each for each in found if each is not None)
    return Lowered(low, steady, reference, port, truth, kept, None, 0 if tied is None else int(tied.sum()))


def _truth(low: Pair, reference: _Reference, given: Set[Endpoint]) -> Trace:
    """The promoted run of the reference's rounded weights, handed its values in low precision at some endpoints."""
    handed = _substitutes(given, reference.trace)
    with precision(True, Replaying(reference.choices)):
        return settled(run(reference.exact, lambda: oracle.execute(reference.exact, low.program), handed))


def _substitutes(given: Set[Endpoint], reference: Trace) -> Mapping[Endpoint, Substitute]:
    """The reference handed its own low-precision values, so that the truth of each stretch is of the same inputs."""

    def substitute(endpoint: Endpoint) -> Substitute:
        def hand_on(own: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            stored = reference.at(endpoint) or ()
            return tuple(
                value.to(mine.dtype) if value.shape == mine.shape else mine
                for mine, value in zip(own, stored, strict=False)
            )

        return hand_on

    return {endpoint: substitute(endpoint) for endpoint in given}


def _steady(measured: Forward, sides: Sides, shape: torch.Size) -> Forward:
    """What was measured, without boundaries of tokens that a choice picks: in low precision it may pick others."""
    rows, tokens = shape

    def of_tokens(value: tuple[Tensor, ...] | None) -> bool:
        return bool(value and (rows * tokens in value[0].shape or tokens in value[0].shape[1:]))

    kept = tuple(
        wire
        for wire in measured.isolated.wires
        if of_tokens(sides.reference.trace.at(wire.reference)) and of_tokens(sides.port.trace.at(wire.port))
    )
    return replace(measured, isolated=replace(measured.isolated, wires=kept))


@dataclass(frozen=True)
class _Sift:
    """Leaves out tokens for which a choice is a near tie: whichever way it goes, it is no fault."""

    shape: torch.Size
    tied: Tensor | None

    def kept(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The values at other tokens; all of them where nothing tells which token is which."""
        if self.tied is None or not bool(self.tied.any()) or bool(self.tied.all()):
            return values
        rows, tokens = self.shape
        for axis, size in enumerate(values[0].shape):
            if size == rows * tokens:
                return tuple(value.movedim(axis, 0)[~self.tied.flatten()] for value in values)
            if size == tokens and axis > 0 and values[0].shape[0] == rows:
                return tuple(value.movedim(axis, 1)[~self.tied] for value in values)
        return values


def _accuracy(
    endpoint: Endpoint, wires: list[Wire], port: Trace, reference: Trace, truth: Trace, sift: _Sift
) -> Accuracy | None:
    found = []
    for wire in wires:
        laid, exact = wire.compared(port, reference), wire.compared(port, truth)
        if laid is None or exact is None or not laid[0].is_floating_point():
            return None
        found.append(sift.kept(*laid, exact[1]))
    return _judged(endpoint, wires[0].port.module, found)


def _judged(
    endpoint: Endpoint, module: str, found: list[tuple[Tensor, ...]], dtype: torch.dtype | None = None
) -> Accuracy:
    """One boundary of one or several tensors: port, reference, truth; the worst of them counts."""
    return Accuracy(
        endpoint,
        module,
        apart=max(_apart(port, reference, truth) for port, reference, truth in found),
        ratio=max(_ratio(port, reference, truth, dtype or reference.dtype) for port, reference, truth in found),
        bias=max((_bias(port, reference, truth) for port, reference, truth in found), key=abs),
        max_abs=max(worst(port, reference)[0] for port, reference, _ in found),
        mean_abs=max(worst(port, reference)[1] for port, reference, _ in found),
    )


def _apart(port: Tensor, reference: Tensor, truth: Tensor) -> float:
    return 0.0 if torch.equal(port.double(), reference.double()) else _distance(port, reference) / _size(truth)


def _ratio(port: Tensor, reference: Tensor, truth: Tensor, dtype: torch.dtype) -> float:
    if torch.equal(port.double(), reference.double()):
        return 0.0
    return _distance(port, truth) / max(_distance(reference, truth), _least(dtype) * _size(truth))


def _bias(port: Tensor, reference: Tensor, truth: Tensor) -> float:
    return float(((port.double() - reference.double()) * truth).sum()) / _size(truth) ** 2


def _size(truth: Tensor) -> float:
    return float(torch.linalg.vector_norm(truth)) or 1.0


def _distance(first: Tensor, second: Tensor) -> float:
    return float(torch.linalg.vector_norm(first.double() - second.double()))


def _least(dtype: torch.dtype) -> float:
    """The relative error of one rounding in a dtype; of several in float32, where their order is an author's own."""
    steps = _FLOAT32_STEPS if dtype in (torch.float32, torch.float64) else 1
    return steps * torch.finfo(dtype).eps * _OF_A_ROUNDING


def dtypes_of(pair: Pair, chosen: str) -> tuple[torch.dtype, ...]:
    """What to compare in: the dtype that was chosen if it is low, else bfloat16 and that of the checkpoint."""
    if chosen != "float32":
        return (getattr(torch, chosen),)
    stored = str(pair.reference.config.get("dtype") or pair.reference.config.get("torch_dtype") or "")
    own = getattr(torch, stored.removeprefix("torch."), None) if stored else None
    return tuple(dict.fromkeys([torch.bfloat16, *([own] if own == torch.float16 else [])]))


def with_ratio(found: Lowered, limit: float) -> tuple[Accuracy, ...]:
    """The boundaries at which the port is worse than the reference."""
    return tuple(each for each in found.found if not each.ratio <= limit)
