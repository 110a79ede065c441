"""What a port has in the place of the reference's taps, laid over them.

A unit of the port stands where one of the reference does if both are the same in number, in the order in which they
run. Where a port has several for each, head by head or row by row, these together are it, if any of their values
is the reference's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from parity.compare.measure import Layout, best_layout, distance, layouts, relative_error
from parity.compare.wires import Wire, by_endpoint
from parity.explain.match import Index, is_layout, key_of, norm_of
from parity.explain.room import Room
from parity.explain.tap_places import Places, Unit
from parity.explain.trace import Ref
from parity.records import PROMOTED_NOISE

CHOICES = {"experts": "experts", "expert_weights": "experts", "indices": "indices"}  # whose order means nothing
MASKED = -1e3  # a score this low is hidden, whatever number an author hides scores with
_SAME_PLACE = {"index_scores": "router_scores", "indices": "experts"}  # a port is not asked what it chooses for
_MOST_PIECES = 17


@dataclass(frozen=True)
class Place:
    """What a port has where the reference has a tap.

    form is the reference's value that it was laid over, own and expected the two of them in one layout; error says how
    far they are apart. whole is own with what a mask hides.
    """

    form: Ref
    ref: Ref
    own: Tensor
    expected: Tensor
    error: float
    whole: Tensor | None = None

    @property
    def right(self) -> bool:
        """Whether the two are equal."""
        return self.error <= PROMOTED_NOISE

    @property
    def reordered(self) -> bool:
        """Whether the two differ in nothing but order."""
        if self.own.dtype == torch.bool:
            return int(self.own.sum()) == int(self.expected.sum())
        mine, other = key_of(self.expected), key_of(self.own)
        return mine is not None and other is not None and mine.near(other)

    @property
    def scaled(self) -> bool:
        """Whether the two differ in nothing but order and a factor."""
        mine, other = key_of(self.expected), key_of(self.own)
        return mine is not None and other is not None and mine.scaled(other)


@dataclass(frozen=True)
class Pairing:
    """Both runs of one check, and what stands where."""

    room: Room
    _indices: dict[tuple[int, bool], Index] = field(default_factory=dict)

    @cached_property
    def ours(self) -> Places:
        """The reference's run."""
        return Places(self.room.tapes.reference, self.room.sides.reference.model)

    @cached_property
    def theirs(self) -> Places:
        """The port's run."""
        return Places(self.room.tapes.port, self.room.tapes.port_model, named=False)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What the reference has taps in."""
        return self.ours.units()

    def value(self, ref: Ref) -> Tensor:
        """A value of the reference."""
        return self.ours.tape.value(ref)

    # What the port has of a value, wherever

    @cached_property
    def handed(self) -> frozenset[Ref]:
        """What the port was handed, and only moved around: that it has such a value says nothing of what it makes."""
        found: set[Ref] = set()
        for step, inputs in zip(self.theirs.tape.steps, self.theirs.inputs, strict=True):
            if is_layout(step.name) and step.name != "written" and found.issuperset(inputs):
                found |= set(step.refs)
        return frozenset(found)

    @cached_property
    def sized(self) -> dict[int, list[Ref]]:
        """The port's values by size."""
        found: dict[int, list[Ref]] = {}
        for step in self.theirs.tape.steps:
            for ref, value in zip(step.refs, step.values, strict=True):
                found.setdefault(value.numel(), []).append(ref)
        return found

    def _index(self, size: int, made: bool) -> Index:
        """The port's values of one size: those that it made, or all."""
        if (size, made) not in self._indices:
            refs = [ref for ref in self.sized.get(size, ()) if not (made and ref in self.handed)]
            values = {ref: self.theirs.tape.value(ref) for ref in refs}
            index = self._indices[size, made] = Index(self.theirs.tape)
            for ref in sorted(refs, key=lambda ref: norm_of(values[ref])):  # an index is searched by norm
                index.add(ref, values[ref])
        return self._indices[size, made]

    def found(self, value: Tensor, made: bool = True) -> list[Ref]:
        """Where a value stands in the port, whole, or row by row, or head by head.

        Args:
            value: of the reference.
            made: leave out what the port was handed further on, which says nothing of how it came about.
        """
        hit = self._index(value.numel(), made).find(value)
        if hit is not None and hit[1] == "same":
            return [hit[0]]
        for axis in range(min(2, value.ndim - 2)):
            pieces = value.unbind(axis) if 1 < value.shape[axis] < _MOST_PIECES else ()
            hits = [self._index(piece.numel(), made).find(piece) for piece in pieces]
            refs = [hit[0] for hit in hits if hit is not None and hit[1] == "same"]
            if refs and len(refs) == len(pieces):
                return refs
        return []

    def elsewhere(self, forms: Iterable[Ref]) -> Place | None:
        """A tap beside what equals it in some layout, in whatever place it is."""
        for form in forms:
            expected = self.value(form)
            refs = self.found(expected)
            if len(refs) == 1:
                place = laid(self.theirs.tape.value(refs[0]), expected, "")
                if place is not None and place.right:
                    return replace(place, form=form, ref=refs[0])
            if refs:  # in pieces, or in a layout of more axes: what differs is measured in the order of size
                own = torch.cat([self.theirs.tape.value(ref).flatten() for ref in refs])
                flat, other = (shown(value.flatten(), "scores").sort().values for value in (own, expected))
                return Place(form, refs[0], expected, expected, min(relative_error(flat, other), PROMOTED_NOISE))
        return None

    # What the port has in the same place

    @cached_property
    def partners(self) -> Mapping[Ref, tuple[Unit, ...]]:
        """What the port has in the place of each unit, by the unit's last value."""
        found: dict[Ref, tuple[Unit, ...]] = {}
        for kind in ("attention", "mlp", "router"):
            own = [unit for unit in self.units if unit.kind == kind]
            others = self.theirs.units((kind,))
            for number, unit in enumerate(own):
                for group in _groups(others, number, len(own)):
                    if len(others) == len(own) or self._fits(unit, group):
                        found[unit.last] = group
                        break
        return found

    def _fits(self, unit: Unit, group: Sequence[Unit]) -> bool:
        """Whether any value of a unit is that of the reference."""
        places = (self._place(name, forms, group) for name, forms in unit.taps.items() if name != "mask")
        return any(place is not None and place.right for place in places)

    @cached_property
    def wired(self) -> dict[Ref, Wire]:
        """The reference's values that were compared as boundaries, before they are moved around."""
        measured = self.room.measured
        found: dict[Ref, Wire] = {}
        for endpoint, wires in by_endpoint(measured.wires, "reference").items():
            ref = self.ours.tape.at(endpoint, wires[0].reference_part)
            if ref is not None and len(wires) == 1 and endpoint not in measured.isolated.elsewhere:
                found.setdefault(self.ours.before_layout(ref), wires[0])
        return found

    def places(self, unit: Unit) -> dict[str, Place]:
        """What the port has where the reference has each tap, as far as both are of one size."""
        group = self.partners.get(unit.last, ())
        found = {}
        for name, forms in unit.taps.items():
            place = None if name == "mask" or name in CHOICES else self._compared(forms)
            if place is None and group:
                place = self._mask(unit, group) if name == "mask" else self._place(name, forms, group)
            if place is not None:
                found[name] = place
        return _in_one_order(found)

    def has(self, unit: Unit, name: str) -> bool:
        """Whether the port has anything in the place of a tap, be it of another size."""
        group = self.partners.get(unit.last, ())
        return bool(group) and _SAME_PLACE.get(name, name) in group[0].taps

    def _compared(self, forms: Sequence[Ref]) -> Place | None:
        """A tap that is a boundary as well, as it was compared there."""
        wire = next((self.wired[bare] for form in forms if (bare := self.ours.before_layout(form)) in self.wired), None)
        if wire is None:
            return None
        form = self.ours.tape.at(wire.reference, wire.reference_part)
        ref = self.theirs.tape.at(wire.port, wire.port_part)
        both = None if form is None or ref is None else wire.laid(self.theirs.tape.value(ref), self.value(form))
        if form is None or ref is None or both is None or both[0].shape != both[1].shape:
            return None
        return Place(form, ref, *both, relative_error(*both))

    def _place(self, name: str, forms: Sequence[Ref], group: Sequence[Unit]) -> Place | None:
        best: Place | None = None
        for form in forms:
            for ref, other in self._together(group, _SAME_PLACE.get(name, name)):
                place = laid(other, self.value(form), name)
                if place is not None and (best is None or place.error < best.error):
                    best = replace(place, form=form, ref=ref)
        return best

    def _together(self, group: Sequence[Unit], name: str) -> Iterator[tuple[Ref, Tensor]]:
        """The forms of a value in a group of the port's units, each with its first part's number."""
        each = [unit.taps.get(name, ()) for unit in group]
        for forms in zip(*each, strict=False):
            values = [self.theirs.tape.value(ref) for ref in forms]
            values = values if len(values) == 1 else [value.squeeze() for value in values]
            if len({value.shape for value in values}) == 1:
                yield forms[0], values[0] if len(values) == 1 else torch.stack(values)

    def _mask(self, unit: Unit, group: Sequence[Unit]) -> Place | None:
        """What is hidden, `[B, H, T, S]` bool, told by what became of the scores, or by what a function was given."""
        if unit.hidden is None:
            return None
        scores = self.value(unit.hidden)
        partner, tape = group[0], self.theirs.tape
        if partner.hidden is not None:
            place = self._place("scores", (unit.hidden,), group)
            own, ref = (None, partner.hidden) if place is None or place.whole is None else (place.whole, place.ref)
            own = None if own is None else own <= MASKED
        else:
            given = partner.taps.get("mask", ())
            ref = given[0] if given else partner.last
            own = _hidden(tape.value(given[0]) if given else None, partner.causal, scores.shape)
        if own is None:
            return None
        expected = scores <= MASKED
        return Place(unit.taps["mask"][0], ref, own, expected, relative_error(own, expected))


