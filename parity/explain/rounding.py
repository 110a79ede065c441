"""Why a port rounds worse than its reference: the reference made to round elsewhere until it gives what the port gives.

Of a stretch of the reference, what its operations compute in more digits is rounded to the dtype of the weights: one of
them, or several in a row. Those roundings that give the port's very bits are the cause.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from parity.compare.capture import LOGITS, Endpoint
from parity.compare.precision import Accuracy, Lowered
from parity.compare.stages import Forward
from parity.explain.locate import Code
from parity.explain.mutations import Context
from parity.explain.play import Edit, Playing, backward, play
from parity.explain.record import Tapes, lowered
from parity.explain.roles import Role
from parity.explain.room import pins
from parity.explain.trace import Ref, Step
from parity.records import Explanation, Source

_DOUBTFUL = 1.15  # error against the reference's from which a cause is looked for
_BIASED = 5e-4  # by how much all values may be larger than the reference's; roundings leave 1e-3 only in few elements
_ALIKE = 0.15  # of the difference that a rounding has to account for, what may remain
_MOST_STEPS = 14
_CAUSES = {
    Role.frequencies: "rope-precision",
    Role.rope: "rope-precision",
    Role.router: "router-dtype",
}
_NORMS = (Role.norm, Role.qk_norm, Role.final_norm, Role.gated_norm)


@dataclass(frozen=True)
class Rounded:
    """A boundary at which the port rounds as the reference does not, and what is known of it.

    named: a rounding gives the port's values. whole: it is a norm that computes in low precision throughout.
    """

    accuracy: Accuracy
    cause: str
    named: bool
    whole: bool
    explanation: Explanation | None
    port_source: Source | None
    reference_source: Source | None


def doubtful(low: Lowered) -> list[Accuracy]:
    """The boundaries at which the port may be worse than its reference."""
    return [each for each in low.found if not each.ratio <= _DOUBTFUL or abs(each.bias) > _BIASED]


@torch.no_grad()
def explained(low: Lowered, exact: nn.Module) -> tuple[Rounded, ...]:
    """What is known of each doubtful boundary; exact: the reference in promoted float64.

    Raises:
        TooLarge: the run is too large to be traced.
    """
    if not doubtful(low):
        return ()
    tapes = lowered(low)
    context = Context.of(tapes.reference, low.pair.reference_model, low.pair.reference.settings)
    desk = _Desk(tapes, low, low.measured, context, exact)
    return tuple(desk.rounded(each) for each in doubtful(low))


@dataclass(frozen=True)
class _Desk:
    tapes: Tapes
    low: Lowered
    measured: Forward
    context: Context
    exact: nn.Module

    @cached_property
    def _dtype(self) -> torch.dtype:
        return self.low.pair.dtype

    @cached_property
    def _code(self) -> Code:
        return Code(self.tapes.own_code)

    def rounded(self, accuracy: Accuracy) -> Rounded:
        """What is known of one boundary."""
        endpoint = accuracy.endpoint
        role = self.context.role_of(endpoint.module) if endpoint != LOGITS else Role.head
        steps = self._steps(endpoint)
        if role in _NORMS and not self._has_more_digits(endpoint):
            return Rounded(accuracy, "cast-order", False, True, None, self._first_low(endpoint), None)
        for text, edits in (*_roundings(steps, self._dtype), *self._kept(accuracy, steps)):
            left = self._left(endpoint, edits)
            if left <= _ALIKE and self._is_loaded(endpoint, edits):
                break
            if left <= _ALIKE:
                site = self.tapes.reference.steps[min(edits)]
                line = self._line(endpoint, site) or self._first_low(endpoint)
                cause = _CAUSES.get(self.context.place(site).role, _CAUSES.get(role, "cast-order"))
                explanation = Explanation(cause, text, left, f"behaves as if {text} {self._written(site)}")
                return Rounded(accuracy, cause, True, False, explanation, line, Code(()).source(site))
        first = Code(()).source(steps[0]) if steps else None
        cause = _CAUSES.get(role, "cast-order")
        return Rounded(accuracy, cause, False, False, None, self._first_low(endpoint), first)

    def _written(self, site: Step) -> str:
        source = Code(()).source(site)
        if source is not None:
            return f"at `{source.text}`"
        return f"in {site.label}" if site.label else f"in {site.name}"

    def _steps(self, endpoint: Endpoint) -> list[Step]:
        """What the reference computes, or takes, in more digits than the weights have, on the way to a boundary."""
        tape = self.tapes.reference
        refs = backward(tape, self._targets(endpoint), pins(self.tapes, self.measured).hold)
        steps = [tape.steps[number] for number in sorted({ref.step for ref in refs})]
        finer = torch.finfo(self._dtype).eps
        found = [step for step in steps if step.values and _digits(step.values[0]) < finer and not _is_mask(step)]
        return found[-_MOST_STEPS:]

    def _kept(self, accuracy: Accuracy, steps: Sequence[Step]) -> Iterator[tuple[str, Mapping[int, Edit]]]:
        """Numbers that the reference rounds, left as they are: only where all values come out larger by one factor."""
        tape = self.tapes.reference
        if abs(accuracy.bias) <= _BIASED:
            return
        refs = backward(tape, self._targets(accuracy.endpoint), pins(self.tapes, self.measured).hold)
        numbers = (tape.steps[number] for number in sorted({ref.step for ref in refs}))
        for step in numbers:
            exact = self._exact(step) if step.values[0].numel() == 1 and step.values[0].dtype == self._dtype else None
            if exact is not None:
                for user in self.context_users.get(Ref(step.number), ()):
                    yield "a number were not rounded", {user: _unrounded(step.number, exact)}

    def _exact(self, step: Step) -> Tensor | None:
        """What a rounded number was before, or is in a model of more digits."""
        made_of = [self.tapes.reference.value(ref) for ref in step.inputs]
        if len(made_of) == 1 and _digits(made_of[0]) < torch.finfo(self._dtype).eps:
            return made_of[0]
        return dict(self.exact.named_buffers()).get(step.label)

    @cached_property
    def context_users(self) -> Mapping[Ref, Sequence[int]]:
        """The reference's steps that take each value, in low precision."""
        found: dict[Ref, list[int]] = {}
        for step in self.tapes.reference.steps:
            for ref in step.inputs:
                found.setdefault(ref, []).append(step.number)
        return found

    def _targets(self, endpoint: Endpoint) -> list[Ref]:
        tape = self.tapes.reference
        if endpoint == LOGITS:
            return [tape.logits] if tape.logits else []
        wires = [wire for wire in self.measured.isolated.wires if wire.reference == endpoint]
        found = [tape.at(endpoint, wire.reference_part) for wire in wires]
        return [ref for ref in dict.fromkeys(found) if ref is not None]

    def _left(self, endpoint: Endpoint, edits: Mapping[int, Edit]) -> float:
        """How much of the difference between port and reference is left when the reference rounds otherwise."""
        until = max(ref.step for ref in self._targets(endpoint))
        try:
            playing = play(self.tapes.reference, edits, self.context_users, pins(self.tapes, self.measured), until)
        except Exception:  # an edit that does not fit
            return float("inf")
        before = after = 0.0
        for own, ref in self._beside(endpoint):
            before += _squared(own(self.tapes.reference.value(ref)))
            after += _squared(own(playing.own(ref)))
        return float("inf") if before == 0 else (after / before) ** 0.5

    def _beside(self, endpoint: Endpoint) -> Iterator[tuple["_Apart", Ref]]:
        """For each of the port's values at a boundary, how it differs from a value of the reference's."""
        if endpoint == LOGITS:
            ref = self.tapes.reference.logits
            if ref is not None and self.low.port.logits.shape == self.tapes.reference.value(ref).shape:
                yield _Apart(self.low.port.logits, None), ref
            return
        for wire in self.measured.isolated.wires:
            values = self.low.port.at(wire.port) if wire.reference == endpoint else None
            ref = self.tapes.reference.at(endpoint, wire.reference_part) if values else None
            if values and ref is not None and wire.port_part < len(values):
                yield _Apart(values[wire.port_part], wire), ref

    def _port_refs(self, endpoint: Endpoint) -> list[Ref]:
        tape = self.tapes.port
        if endpoint == LOGITS:
            return [tape.logits] if tape.logits else []
        wires = [wire for wire in self.measured.isolated.wires if wire.reference == endpoint]
        found = [tape.at(wire.port, wire.port_part) for wire in wires]
        return [ref for ref in dict.fromkeys(found) if ref is not None]

    def _port_steps(self, endpoint: Endpoint) -> list[Step]:
        """What the port computes on the way to a boundary, in order."""
        tape = self.tapes.port
        inside = {wire.port for wire in self.measured.isolated.wires}
        stops = {ref for end in inside for ref in tape.marks.get(end, ()) if ref is not None}
        starts = set(self._port_refs(endpoint))
        refs = backward(tape, starts, lambda ref, _: ref in stops and ref not in starts)
        return [tape.steps[number] for number in sorted({ref.step for ref in refs})]

    def _line(self, endpoint: Endpoint, site: Step) -> Source | None:
        """Where the port has a value rounded that the reference has in more digits."""
        wanted = site.values[0].to(self._dtype)
        for step in self._port_steps(endpoint):
            for value in step.values:
                same = value.numel() == wanted.numel() and value.is_floating_point() and step.frames
                if same and _digits(value) >= torch.finfo(self._dtype).eps and _near(value, wanted):
                    return self._code.source(step)
        return None

    def _is_loaded(self, endpoint: Endpoint, edits: Mapping[int, Edit]) -> bool:
        """Whether what is rounded is a parameter of the port: its loader computed it, and the checkpoint rounds."""
        names = dict(self.tapes.port_model.named_parameters())
        kept = [step.values[0] for step in self._port_steps(endpoint) if step.label in names]
        rounded = [self.tapes.reference.steps[number].values[0].to(self._dtype) for number in edits]
        return all(any(own.numel() == value.numel() and _near(own, value) for own in kept) for value in rounded)

    def _first_low(self, endpoint: Endpoint) -> Source | None:
        """The first operation on the way to a boundary that computes in no more digits than the weights have."""
        low = torch.finfo(self._dtype).eps
        steps = [step for step in self._port_steps(endpoint) if step.frames and step.inputs]
        found = [step for step in steps if step.values[0].is_floating_point() and _digits(step.values[0]) >= low]
        step = next(iter(found or steps), None)
        return self._code.source(step) if step is not None else None

    def _has_more_digits(self, endpoint: Endpoint) -> bool:
        finer = torch.finfo(self._dtype).eps
        return any(
            step.frames and step.inputs and _digits(step.values[0]) < finer for step in self._port_steps(endpoint)
        )


