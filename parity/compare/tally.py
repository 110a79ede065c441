"""How far two values are apart, counted part by part and added up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.compare.capture import Endpoint, Trace
from parity.compare.wires import Wire, by_endpoint
from parity.records import PROMOTED_NOISE


@dataclass(frozen=True)
class Tally:
    """Sums over the elements of two tensors, or of parts of them.

    difference, size: squared L2 norms of the difference and of the reference's value. centred: the same two, each token
    less its mean, of logits alone. largest, absolute: greatest and summed absolute difference. count: of elements.
    """

    difference: float = 0.0
    size: float = 0.0
    largest: float = 0.0
    absolute: float = 0.0
    count: int = 0
    centred: tuple[float, float] | None = None

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.difference + other.difference,
            self.size + other.size,
            _worse(self.largest, other.largest),
            self.absolute + other.absolute,
            self.count + other.count,
            _sum(self.centred, other.centred),
        )

    @property
    def relative(self) -> float:
        """Relative L2 error; 0.0 only if nothing differs, NaN if either value holds one.

        A constant per token makes no difference to logits.
        """
        plain = _ratio(self.difference, self.size)
        if self.centred is None or plain <= PROMOTED_NOISE:
            return plain
        return min(plain, _ratio(*self.centred))

    @property
    def mean(self) -> float:
        """Mean absolute difference."""
        return self.absolute / self.count if self.count else 0.0


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:
        return 0.0
    return math.sqrt(difference / size) if size else math.inf


def _sum(first: tuple[float, float] | None, second: tuple[float, float] | None) -> tuple[float, float] | None:
    if first is None or second is None:
        return first or second
    return first[0] + second[0], first[1] + second[1]


def _worse(first: float, second: float) -> float:
    return first if first >= second or math.isnan(first) else second


def tally(port: Tensor, reference: Tensor, logits: bool = False) -> Tally:
    """Of two tensors of one shape; `logits` also counts them less each token's mean."""
    if not reference.is_floating_point():
        wrong = float((port != reference).sum())
        return Tally(wrong, float(reference.numel()), wrong and 1.0, wrong, reference.numel())
    if torch.equal(port, reference):
        return Tally(size=_squared(reference), count=reference.numel(), centred=(0.0, 1.0) if logits else None)
    apart = port - reference
    centred = None
    if logits:
        centred = _squared(apart - apart.mean(-1, keepdim=True)), _squared(reference - reference.mean(-1, keepdim=True))
    return Tally(
        difference=_squared(apart),
        size=_squared(reference),
        largest=float(torch.linalg.vector_norm(apart, float("inf"))),
        absolute=float(torch.linalg.vector_norm(apart, 1)),
        count=apart.numel(),
        centred=centred,
    )


def _squared(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value.double())) ** 2


def tallies(wires: Sequence[Wire], port: Trace, reference: Trace) -> dict[Endpoint, Tally]:
    """Of every boundary that both runs passed; the worst where several wires meet, none if one of them does not fit."""
    found: dict[Endpoint, Tally] = {}
    for end, meeting in by_endpoint(wires, "reference").items():
        pairs = [wire.compared(port, reference) for wire in meeting]
        made = [tally(*pair) for pair in pairs if pair is not None]
        if made and len(made) == len(pairs):
            found[end] = max(made, key=lambda each: math.inf if math.isnan(each.relative) else each.relative)
    return found


def added(first: Mapping[Endpoint, Tally], second: Mapping[Endpoint, Tally]) -> dict[Endpoint, Tally]:
    """The sums of two parts of a run."""
    return {end: first[end] + second[end] if end in first else second[end] for end in second}