def _groups(others: Sequence[Unit], number: int, count: int) -> Iterator[tuple[Unit, ...]]:
    """The units of a port that may together be one of the reference's: next to each other, or one of each round."""
    size, rest = divmod(len(others), count)
    if size and not rest:
        yield tuple(others[number * size : (number + 1) * size])
        yield tuple(others[number::count])
    else:
        yield from ((other,) for other in others)


def shown(value: Tensor, name: str) -> Tensor:
    """Scores with nothing where something is hidden; everything else as it is."""
    return value.where(value > MASKED, 0.0) if name == "scores" else value


def laid(own: Tensor, expected: Tensor, name: str) -> Place | None:
    """A port's value laid over the reference's; None if they are not of one size and kind."""
    if own.numel() != expected.numel() or own.is_floating_point() != expected.is_floating_point() or own.is_complex():
        return None
    whole = own
    own, expected = shown(own, name), shown(expected, name)
    if name in CHOICES:
        expected = expected.reshape(-1, expected.shape[-1])
        own = own.reshape(expected.shape)
        return Place(Ref(0), Ref(0), own, expected, relative_error(own, expected))
    found = best_layout(own, expected)
    if found is None:
        return None
    layout, error = found
    if error > PROMOTED_NOISE:

        def fit(each: Layout) -> tuple[int, float]:
            """What a mask hides tells queries from keys, where there are as many."""
            hidden = (each.to_reference(own, expected.shape) == 0) != (expected == 0)
            return int(hidden.sum()), distance(each, own, expected)

        layout = min(layouts(own.shape, expected.shape), key=fit)
    moved = layout.to_reference(own, expected.shape)
    error = relative_error(moved, expected)
    return Place(Ref(0), Ref(0), moved, expected, error, layout.to_reference(whole, expected.shape))


