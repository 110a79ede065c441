"""The reason: the change to the reference under which it gives what the port gives.

Mutations are tried on the guilty segment alone, with everything before it as the reference has it, so that several
faults are told apart. One that gives the port's value is an explanation; where none does, those that give values which
the port computes on the way are, one after the other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.compare.capture import LOGITS, Endpoint
from parity.explain.locate import Suspicion, Values
from parity.explain.match import Key, key_of, mask_of, moves, norm_of, same
from parity.explain.mutations import Context, Mutation, Region, lifted
from parity.explain.play import Playing, backward
from parity.explain.roles import Role
from parity.explain.room import Room
from parity.explain.trace import Ref, Tape
from parity.names import numbers, template
from parity.pair.promote import double
from parity.records import PROMOTED_NOISE, Explanation

REPRODUCED = 1e-10  # residual from which on a mutation counts as the cause
_MOST_STEPS = 170  # operations of the reference that are tried; a segment between two modules has far fewer
_MOST_FAULTS = 3
_LEAVING = 60  # operations of a whole model that are tried, from where the port leaves it
_NEAR = 120  # values of the port that are looked for then
_HORIZON = 40  # operations after a change that are looked at, where what comes of it in the end is too far off
_EQUAL = 1e-14
_PAIRED = 24
_TELLING = 256  # elements from which on equal moments are no accident
_LIFTED = 6
_MOST_PARTS = 64  # heads and the like that a port may have apart
_TOLD = 3


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the mutations that stand for it, the likeliest first.

    residual: how far the reference is from the port with the first of them, and with those of all faults before it.
    explained: the port's values that only the mutated reference has, in the order they were made. bare: those that
    equal what the mutated operations themselves give.
    """

    mutations: tuple[Mutation, ...]
    residual: float
    explained: tuple[Ref, ...]
    bare: tuple[Ref, ...] = ()

    @property
    def first(self) -> Mutation:
        """The likeliest."""
        return self.mutations[0]


@dataclass(frozen=True)
class Diagnosis:
    """What is known of one wrong value: who is suspected, and what explains it, one entry per fault."""

    suspicion: Suspicion
    faults: tuple[Fault, ...] = ()
    solved: bool = False


@dataclass(frozen=True)
class _Wanted:
    """Values of the port that nothing accounts for yet, to be looked up by values of a changed reference."""

    tables: Mapping[int, list[tuple[Key, Ref]]]
    masks: list[tuple[Tensor, Ref]]
    whole: Mapping[int, list[Ref]]
    room: Room
    values: Values

    @classmethod
    def of(cls, room: Room, refs: Iterable[Ref], values: Values) -> "_Wanted":
        tables: dict[int, list[tuple[Key, Ref]]] = {}
        masks: list[tuple[Tensor, Ref]] = []
        whole: dict[int, list[Ref]] = {}
        for ref in refs:
            value = room.tapes.port.value(ref)
            mask = mask_of(value)
            key = key_of(value)
            if mask is not None:
                masks.append((mask, ref))
            elif key is not None:
                tables.setdefault(key.size, []).append((key, ref))
            elif not value.is_floating_point():
                whole.setdefault(value.numel(), []).append(ref)
        return cls(tables, masks, whole, room, values)

    def found(self, changed: Mapping[Ref, Tensor], loosely: bool = False, apart: bool = False) -> tuple[Ref, ...]:
        """Those that are among the changed values; loosely, also in some other order; apart, also one part of them."""
        found: set[Ref] = set()
        for value in changed.values():
            if value.dtype == torch.bool or (value.ndim > 2 and value.shape[-1] == value.shape[-2] and self.masks):
                mask = mask_of(value)
                if mask is not None:
                    found |= {ref for other, ref in self.masks if _same_mask(mask, other)}
                    continue
            if apart and value.is_floating_point() and value.ndim > 2:
                found |= self._parts(value)
            if value.numel() in self.tables and (value.is_floating_point() or value.is_complex()):
                norm = norm_of(value)
                if not any(abs(norm - other.norm) <= PROMOTED_NOISE * norm for other, _ in self.tables[value.numel()]):
                    continue
                key = key_of(value)
                near = [ref for other, ref in self.tables[value.numel()] if key is not None and key.near(other)]
                wide = loosely and value.numel() >= _TELLING
                found |= {ref for ref in near if wide or same(self.room.tapes.port.value(ref), value)}
            elif value.numel() in self.whole and not value.is_floating_point():
                found |= {ref for ref in self.whole[value.numel()] if same(self.room.tapes.port.value(ref), value)}
        return tuple(sorted(found))

    def _parts(self, value: Tensor) -> set[Ref]:
        """Those that are one head, one row or one token of a value."""
        found: set[Ref] = set()
        for part in self._cut(value):
            key = key_of(part)
            near = [ref for other, ref in self.tables.get(part.numel(), ()) if key is not None and key.near(other)]
            found |= {ref for ref in near if same(self.room.tapes.port.value(ref), part)}
        return found

    def _cut(self, value: Tensor) -> Iterator[Tensor]:
        """A value along each axis, and its features in as many pieces as make them as large as one looked for."""
        for axis in range(value.ndim - 1):
            if value.numel() // max(1, value.shape[axis]) in self.tables and 1 < value.shape[axis] <= _MOST_PARTS:
                yield from value.unbind(axis)
        for size in self.tables:
            count = value.numel() // size
            if size * count == value.numel() and 1 < count <= _MOST_PARTS and value.shape[-1] % count == 0:
                yield from value.chunk(count, -1)


