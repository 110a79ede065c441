"""The line of the port that a fault is on: the step that makes a wrong value, or the call that led to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from parity.compare.capture import Endpoint
from parity.explain.choices import Choices
from parity.explain.diagnose import Diagnosis, Fault
from parity.explain.left_out import LeftOut
from parity.explain.locate import Code, Values, source_at
from parity.explain.match import is_layout, moves, same
from parity.explain.play import backward
from parity.explain.repair import repairs
from parity.explain.roles import Role
from parity.explain.sight import Sight
from parity.explain.syntax import rebound_at
from parity.explain.trace import Frame, Ref, Step
from parity.pair.promote import double
from parity.records import Source

_NEAR = 8  # steps
_LOOKED_AT = 8  # values that are wrong, of which one has to come right
_OUTER = 3  # frames around an operation that may be where its operands got their names
_BEFORE = 40  # operations before a wrong value among which one is looked for that is there twice
_PARTING = ("chunk", "split", "unbind", "tensor_split", "split_with_sizes")
_REPEATING = ("repeat", "repeat_interleave", "tile")  # what shares key/value heads


@dataclass(frozen=True)
class Lines:
    """One check's faults being looked up in the port's code."""

    sight: Sight

    def of(self, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> Source | None:
        """The line of a fault that is told by what reproduces it."""
        residual = (
            self.sight.room.context.place(self.sight.room.tapes.reference.steps[fault.first.site]).role == Role.layer
        )
        misled = fault.first.omits and residual and self._is_bare(endpoint, fault)
        if endpoint.kind == "input" and (misled or (fault.first.moves and self._at(endpoint, fault))):
            return self.sight.calling(endpoint)
        if (unread := Choices(self.sight).unread(fault)) is not None:
            return unread
        if fault.first.cause == "rope-scaling-dropped":
            left_out = LeftOut(self.sight)
            idle = (left_out.neutral(made, fault) for made in fault.bare)
            source = next((each for each in idle if each is not None), None) or left_out.early(fault)
            if source is not None:
                return source
        if fault.first.omits and found.solved and (left := LeftOut(self.sight).line(fault)) is not None:
            return left
        return self._rebound(found, fault) or self._told(endpoint, found, fault)

    def _told(self, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> Source | None:
        if fault.first.name.startswith("rope table of neighbours") and (table := self._reordered(found)) is not None:
            return self.source(table, None)
        step = self._twice(fault) or self.culprit(found, fault)
        if step is None:
            return self.sight.calling(endpoint)
        if "head axis" in fault.first.name and (table := self._table_of(step)) is not None:
            return self.sight.code.source(table)
        if fault.first.pair is not None and (parted := self._parted(step)) is not None:
            return self.source(parted, None)
        if fault.first.cause == "split-layout" and (named := self._named(step, fault)) is not None:
            return named
        return Choices(self.sight).chosen(step, fault) or self._mended(found, fault, step) or self.source(step, fault)

    def _mended(self, found: Diagnosis, fault: Fault, step: Step) -> Source | None:
        """The line of another operation that leads up to a wrong one, where a change to that one mends the port."""
        tape = self.sight.room.tapes.port
        odd = [ref for ref in fault.explained if self.sight.values.relation(ref) != "same"]
        wrong = [ref for ref in odd if tape.steps[ref.step].frames]
        given = [ref for ref in tape.steps[wrong[0].step].inputs if tape.steps[ref.step].inputs] if wrong else []
        of_another = fault.first.moves and fault.first.cause == "rope-layer-type"
        if not of_another and (fault.first.moves or all(self.sight.values.relation(ref) == "same" for ref in given)):
            return None
        rights = self._rights(fault, wrong[:_LOOKED_AT])
        best = next(
            iter(repairs(self.sight.room, self.sight.values, wrong[:1], rights, self.sight.numbers, of_another)), None
        )
        frames = self.sight.code.frames(best.step) if best is not None else []
        here = self.sight.code.source(step)
        if best is None or not frames or here is None:
            return None
        if best.number is None and self._outward(best.step, frames, False) is not frames[0]:
            return None
        hops = 1 if fault.first.cause == "rope-layer-type" else None
        line = frames[0].line if best.number is None else self.sight.number_from(best.step, best.number, hops)
        return None if line == here.line else source_at(frames[0].file, line)

    def _rights(self, fault: Fault, wrong: Sequence[Ref]) -> dict[Ref, Tensor]:
        """What the reference has in the place of wrong values, which the changed reference gives as well."""
        tapes = self.sight.room.tapes
        with double():
            playing = self.sight.room.play([fault.first], len(tapes.reference.steps))
        found: dict[Ref, Tensor] = {}
        for ref in wrong:
            value = tapes.port.value(ref)
            for other, changed in playing.changed.items() if playing is not None and value.is_floating_point() else ():
                if value.numel() == changed.numel() and same(value, changed):
                    found[ref] = tapes.reference.value(other)
                    break
        return found

    def _is_bare(self, endpoint: Endpoint, fault: Fault) -> bool:
        """Whether the very value that something was left out on is what a module is given."""
        return bool(set(self.sight.room.port_refs(endpoint)) & set(fault.bare))

    def _reordered(self, found: Diagnosis) -> Step | None:
        """The first step that gives a value of the reference's in another order."""
        tape = self.sight.room.tapes.port
        refs = [ref for ref in found.suspicion.strict if tape.value(ref).is_floating_point()]
        first = next((ref for ref in refs if tape.steps[ref.step].frames), None)
        return tape.steps[self._misread(first).step] if first is not None else None

    def _at(self, endpoint: Endpoint, fault: Fault) -> bool:
        """Whether a mutation changes nothing but what the module at a place is given."""
        return set(fault.first.edits) <= {ref.step for ref in self.sight.room.targets(endpoint)}

    def source(self, step: Step, fault: Fault | None) -> Source | None:
        """The line of a step, or of the call that led to it where the step's own line is right elsewhere."""
        frames = self.sight.code.frames(step)
        if not frames:
            return None
        if fault is not None and (line := self.sight.origin(step, frames[0], fault)) != frames[0].line:
            return source_at(frames[0].file, line)
        frame = self._outward(step, frames, fault is None or fault.first.moves)
        if frame is not frames[0]:
            return source_at(frame.file, frame.line)
        asis = fault is not None and (fault.first.moves or (fault.first.omits and fault.first.number is None))
        built = None if asis else self.sight.built(step, frame)
        if built is not None:
            return built
        return source_at(frame.file, frame.line)

    def _outward(self, step: Step, frames: Sequence[Frame], moves: bool) -> Frame:
        """The innermost frame whose line is wrong wherever it ran: code that is right elsewhere was called wrongly.

        Unless it is one line of one run that called it rightly and wrongly, as a loop does: then what is wrong is
        inside, on what this line hands on in some of its rounds. Only of values that moved may the line be to blame.
        """
        if all(self.sight.values.relation(ref) == "same" for ref in step.refs):
            # Right by its values, it says nothing of the calls that are alike; one that moved came from somewhere.
            return self._where_handed(step, frames) if moves else frames[0]
        chain = [(frame.code, frame.at) for frame in frames]
        for level, frame in enumerate(frames):
            alike = [
                other
                for other, others in self.sight.chains.get((step.name, *chain[: level + 1]), ())
                if frame.instance not in others and self.sight.values.judged(other)
            ]
            right = any(all(self.sight.values.accounted(ref) for ref in other.refs) for other in alike)
            if not right or level == len(frames) - 1:
                return frame
            if not moves and self._in_a_loop(step, chain, frames[level + 1], level + 1):
                return frames[0]
        return frames[-1]

    def _where_handed(self, step: Step, frames: Sequence[Frame]) -> Frame:
        """The line of the function in which a value was at hand, and from which it was given to where it is used."""
        tape = self.sight.room.tapes.port
        made = {
            frame.instance
            for ref in step.inputs
            for frame in self.sight.code.frames(tape.steps[ref.step]) or self.sight.made_under(ref, "")
        }
        return next((frame for frame in frames if frame.instance in made), frames[0])

    def _in_a_loop(self, step: Step, chain: Sequence[tuple[object, ...]], outer: Frame, level: int) -> bool:
        """Whether the very line that called here called also where the same code is right."""
        alike = self.sight.chains.get((step.name, *chain[: level + 1]), ())
        return any(
            outer.instance in instances
            and other.number != step.number
            and all(self.sight.values.accounted(ref) for ref in other.refs)
            for other, instances in alike
        )

    def culprit(self, found: Diagnosis, fault: Fault) -> Step | None:
        """The step of the port that makes the wrong value: the first that only the changed reference accounts for.

        What leads up to it and is in no reference, changed or not, is part of it.
        """
        tape = self.sight.room.tapes.port
        written = [ref for ref in fault.explained if tape.steps[ref.step].frames]
        wrong = next((ref for ref in written if not self.sight.values.accounted(ref)), None)
        first = next(iter(written), None) if wrong is None else self._moved(wrong, set(written))
        if first is not None and not (fault.first.omits or fault.first.moves):
            first = self._misread(self._changed(first, fault))
        if first is None:
            return self.suspect(found)
        before = set(backward(tape, [first], lambda ref, _: self.sight.values.accounted(ref)))
        given = [ref for ref in (first, *before) if self.sight.is_given(tape.steps[ref.step], fault.first.instead)]
        if given:
            return tape.steps[min(given).step]
        here = self.sight.code.frames(tape.steps[first.step])[:1]
        leading = [
            ref
            for ref in found.suspicion.likely
            if ref in before and ref < first
            if first.step - ref.step <= _NEAR
            or {frame.instance for frame in self.sight.code.frames(tape.steps[ref.step])}
            & {each.instance for each in here}
        ]
        return tape.steps[(leading or [first])[0].step]

    def _rebound(self, found: Diagnosis, fault: Fault) -> Source | None:
        """Where the name of what a function was given came to stand for another value, which a sum then takes."""
        step = (
            self.culprit(found, fault) if fault.first.cause == "residual-topology" and not fault.first.omits else None
        )
        if step is None or step.name not in ("add", "__add__", "__radd__", "add_", "__iadd__"):
            return None
        reference = self.sight.room.tapes.reference
        right = [reference.value(ref) for ref in reference.steps[fault.first.site].inputs]
        tape = self.sight.room.tapes.port
        wrong = [ref for ref in step.inputs if not any(same(tape.value(ref), value) for value in right)]
        for ref in wrong:
            made = {(frame.code, frame.line) for frame in self.sight.made_under(ref, "")}
            for frame in self.sight.code.frames(step)[:_OUTER]:
                for line in rebound_at(frame.file, frame.line) if self.sight.values.relation(ref) == "same" else ():
                    if (frame.code, line) in made:
                        return source_at(frame.file, line)
        return None

    def _twice(self, fault: Fault) -> Step | None:
        """The first of two operations with one number, where the port behaves as if that were squared."""
        number, instead = fault.first.number, fault.first.instead
        if number is None or instead is None or abs(instead - number * number) > 1e-9 * abs(instead):
            return None
        tape = self.sight.room.tapes.port
        leading = list(islice(backward(tape, fault.explained[:1], lambda ref, _: False), _BEFORE))
        found = [tape.steps[ref.step] for ref in sorted(leading) if self.sight.is_given(tape.steps[ref.step], number)]
        return found[0] if len({self.sight.code.frames(step)[0].line for step in found if step.frames}) > 1 else None

    def _named(self, step: Step, fault: Fault) -> Source | None:
        """Where what modules gave got its names, if it is that which a step takes the wrong way."""
        tape = self.sight.room.tapes.port
        for ref in step.inputs:
            *_, taken = moves(tape, ref)
            made = tape.steps[taken.step]
            if taken in fault.explained and made.name == "leaf" and not made.label:
                frames = self.sight.made_under(taken, "")
                return source_at(frames[0].file, frames[0].line) if frames else None
        return None

    def _table_of(self, step: Step) -> Step | None:
        """Where the table that a step multiplies by was laid out."""
        tape = self.sight.room.tapes.port
        table = min(step.inputs, key=lambda ref: tape.value(ref).numel(), default=None)
        made = tape.steps[table.step] if table is not None else None
        return made if made is not None and is_layout(made.name) and made.frames else None

    def _parted(self, step: Step) -> Step | None:
        """Where a value was taken apart, if a step is given a part of it."""
        tape = self.sight.room.tapes.port
        for ref in step.inputs:
            steps = (tape.steps[moved.step] for moved in moves(tape, ref))
            made = next((step for step in steps if step.name in _PARTING), None)
            if made is not None and len(made.values) > 1 and made.frames:
                return made
        return None

    def _changed(self, ref: Ref, fault: Fault) -> Ref:
        """What gives the very result of the changed operation, though that may be right elsewhere."""
        tape = self.sight.room.tapes.port
        given = [other for other in tape.steps[ref.step].inputs if other in fault.bare and other in fault.explained]
        made = [
            other for other in given if tape.steps[other.step].frames and not is_layout(tape.steps[other.step].name)
        ]
        return max(made, default=ref)

    def _moved(self, ref: Ref, explained: set[Ref]) -> Ref:
        """The first of the moves that led up to a wrong value, or what was moved: it may be a right value elsewhere."""
        tape = self.sight.room.tapes.port
        first, waiting, seen = ref, [ref], [ref]
        while waiting:
            at = waiting.pop()
            moved = is_layout(tape.steps[at.step].name)
            for other in tape.steps[at.step].inputs:
                layout = is_layout(tape.steps[other.step].name) or tape.steps[other.step].name in _REPEATING
                loaded = tape.steps[other.step].name == "copy_"
                if other in explained and (layout or moved) and not loaded and tape.steps[other.step].frames:
                    first = min(first, other)
                    seen.append(other)
                    if layout:
                        waiting.append(other)
        moves = [each for each in seen if is_layout(tape.steps[each.step].name)]
        return min((each for each in moves if self.sight.values.twisted(each)), default=first)

    def suspect(self, found: Diagnosis) -> Step | None:
        """The first step that gives what the reference has not, where nothing says why."""
        tape = self.sight.room.tapes.port
        made = [ref for ref in found.suspicion.strict if tape.steps[ref.step].inputs]
        for ref in (*made, *found.suspicion.likely, *found.suspicion.strict):
            if tape.steps[ref.step].frames:
                return tape.steps[self._misread(ref).step]
        return None

    def _misread(self, ref: Ref) -> Ref:
        """Where a value first stood in an order that the reference does not have it in.

        Rows that were picked by number, as each expert's are, may come in any order.
        """
        tape, start = self.sight.room.tapes.port, ref
        for _ in range(_BEFORE):
            inputs = [self.sight.behind(other) for other in tape.steps[ref.step].inputs]
            twisted = [other for other in inputs if tape.steps[other.step].frames and self._is_twisted(other)]
            if not twisted:
                break
            ref = twisted[0]
        return start if self._is_picked(tape.steps[ref.step]) else ref

    def _is_picked(self, step: Step) -> bool:
        """Whether a step takes rows by numbers that are computed."""
        indices = [ref for ref in step.inputs[1:] if not self.sight.room.tapes.port.value(ref).is_floating_point()]
        return step.name in ("__getitem__", "index_select") and bool(indices)

    def _is_twisted(self, ref: Ref) -> bool:
        """Whether a value is only in an order that the reference does not have it in."""
        moved = is_layout(self.sight.room.tapes.port.steps[ref.step].name)
        return self.sight.values.twisted(ref) or (moved and self.sight.values.relation(ref) == "reordered")

    def reference_suspect(self, endpoint: Endpoint) -> Source | None:
        """The first operation of the reference whose result the port never computes."""
        tape = self.sight.room.tapes.reference
        witnessed = Values.between(tape, self.sight.room.tapes.port, {})
        for ref in witnessed.suspicion(self.sight.room.targets(endpoint)).strict:
            source = Code(()).source(tape.steps[ref.step])
            if source is not None:
                return source
        return None