@dataclass(frozen=True)
class _Apart:
    """One of the port's values, to be laid over values of the reference."""

    value: Tensor
    wire: object

    def __call__(self, reference: Tensor) -> Tensor:
        if self.wire is None:
            return (self.value - reference).double()
        laid = self.wire.laid(self.value, reference)  # type: ignore[attr-defined]
        return (laid[0].double() - laid[1].double()) if laid else torch.full((1,), float("inf"))


def _squared(value: Tensor) -> float:
    return float(value.pow(2).sum())


def _digits(value: Tensor) -> float:
    """The spacing of numbers next to one; infinite for what is no floating number."""
    return torch.finfo(value.dtype).eps if value.is_floating_point() else float("inf")


def _is_mask(step: Step) -> bool:
    value = step.values[0]
    return bool((value <= torch.finfo(value.dtype).min / 2).any())


def _near(value: Tensor, other: Tensor) -> bool:
    ours, theirs = value.double().flatten(), other.double().flatten()
    if torch.equal(ours, theirs):
        return True
    return bool((ours.sort()[0] == theirs.sort()[0]).double().mean() > 0.98)


def _roundings(steps: Sequence[Step], dtype: torch.dtype) -> Iterator[tuple[str, Mapping[int, Edit]]]:
    """One rounding, then runs of several, then two apart."""

    def edit(low: bool) -> Edit:
        def rounded(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            if step.function is None:
                values = step.values
            else:
                given = [
                    each.to(dtype) if low and isinstance(each, Tensor) and each.is_floating_point() else each
                    for each in playing.given(step)[0]
                ]
                values = playing.compute(step, *given, **playing.given(step)[1])
            return tuple(
                value.to(dtype).to(own.dtype) if value.is_floating_point() else value
                for value, own in zip(values, step.values, strict=True)
            )

        return rounded

    name = str(dtype).removeprefix("torch.")
    count = len(steps)
    for step in steps:
        yield f"the result were rounded to {name}", {step.number: edit(False)}
    for first in range(count):
        for last in range(count - 1, first, -1):
            run = steps[first : last + 1]
            edits = {each.number: edit(each is not run[0]) for each in run}
            yield f"everything were computed in {name} from the result on", edits
    for first in range(count):
        for second in range(first + 2, count):
            both = (steps[first], steps[second])
            yield f"this and a later result were rounded to {name}", {each.number: edit(False) for each in both}


def _unrounded(number: int, value: Tensor) -> Edit:
    """A step given one of its numbers in all its digits, its result in the dtype that it has."""

    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        arguments, keywords = playing.given(step)
        low = playing.tape.value(Ref(number))
        given = [value if each is low else each for each in arguments]
        floats = [each.float() if isinstance(each, Tensor) and each.is_floating_point() else each for each in given]
        results = playing.compute(step, *floats, **keywords)
        return tuple(result.to(own.dtype) for result, own in zip(results, step.values, strict=True))

    return edit