def _same_mask(first: Tensor, second: Tensor) -> bool:
    return first.shape[-2:] == second.shape[-2:] and bool((first == second).all())


@torch.no_grad()
def diagnose(room: Room, endpoint: Endpoint, values: Values) -> Diagnosis:
    """Explain the port's value at one place of the reference.

    Args:
        room: of this check.
        endpoint: where the port is wrong by itself.
        values: the port's values against those of the reference.
    """
    suspicion = values.suspicion(room.port_refs(endpoint))
    first = suspicion
    faults: list[Fault] = []
    solved = False
    room = room.with_numbers(first)
    with double():
        for _ in range(_MOST_FAULTS):
            base = [fault.first for fault in faults]
            steps = _segment(room, endpoint, base)
            near = suspicion.unexplained if steps.whole else suspicion.unexplained[:_NEAR]
            fault = _fault(room, endpoint, steps, base, _Wanted.of(room, near, values))
            if fault is None:
                break
            faults.append(fault)
            if fault.residual <= REPRODUCED:
                solved = True
                break
            playing = room.play([each.first for each in faults], _until(room, endpoint))
            values = Values.of(room.tapes, playing.changed if playing else {})
            suspicion = values.suspicion(room.port_refs(endpoint))
        if not faults:
            faults = list(_pairs(room, endpoint, _segment(room, endpoint, [])))
            solved = bool(faults)
    return Diagnosis(first, tuple(faults), solved)


def _meant_for(room: Room, endpoint: Endpoint, wanted: _Wanted) -> Fault | None:
    """Where the port has a value that the reference has at another place."""
    targets, own = room.targets(endpoint), room.port_refs(endpoint)
    if len(targets) != 1 or not own or endpoint == LOGITS:
        return None
    found = wanted.values.index.find(room.tapes.port.value(own[0]))
    if found is None or found[1] != "same" or found[0] == targets[0] or found[0].step < 0:
        return None
    other, target = found[0], room.tapes.reference.steps[targets[0].step]
    what, verb = room.context.name_of(other), "were given" if endpoint.kind == "input" else "gave"
    ends = endpoint.module, what.split()[-1]
    blocks = {room.context.place(target).role, room.context.role_of(ends[1])}
    if len({numbers(name)[:1] for name in ends} | {()}) == 2 and Role.layer not in map(room.context.role_of, ends):
        blocks = set()  # both are in one layer
    outer = room.context.role_of(endpoint.module.rpartition(".")[0])
    cause = "layer-wiring" if Role.layer in blocks else "residual-topology"
    mutation = Mutation(
        "gate-up-order" if outer in (Role.mlp, Role.experts) and endpoint.kind == "input" else cause,
        f"{template(endpoint.module)} {endpoint.kind} <- {template(what)}",
        f"behaves as if {endpoint.module} {verb} {what}",
        {target.number: lambda playing, step: (playing.tape.value(other).reshape(step.values[0].shape),)},
        target.number,
        moves=True,
        pair=_stands_for(room.context, endpoint, targets[0], other),
    )
    playing = room.play([mutation], target.number)
    if playing is None or not (residual := room.residual(endpoint, playing)) <= REPRODUCED:
        return None
    return Fault((mutation,), residual, ())


