"""Taps: the reference's values inside attention, MLP, router and recurrence, and what the port has in their place.

Looked for after a failure alone, in runs that were recorded anyhow. A tap never decides whether a port is right, which
is for the boundaries around it to say. It tells where between them right values turn into wrong ones.

The port has a tap if the operation in the same place gives it, or any other operation does, in whatever layout. A value
that is neither is a difference only where the stretch around it goes wrong, where what goes in is right, and where
nothing that the port makes of it turns out right: queries may be rotated in another order, scaled beforehand or
shifted in position by somebody who makes up for it. Everything else was not compared, and says so.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from parity.compare.capture import LOGITS, Endpoint
from parity.compare.error_maps import Widths, of_tap, widths
from parity.compare.isolate import failing
from parity.compare.measure import relative_error, worst
from parity.compare.sides import parents
from parity.compare.wires import by_endpoint
from parity.explain.locate import Values
from parity.explain.mutations import Region, again
from parity.explain.play import Pins, Playing, backward
from parity.explain.room import Room
from parity.explain.tap_pairs import CHOICES, Pairing, Place, back, laid, shown
from parity.explain.tap_places import Unit
from parity.explain.trace import Ref
from parity.pair.promote import double
from parity.records import PROMOTED_NOISE, Boundary, ErrorMap

_DISCRETE = ("experts", "indices")  # the same choice can be made by other scores
_TOGETHER = {"q": ("q", "k"), "k": ("q", "k")}  # what is transformed together, if at all

ABSENT = "the port does not compute it, or not in one piece"
SEGMENT_RIGHT = "the port has another value there, and the stretch around it is right"
INPUT_WRONG = "what goes in is not in the port either"
MADE_GOOD = "the port has another value there, and what it makes of it is right"
REORDERED = "the port has the same values in another order"
MISFIT = "the port has a value of another size there"


@dataclass(frozen=True)
class Tap:
    """A row of the report, and the number of boundaries that come before it; where it differs, if by itself."""

    after: int
    boundary: Boundary
    map: ErrorMap | None = None


@dataclass(frozen=True)
class _Verdict:
    """What is to be said of one tap; without an error it was not compared, and note says why."""

    own: float | None = None
    total: float | None = None
    figures: tuple[float, float] | None = None
    ref: Ref | None = None
    note: str = ""
    place: Place | None = None


def among(boundaries: Sequence[Boundary], taps: Sequence[Tap]) -> tuple[Boundary, ...]:
    """Boundaries with the taps between them, in the order data flows; the last boundary stays the last."""
    found: list[Boundary] = []
    for number, boundary in enumerate(boundaries):
        last = number == len(boundaries) - 1
        found += [tap.boundary for tap in taps if tap.after == number or (last and tap.after > number)]
        found.append(boundary)
    return tuple(found)


@torch.no_grad()
def taps(room: Room, values: Values) -> tuple[Tap, ...]:
    """Every tap of the reference, in the order data flows.

    Args:
        room: both recorded runs, and what was measured.
        values: which of the port's values stand in the reference.
    """
    table = _Table(room, values, Pairing(room))
    return tuple(tap for unit in table.pairing.units for tap in table.told(unit))


@dataclass(frozen=True)
class _Table:
    """The taps of one check."""

    room: Room
    values: Values
    pairing: Pairing

    @cached_property
    def guilty(self) -> dict[Ref, Endpoint]:
        """The reference's values that a wrong boundary is made from, as far back as the boundaries before it."""
        room, found = self.room, dict[Ref, Endpoint]()
        for endpoint in failing(room.measured.isolated):
            for ref in backward(room.tapes.reference, room.targets(endpoint), room.pins.hold):
                found.setdefault(ref, endpoint)
        return found

    @cached_property
    def marks(self) -> list[float]:
        """The number of the reference's steps before each boundary of the report."""
        trace, calls = self.room.sides.reference.trace, self.room.context.calls
        passed: list[float] = []
        for endpoint in sorted(by_endpoint(self.room.measured.wires, "reference"), key=trace.event):
            region = calls.get((endpoint.module, endpoint.number))
            here = passed[-1] if passed else -1.0
            if region is not None and endpoint != LOGITS:
                here = region.steps[0] - 0.5 if endpoint.kind == "input" else region.steps[-1] + 0.5
            passed.append(max(here, passed[-1]) if passed else here)
        return passed

    def _value(self, ref: Ref) -> Tensor:
        return self.room.tapes.reference.value(ref)

    def _entry(self, unit: Unit) -> Tensor | None:
        """What goes into a unit's module."""
        ref = self.room.tapes.reference.at(Endpoint(*unit.call, "input"))
        return None if ref is None else self.pairing.value(ref)

    # One unit

    def told(self, unit: Unit) -> list[Tap]:
        """The rows of one unit."""
        places = self._unscaled(unit, self.pairing.places(unit))
        wrong = next((self.guilty[ref] for ref in reversed(unit.refs) if ref in self.guilty), None)
        verdicts: dict[str, _Verdict] = {}
        for name in reversed(tuple(unit.taps)):  # what is made of a value is known before the value is judged
            verdicts[name] = self._judged(unit, name, places, verdicts, wrong)
        if wrong is not None and not places:
            verdicts |= self._guessed(unit, verdicts, wrong)
        rows, place = [], 0
        start = self._start(unit)
        for name, forms in unit.taps.items():
            place = max(place, bisect_right(self.marks, max(start, forms[0].step)))
            row = self._row(unit, name, verdicts[name])
            rows.append(Tap(place, row, self._map(row, name, verdicts[name].place)))
        return rows

    def _map(self, row: Boundary, tap: str, place: Place | None) -> ErrorMap | None:
        if place is None or row.verdict != "diff" or row.inherited:
            return None
        return of_tap(row.name, tap, place.own, place.expected, self._widths)

    @cached_property
    def _widths(self) -> Widths:
        return widths(self.room.sides.reference.trace.logits.shape, self.room.described.settings)

    def _unscaled(self, unit: Unit, places: dict[str, Place]) -> dict[str, Place]:
        """Queries and keys that the port scales on top of what the reference does, as they were before that."""
        for name in set(_TOGETHER) & set(places):
            place = places[name]
            if not place.right and place.scaled:
                places[name] = self.pairing.elsewhere(unit.taps[name]) or place
        return places

    def _row(self, unit: Unit, name: str, verdict: _Verdict) -> Boundary:
        calls = self.room.sides.reference.trace.calls.get(unit.module, ())
        module = f"{unit.module}[{unit.number}]" if len(calls) > 1 else unit.module
        largest, mean = verdict.figures or (None, None)
        return Boundary(
            stage="forward",
            name=f"{module}:{name}",
            reference_module=unit.module,
            port_module=self._port_module(unit, verdict.ref),
            kind="tap",
            max_abs=largest,
            mean_abs=mean,
            own=verdict.own,
            total=verdict.total,
            note=verdict.note,
        )

    def _port_module(self, unit: Unit, ref: Ref | None) -> str:
        """Where the port's value was made, or else what it has in the place of the reference's module."""
        if ref is not None and (module := self.room.tapes.port.steps[ref.step].module):
            return module
        partner = self.pairing.partners.get(unit.last, ())
        if partner and partner[0].module:
            return partner[0].module
        pairs = {pair.reference: pair.port for pair in self.room.measured.pairs if not pair.partial}
        return next((pairs[name] for name in (unit.module, *parents(unit.module)) if name in pairs), "")

    def _judged(
        self,
        unit: Unit,
        name: str,
        places: dict[str, Place],
        later: dict[str, _Verdict],
        wrong: Endpoint | None,
    ) -> _Verdict:
        """What is to be said of one tap, given what was said of those after it."""
        place = places.get(name)
        if place is not None and place.right:
            return _as_is(place)
        if place is None and name != "mask" and (found := self.pairing.elsewhere(unit.taps[name])) is not None:
            return _as_is(found)
        if place is None:
            return _Verdict(note=MISFIT if self.pairing.has(unit, name) else ABSENT)
        if wrong is None:
            return _Verdict(ref=place.ref, note=SEGMENT_RIGHT)
        own = self._own(unit, name, places)
        excuse = self._excuse(unit, name, place, places, later, own <= PROMOTED_NOISE)
        if excuse:
            return _Verdict(ref=place.ref, note=excuse)
        return _Verdict(own, place.error, worst(place.own, place.expected), place.ref, place=place)

    def _excuse(
        self,
        unit: Unit,
        name: str,
        place: Place,
        places: dict[str, Place],
        later: dict[str, _Verdict],
        inherited: bool,
    ) -> str:
        """Why another value is no fault, or cannot be called one; nothing if it is one."""
        made_of_it = [after for after in later if after not in _DISCRETE and self._depends(unit, after, name)]
        if any(_right(later[after]) for after in made_of_it):
            return MADE_GOOD
        if place.reordered:
            return REORDERED
        first = next((after for after in unit.taps if after in made_of_it and after in places), None)
        if first is not None and not inherited:
            before = list(unit.taps)[: list(unit.taps).index(first)]
            given = [other for other in before if other not in _TOGETHER.get(name, (name,))]
            if self._replayed(unit, first, given, places) <= PROMOTED_NOISE:
                return MADE_GOOD
        own_making = name != "mask" or place.form.step >= self._start(unit)  # most masks are made of no input
        return INPUT_WRONG if own_making and not self._enters(unit) else ""

    def _enters(self, unit: Unit) -> bool:
        """Whether what goes into a unit is in the port."""
        entry = self._entry(unit)
        return entry is None or bool(self.pairing.found(entry, made=False))

    def _guessed(self, unit: Unit, verdicts: dict[str, _Verdict], wrong: Endpoint) -> dict[str, _Verdict]:
        """For a unit that the port has in no form known: its first tap that is missing is what goes wrong there.

        Its figures are those of the first value of the port that nothing accounts for, if that is of the tap's size.
        """
        missing = [name for name in unit.taps if not _right(verdicts[name])]
        if not missing or not self._enters(unit):
            return {}
        name = missing[0]
        if any(_right(verdicts[other]) and self._depends(unit, other, name) for other in unit.taps):
            return {}
        expected = self.pairing.value(unit.taps[name][0])
        for ref in self.values.suspicion(self.room.port_refs(wrong)).strict:
            place = laid(self.room.tapes.port.value(ref), expected, name)
            if place is not None and expected.is_floating_point() and not place.reordered:
                return {name: replace(_as_is(place), ref=ref)}
        return {}

    def _depends(self, unit: Unit, after: str, before: str) -> bool:
        """Whether one tap is made of another, with no boundary between at which the port was handed something else."""
        reached = set(unit.taps[before])
        for number in range(self._start(unit), unit.taps[after][0].step + 1):
            step = self.pairing.ours.tape.steps[number]
            if any(ref in reached and not self.room.pins.hold(ref, step) for ref in self.pairing.ours.inputs[number]):
                reached |= set(step.refs)
        return after != before and unit.taps[after][0] in reached

    def _start(self, unit: Unit) -> int:
        """The first step of a unit."""
        region = self.room.context.calls.get(unit.call)
        own = [ref.step for name, forms in unit.taps.items() if name != "mask" for ref in forms]
        return min(own) if region is None else region.steps[0]

    def _own(self, unit: Unit, name: str, places: dict[str, Place]) -> float:
        """How far the port is from what the reference would make of the port's taps before this one."""
        names = list(unit.taps)
        before = names[: names.index(name)]
        plain = [other for other in before if other not in _TOGETHER]  # the others' form may be made up for
        own = places[name].error
        for given in (before, plain):
            if own > PROMOTED_NOISE:
                own = min(own, self._replayed(unit, name, given, places))
        return own

    def _replayed(self, unit: Unit, name: str, given: Sequence[str], places: dict[str, Place]) -> float:
        """How far the port is from the reference if that went on with what the port has at other taps."""
        others = [places[at] for at in given if at in places and at not in CHOICES]
        values = {place.form: back(place, self.pairing.value(place.form)) for place in others}
        place = places[name]
        if not values:
            return place.error
        try:
            value = self._again(unit, values, place.form)
            if name in CHOICES:
                chosen = self._again(unit, values, unit.taps[CHOICES[name]][0])
                value, chosen = value.reshape(place.own.shape), chosen.reshape(place.own.shape)
                value = value.gather(-1, chosen.argsort(-1))
        except Exception:  # whatever torch raises on values that do not fit after all
            return float("inf")
        value = shown(value, name)
        return relative_error(place.own, value) if place.own.shape == value.shape else float("inf")

    def _again(self, unit: Unit, values: dict[Ref, Tensor], wanted: Ref) -> Tensor:
        """What the reference has at one place if it has other values at others."""
        made = {ref.step for ref in values}
        numbers = tuple(n for n in range(self._start(unit), wanted.step + 1) if n not in made)
        playing = Playing(self.room.tapes.reference, Pins())
        with double():
            return again(playing, self.room.context, Region("", numbers, (), ()), values, wanted)


def _right(verdict: _Verdict) -> bool:
    return verdict.total is not None and verdict.total <= PROMOTED_NOISE


def _as_is(place: Place) -> _Verdict:
    return _Verdict(place.error, place.error, worst(place.own, place.expected), place.ref, place=place)
