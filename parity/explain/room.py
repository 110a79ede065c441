"""What a diagnosis works with: both runs recorded, and the reference played again with changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS, Endpoint
from parity.compare.measure import relative_error
from parity.compare.stages import Forward, Sides
from parity.compare.wires import Wire
from parity.explain.edit_config import rope_variants
from parity.explain.locate import Suspicion
from parity.explain.mutations import Context, Mutation, joined, propose, together
from parity.explain.play import Pins, Playing, play, uses
from parity.explain.record import Tapes
from parity.explain.roles import Role
from parity.explain.trace import Ref
from parity.pair.kept import Kept
from parity.pair.reference import Reference

_MOST_TURNS = 4  # of one operation in a module, which may each be wrong alone
_HUGE = 1e12  # numbers from which on none is meant as one


@dataclass(frozen=True)
class Room:
    """Everything that a diagnosis needs, made once."""

    described: Reference
    sides: Sides
    measured: Forward
    tapes: Tapes
    context: Context
    pins: Pins
    kept: Kept

    @classmethod
    def of(
        cls, described: Reference, sides: Sides, measured: Forward, tapes: Tapes, context: Context, kept: Kept
    ) -> "Room":
        """The room of one check."""
        return cls(described, sides, measured, tapes, context, pins(tapes, measured), kept)

    @cached_property
    def ropes(self) -> tuple[Mutation, ...]:
        """What the reference would do with other rope parameters."""
        model = self.sides.reference.model
        return self.kept.once("ropes", lambda: rope_variants(self.described, model, self.context))

    def proposals(self, steps: Sequence[int]) -> list[Mutation]:
        """Every mutation of some steps."""
        tables = any(self.context.place(self.tapes.reference.steps[n]).role == Role.frequencies for n in steps)
        return [
            *(self.ropes if tables else ()),
            *self._likely(joined(self.context, list(propose(self.context, steps)))),
        ]

    def _likely(self, proposals: Sequence[Mutation]) -> list[Mutation]:
        """Without changes of a single turn of what experts do one after the other, where all turns have the change."""

        def turn(mutation: Mutation) -> tuple[object, ...]:
            step = self.tapes.reference.steps[mutation.site]
            line = (step.frames[0].file, step.frames[0].line) if step.frames else ()
            return mutation.name, mutation.cause, step.module, line

        most: dict[tuple[object, ...], int] = {}
        for mutation in proposals:
            most[turn(mutation)] = max(most.get(turn(mutation), 0), len(mutation.edits))
        return [each for each in proposals if len(each.edits) > 1 or most[turn(each)] <= _MOST_TURNS]

    def with_numbers(self, suspicion: Suspicion) -> "Room":
        """The room with the numbers that the port used on the way to a wrong value, as candidates for mutations."""
        steps = [self.tapes.port.steps[ref.step] for ref in suspicion.unexplained]
        given = [value for step in steps for value in (*step.arguments, *step.keywords.values())]
        numbers = [float(v) for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
        found = tuple(dict.fromkeys(number for number in numbers if abs(number) < _HUGE))
        return replace(self, context=replace(self.context, at_hand=found))

    @cached_property
    def port_users(self) -> dict[Ref, list[int]]:
        """The port's steps that take each value."""
        return uses(self.tapes.port)

    def wires(self, endpoint: Endpoint) -> list[Wire]:
        """The wires that end at one place of the reference."""
        return [wire for wire in self.measured.wires if wire.reference == endpoint]

    def port_refs(self, endpoint: Endpoint) -> list[Ref]:
        """The port's values there."""
        if endpoint == LOGITS:
            return [self.tapes.port.logits] if self.tapes.port.logits else []
        found = [self.tapes.port.at(wire.port, wire.port_part) for wire in self.wires(endpoint)]
        return [ref for ref in dict.fromkeys(found) if ref is not None]

    def targets(self, endpoint: Endpoint) -> list[Ref]:
        """The reference's values there."""
        if endpoint == LOGITS:
            return [self.tapes.reference.logits] if self.tapes.reference.logits else []
        found = [self.tapes.reference.at(endpoint, wire.reference_part) for wire in self.wires(endpoint)]
        return [ref for ref in dict.fromkeys(found) if ref is not None]

    def residual(self, endpoint: Endpoint, playing: Playing) -> float:
        """How far the port's values at a place are from those that a changed reference has there."""
        if endpoint == LOGITS:
            assert self.tapes.reference.logits is not None
            value = playing.own(self.tapes.reference.logits)
            return isolation.logits_error(self.measured.isolated.trace.logits, value)
        worst = 0.0
        for wire in self.wires(endpoint):
            own = self.measured.isolated.trace.at(wire.port)
            ref = self.tapes.reference.at(endpoint, wire.reference_part)
            if ref is not None and playing.own(ref).shape != self.tapes.reference.value(ref).shape:
                return float("inf")  # a change that does not fit the shapes here
            laid = None if own is None or ref is None else wire.laid(own[wire.port_part], playing.own(ref))
            if laid is None or laid[0].shape != laid[1].shape:
                return float("inf")
            error = relative_error(*laid)
            worst = max(worst, error) if error == error else float("inf")  # noqa: PLR0124 (NaN)
        return worst

    def play(self, mutations: Sequence[Mutation], until: int, most: int | None = None) -> Playing | None:
        """Play the reference with mutations; None if they do not fit the shapes here, or change nothing."""
        try:
            edits = together(mutations).edits
            playing = play(self.tapes.reference, edits, self.context.users, self.pins, until, most)
        except Exception:
            return None
        return playing if playing.changed else None


def pins(tapes: Tapes, measured: Forward) -> Pins:
    """What the port was handed at each boundary is handed on in the reference too."""
    everywhere: set[Ref] = set()
    inside: dict[Ref, set[tuple[str, int]]] = {}
    for wire in measured.wires:
        ref = tapes.reference.at(wire.reference, wire.reference_part)
        if ref is None or wire.reference in measured.isolated.elsewhere:
            continue
        if wire.reference.kind == "output":
            everywhere.add(ref)
        else:
            inside.setdefault(ref, set()).add((wire.reference.module, wire.reference.number))
    return Pins(frozenset(everywhere), {ref: frozenset(calls) for ref, calls in inside.items()})