def _stands_for(context: Context, endpoint: Endpoint, target: Ref, other: Ref) -> tuple[str, str]:
    """The modules that are in each other's place: of one class, called on each other's value, or what made the two."""
    kind = context.classes.get(endpoint.module)
    for end, refs in context.tape.marks.items():
        alike = end.module != endpoint.module and context.classes.get(end.module) == kind
        if alike and end.kind == "input" and other in refs:
            return endpoint.module, end.module
    return context.maker(target).module, context.maker(other).module


def _until(room: Room, endpoint: Endpoint) -> int:
    return max((ref.step for ref in room.targets(endpoint)), default=0)


@dataclass(frozen=True)
class _Segment:
    """The steps of the reference that a wrong value can come from. whole: these are all, so that one of them explains
    the value if anything does; else those where the port leaves the reference.
    """

    chosen: tuple[int, ...]
    whole: bool


def _segment(room: Room, endpoint: Endpoint, base: Sequence[Mutation]) -> _Segment:
    """The steps that the wrong value can come from, in order; of a whole model, those where the port leaves it."""
    tape = room.tapes.reference
    refs = backward(tape, room.targets(endpoint), room.pins.hold)
    steps = sorted({ref.step for ref in refs if tape.steps[ref.step].function is not None})
    if _lines(tape, steps) <= _MOST_STEPS:
        return _Segment(tuple(steps), True)
    playing = room.play(base, _until(room, endpoint)) if base else None
    port = Values.between(tape, room.tapes.port, playing.changed if playing else {})
    missing = [number for number in steps if not all(port.accounted(ref) for ref in tape.steps[number].refs)]
    if not missing:
        return _Segment(tuple(steps[-_LEAVING:]), False)
    chosen = missing[:_LEAVING]
    taken = {moved.step for number in chosen for ref in tape.steps[number].inputs for moved in moves(tape, ref)}
    taken |= {ref.step for number in chosen for call in _layers_around(room, number) for ref in call.outputs}
    return _Segment(tuple(sorted({*chosen, *(n for n in taken if tape.steps[n].function is not None)})), False)


def _lines(tape: Tape, steps: Sequence[int]) -> int:
    """How many operations are written there: one that every expert runs in turn is one."""
    made = (tape.steps[number] for number in steps)
    return len({(step.module, step.name, *(frame.line for frame in step.frames[:2])) for step in made})


def _layers_around(room: Room, number: int) -> list[Region]:
    calls = room.tapes.reference.steps[number].modules
    return [room.context.calls[call] for call in calls if room.context.role_of(call[0]) == Role.layer]


def _fault(room: Room, endpoint: Endpoint, steps: _Segment, base: Sequence[Mutation], wanted: _Wanted) -> Fault | None:
    """The mutations that, on top of `base`, reproduce the port; else those that account for most of its values."""
    proposals = room.proposals(steps.chosen)
    until = _until(room, endpoint)
    likely, others = _tiers(proposals)
    hits = _reproducing(room, endpoint, likely, base) if steps.whole else []
    if hits:
        return _told(room, endpoint, hits, wanted.values)
    meant = _meant_for(room, endpoint, wanted) if not base else None
    if meant is not None:
        return meant
    hits = _reproducing(room, endpoint, others, base) if steps.whole else []
    if hits:
        return _told(room, endpoint, hits, wanted.values)
    best: list[tuple[Mutation, Playing]] = []
    most = 0
    for mutation in proposals:
        playing = room.play([*base, mutation], until, None if steps.whole else _HORIZON)
        count = len(wanted.found(playing.changed)) if playing is not None else 0
        if playing is not None and count > most:
            most, best = count, []
        if playing is not None and count == most > 0:
            best.append((mutation, playing))
    return _told(room, endpoint, _in_other_layers(room, endpoint, best, base, wanted), wanted.values) if best else None


def _reproducing(
    room: Room, endpoint: Endpoint, tier: Sequence[Mutation], base: Sequence[Mutation]
) -> list[tuple[Mutation, Playing]]:
    """Those mutations that give what the port gives, and about as exactly as the best of them."""
    until = _until(room, endpoint)
    hits = []
    for mutation in tier:
        playing = room.play([*base, mutation], until)
        residual = float("inf") if playing is None else room.residual(endpoint, playing)
        if playing is not None and residual <= REPRODUCED:
            hits.append((residual, mutation, playing))
    best = min((residual for residual, _, _ in hits), default=0.0)
    return [(mutation, playing) for residual, mutation, playing in hits if residual <= 100 * best + _EQUAL]