def _in_one_order(places: dict[str, Place]) -> dict[str, Place]:
    """Choices and their weights in the order of the chosen's numbers, on both sides."""
    chosen = places.get("experts") or places.get("indices")
    if chosen is None:
        return places
    orders = chosen.own.argsort(-1), chosen.expected.argsort(-1)
    for name in set(CHOICES) & set(places):
        place = places[name]
        own, expected = place.own.gather(-1, orders[0]), place.expected.gather(-1, orders[1])
        places[name] = replace(place, own=own, expected=expected, error=relative_error(own, expected))
    return places


def _hidden(given: Tensor | None, causal: bool, shape: torch.Size) -> Tensor | None:
    """What an attention function hides, `[B, H, T, S]` bool; None if that does not fit."""
    hidden = torch.zeros(shape, dtype=torch.bool)
    if causal:
        hidden = hidden | torch.ones(shape[-2:], dtype=torch.bool).triu(1)
    if given is not None:
        told = ~given if given.dtype == torch.bool else given <= MASKED
        if told.ndim > len(shape) or any(a not in (1, b) for a, b in zip(told.shape[::-1], shape[::-1], strict=False)):
            return None
        hidden = hidden | told
    return hidden


def back(place: Place, form: Tensor) -> Tensor:
    """The port's value as the reference would go on with it: masks as numbers that are added."""
    if place.own.dtype == torch.bool and form.is_floating_point():
        return torch.zeros(place.own.shape, dtype=form.dtype).masked_fill(place.own, torch.finfo(form.dtype).min)
    if place.own.dtype == torch.bool:
        return place.own if bool(torch.equal(form.expand_as(place.expected), place.expected)) else ~place.own
    return place.own if place.whole is None else place.whole