def _told(room: Room, endpoint: Endpoint, found: Sequence[tuple[Mutation, Playing]], values: Values) -> Fault:
    made_of = _Wanted.of(room, backward(room.tapes.port, room.port_refs(endpoint), lambda ref, _: False), values)
    ranked = _ranked(made_of, found)
    playing = ranked[0][1]
    explained = made_of.found(playing.changed, loosely=True, apart=True)
    if not explained:  # the value came about out of sight; what computes it may still be seen
        written = [ref for step in room.tapes.port.steps if step.frames for ref in step.refs]
        explained = _Wanted.of(room, written, values).found(playing.changed)
    sites = {ref: value for ref, value in playing.changed.items() if ref.step in ranked[0][0].edits}
    mutations = tuple({each.text: each for each, _ in reversed(ranked)}.values())[::-1]
    return Fault(mutations, room.residual(endpoint, playing), explained, made_of.found(sites, apart=True))


def _ranked(made_of: _Wanted, found: Sequence[tuple[Mutation, Playing]]) -> list[tuple[Mutation, Playing]]:
    """The likeliest first; where several causes would do, that which accounts for more of the port's own values."""
    by_weight = sorted(found, key=lambda each: each[0].weight)
    first = {mutation.cause: (mutation, playing) for mutation, playing in reversed(by_weight)}
    if len(first) == 1:
        return by_weight
    counts = {}
    for cause, (_, playing) in first.items():
        wrong = made_of.found(playing.changed, apart=True)
        counts[cause] = sum(not made_of.values.accounted(ref) for ref in wrong)
    most = max(counts.values())
    return sorted(by_weight, key=lambda each: (most - counts[each[0].cause], each[0].weight))


def _tiers(proposals: Sequence[Mutation]) -> list[list[Mutation]]:
    """The likelier slips first; the others are tried only if none of these is it."""
    likely = [mutation for mutation in proposals if mutation.weight <= 1.0]
    return [likely, [mutation for mutation in proposals if mutation.weight > 1.0]]


def _in_other_layers(
    room: Room,
    endpoint: Endpoint,
    found: Sequence[tuple[Mutation, Playing]],
    base: Sequence[Mutation],
    wanted: _Wanted,
) -> list[tuple[Mutation, Playing]]:
    """Where a stretch holds several layers, what is wrong in one is likely wrong in all, or in all of its kind."""
    until = _until(room, endpoint)
    ranked = sorted(found, key=lambda each: each[0].weight)[:_LIFTED]
    choices = [each for mutation, _ in ranked for each in lifted(room.context, mutation)] or [
        each for each, _ in ranked
    ]
    tried = [(mutation, room.play([*base, mutation], until)) for mutation in choices]
    fitting = [(mutation, playing) for mutation, playing in tried if playing is not None]
    scores = [
        (room.residual(endpoint, playing) <= REPRODUCED, len(wanted.found(playing.changed))) for _, playing in fitting
    ]
    best = max(scores)
    return [each for each, score in zip(fitting, scores, strict=True) if score == best]


def _pairs(room: Room, endpoint: Endpoint, steps: _Segment) -> tuple[Fault, ...]:
    """Two mutations at once, of those that by themselves come nearest to the port."""
    if not steps.whole:
        return ()
    proposals = room.proposals(steps.chosen)
    until = _until(room, endpoint)
    played = [(mutation, room.play([mutation], until)) for mutation in proposals]
    ranked = sorted(
        ((room.residual(endpoint, playing), place) for place, (_, playing) in enumerate(played) if playing is not None)
    )
    nearest = [played[place][0] for _, place in ranked[:_PAIRED]]
    for place, first in enumerate(nearest):
        for second in nearest[place + 1 :]:
            playing = room.play([first, second], until)
            residual = float("inf") if playing is None else room.residual(endpoint, playing)
            if residual <= REPRODUCED:
                return Fault((first,), residual, ()), Fault((second,), residual, ())
    return ()


def explanations(fault: Fault, residual: float) -> tuple[Explanation, ...]:
    """What is told of the mutations that stand for a fault."""
    return tuple(Explanation(each.cause, each.name, residual, each.text) for each in fault.mutations[:_TOLD])
