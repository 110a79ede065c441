"""The line of the port that a fault is on: the step that makes a wrong value, or the call that led to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import islice

import torch
from torch import nn

from parity.compare.capture import Endpoint
from parity.explain.diagnose import Diagnosis, Fault
from parity.explain.locate import Code, Values, source_at
from parity.explain.match import is_layout, is_neutral, same
from parity.explain.play import backward
from parity.explain.provenance import Use, built_at, field_at, fields_at, kind_at, origin, rebound_at, returned_at
from parity.explain.repair import repairs
from parity.explain.roles import Role
from parity.explain.room import Room
from parity.explain.trace import Frame, Ref, Step
from parity.names import numbers
from parity.records import Source

_NEAR = 8  # steps
_HUGE = 1e12  # numbers from which on none is meant as one
_MOST_NUMBERS = 40
_RESEMBLES = 0.5  # likeness of two names of fields, one of which may be a slip for the other
_OUTER = 3  # frames around an operation that may be where its operands got their names
_BEFORE = 40  # operations before a wrong value among which one is looked for that is there twice
_PARTING = ("chunk", "split", "unbind", "tensor_split", "split_with_sizes")
_REPEATING = ("repeat", "repeat_interleave", "tile")  # what shares key/value heads


@dataclass(frozen=True)
class Lines:
    """One check's faults being looked up in the port's code."""

    room: Room
    values: Values
    code: Code

    def of(self, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> Source | None:
        """The line of a fault that is told by what reproduces it."""
        residual = self.room.context.place(self.room.tapes.reference.steps[fault.first.site]).role == Role.layer
        misled = fault.first.omits and residual and self._is_bare(endpoint, fault)
        if endpoint.kind == "input" and (misled or (fault.first.moves and self._at(endpoint, fault))):
            return self.calling(endpoint)
        if (unread := self._unread(fault)) is not None:
            return unread
        if fault.first.cause == "rope-scaling-dropped":
            neutral = (self._neutral(made, fault) for made in fault.bare)
            if (source := next((each for each in neutral if each is not None), None)) is not None:
                return source
        if fault.first.omits and found.solved and (left := self._left_out(fault)) is not None:
            return left
        return self._rebound(found, fault) or self._told(endpoint, found, fault)

    def _told(self, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> Source | None:
        if fault.first.name.startswith("rope table of neighbours") and (table := self._reordered(found)) is not None:
            return self.source(table, None)
        step = self._twice(fault) or self.culprit(found, fault)
        if step is None:
            return self.calling(endpoint)
        if fault.first.pair is not None and (parted := self._parted(step)) is not None:
            return self.source(parted, None)
        return self._chosen(step, fault) or self._mended(found, fault, step) or self.source(step, fault)

    def _unread(self, fault: Fault) -> Source | None:
        """Where the port asks for a field that the config has not, though it never names the one that is wrong."""
        raw = self.room.described.config
        texts = [mutation.text for mutation in fault.mutations]
        named = [field for field in raw if any(f"`{field}" in text for text in texts)]
        if not named and any("`rope_parameters" in text for text in texts):
            named = ["rope_theta" if "rope_theta`" in texts[0] else "rope_scaling"]
        for file in self.room.tapes.files if named else ():
            asked = fields_at(file)
            if not asked or any(field in asked for field in named):
                return None
            strange = [field for field in asked if field not in raw or raw[field] is None]
            near = [match for field in named for match in get_close_matches(field, strange, 1, _RESEMBLES)]
            if near:
                return source_at(file, asked[near[0]])
        return None

    def _chosen(self, step: Step, fault: Fault) -> Source | None:
        """Where a right value was chosen for the wrong place: its name, what made it, or what it was given to."""
        if not fault.first.moves and fault.first.cause != "window-pattern":
            return None
        tape = self.room.tapes.port
        tables = fault.first.cause == "rope-layer-type"
        handed = [self._behind(ref) for ref in self._handed_to(step, set(fault.explained), tables)]
        made = [ref for ref in handed if tape.steps[ref.step].frames]
        if not made or (kinds := self._listed()) is not None:
            return kinds if made else None
        frames = self.code.frames(tape.steps[min(made).step])
        module = tape.steps[min(made).step].module
        own = self._kind_of(self.room.tapes.reference.steps[fault.first.site].module) or self._kind_of(step.module)
        if tables and (own in module if own and module else not module):
            return self._numbered_otherwise(min(made), step)
        kinds_of_layers = set(self.room.context.settings.get("layer_types") or ())
        labelled = kind_at(frames[0].file, frames[0].line, own, kinds_of_layers) if own and not tables else None
        if labelled is not None:
            return source_at(frames[0].file, labelled)
        common = {frame.instance for frame in frames}
        return next(
            (source_at(each.file, each.line) for each in self.code.frames(step) if each.instance in common), None
        )

    def _handed_to(self, step: Step, explained: set[Ref], tables: bool) -> list[Ref]:
        """Values of a step's inputs that are right elsewhere, back to where they were only moved."""
        tape, waiting, found = self.room.tapes.port, list(step.inputs), []
        while waiting:
            ref = waiting.pop()
            made = tape.steps[ref.step]
            hides = tape.value(ref).dtype == torch.bool  # a mutation may change scores, not the mask that they take
            if (ref in explained or hides or tables) and self.values.relation(ref) == "same":
                found.append(ref)
                waiting += made.inputs if is_layout(made.name) or made.name == "__invert__" else ()
        return found

    def _kind_of(self, module: str) -> str:
        """The kind of the layer that a module of the port is in, by the config."""
        kinds = self.room.context.settings.get("layer_types") or ()
        number = next(iter(numbers(module)), None)
        return kinds[number] if number is not None and number < len(kinds) else ""

    def _listed(self) -> Source | None:
        """Where a port works out which layer is of which kind, if that is not what the config says."""
        kinds = list(self.room.context.settings.get("layer_types") or ())
        config = getattr(self.room.tapes.port_model, "config", None)
        for name, value in vars(config).items() if hasattr(config, "__dict__") else ():
            listed = list(value) if isinstance(value, tuple | list) else []
            if len(listed) == len(kinds) > 0 and set(map(str, listed)) & set(kinds) and listed != kinds:
                for file in self.room.tapes.files:
                    if (line := field_at(file, name)) is not None:
                        return source_at(file, line)
        return None

    def _numbered_otherwise(self, ref: Ref, step: Step) -> Source | None:
        """Where a number of the config's comes from that a value was made with."""
        tape = self.room.tapes.port
        named = self.room.context.numbers.items()
        telling = {number for name, number in named if any(part in name for part in ("theta", "base", "factor"))} - {1}
        for made in backward(tape, [ref], lambda other, _: False):
            each = tape.steps[made.step]
            for value in each.arguments:
                if isinstance(value, int | float) and not isinstance(value, bool) and value in telling and each.frames:
                    return source_at(self.code.frames(each)[0].file, self._from(each, float(value), 1))
        return None

    def _mended(self, found: Diagnosis, fault: Fault, step: Step) -> Source | None:
        """The line of another operation that leads up to a wrong one, where a change to that one mends the port."""
        tape = self.room.tapes.port
        wrong = [ref for ref in fault.explained if not self.values.accounted(ref) and tape.steps[ref.step].frames]
        given = [ref for ref in tape.steps[wrong[0].step].inputs if tape.steps[ref.step].inputs] if wrong else []
        of_another = fault.first.moves and fault.first.cause == "rope-layer-type"
        if not of_another and (fault.first.moves or all(self.values.relation(ref) == "same" for ref in given)):
            return None
        best = next(iter(repairs(self.room, self.values, wrong, self.numbers, of_another)), None)
        frames = self.code.frames(best.step) if best is not None else []
        here = self.code.source(step)
        if best is None or not frames or here is None:
            return None
        if best.number is None and self._outward(best.step, frames, False) is not frames[0]:
            return None
        hops = 1 if fault.first.cause == "rope-layer-type" else None
        line = frames[0].line if best.number is None else self._from(best.step, best.number, hops)
        return None if line == here.line else source_at(frames[0].file, line)

    @cached_property
    def numbers(self) -> list[float]:
        """What the reference's operations are given."""
        given = [
            value
            for step in self.room.tapes.reference.steps
            for value in (*step.arguments, *step.keywords.values())
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        return [float(value) for value in dict.fromkeys(given) if abs(value) < _HUGE][:_MOST_NUMBERS]

    def _is_bare(self, endpoint: Endpoint, fault: Fault) -> bool:
        """Whether the very value that something was left out on is what a module is given."""
        return bool(set(self.room.port_refs(endpoint)) & set(fault.bare))

    def _reordered(self, found: Diagnosis) -> Step | None:
        """The first step that gives a value of the reference's in another order."""
        tape = self.room.tapes.port
        refs = [ref for ref in found.suspicion.strict if tape.value(ref).is_floating_point()]
        first = next((ref for ref in refs if tape.steps[ref.step].frames), None)
        return tape.steps[self._misread(first).step] if first is not None else None

    def _at(self, endpoint: Endpoint, fault: Fault) -> bool:
        """Whether a mutation changes nothing but what the module at a place is given."""
        return set(fault.first.edits) <= {ref.step for ref in self.room.targets(endpoint)}

    def source(self, step: Step, fault: Fault | None) -> Source | None:
        """The line of a step, or of the call that led to it where the step's own line is right elsewhere."""
        frames = self.code.frames(step)
        if not frames:
            return None
        if fault is not None and (line := self._origin(step, frames[0], fault)) != frames[0].line:
            return source_at(frames[0].file, line)
        frame = self._outward(step, frames, fault is None or fault.first.moves)
        if frame is not frames[0]:
            return source_at(frame.file, frame.line)
        asis = fault is not None and (fault.first.moves or fault.first.omits)
        built = None if asis else self._built(step, frame)
        if built is not None:
            return built
        return source_at(frame.file, frame.line)

    def _outward(self, step: Step, frames: Sequence[Frame], moves: bool) -> Frame:
        """The innermost frame whose line is wrong wherever it ran: code that is right elsewhere was called wrongly.

        Unless it is one line of one run that called it rightly and wrongly, as a loop does: then what is wrong is
        inside, on what this line hands on in some of its rounds. Only of values that moved may the line be to blame.
        """
        if all(self.values.relation(ref) == "same" for ref in step.refs):
            # Right by its values, it says nothing of the calls that are alike; one that moved came from somewhere.
            return self._where_handed(step, frames) if moves else frames[0]
        chain = [(frame.code, frame.at) for frame in frames]
        for level, frame in enumerate(frames):
            alike = [
                other
                for other, others in self.chains.get((step.name, *chain[: level + 1]), ())
                if frame.instance not in others and self.values.judged(other)
            ]
            right = any(all(self.values.accounted(ref) for ref in other.refs) for other in alike)
            if not right or level == len(frames) - 1:
                return frame
            if not moves and self._in_a_loop(step, chain, frames[level + 1], level + 1):
                return frames[0]
        return frames[-1]

    def _where_handed(self, step: Step, frames: Sequence[Frame]) -> Frame:
        """The line of the function in which a value was at hand, and from which it was given to where it is used."""
        tape = self.room.tapes.port
        made = {
            frame.instance
            for ref in step.inputs
            for frame in self.code.frames(tape.steps[ref.step]) or self._made_under(ref, "")
        }
        return next((frame for frame in frames if frame.instance in made), frames[0])

    def _in_a_loop(self, step: Step, chain: Sequence[tuple[object, ...]], outer: Frame, level: int) -> bool:
        """Whether the very line that called here called also where the same code is right."""
        alike = self.chains.get((step.name, *chain[: level + 1]), ())
        return any(
            outer.instance in instances
            and other.number != step.number
            and all(self.values.accounted(ref) for ref in other.refs)
            for other, instances in alike
        )

    @cached_property
    def chains(self) -> dict[tuple[object, ...], list[tuple[Step, set[int]]]]:
        """The port's steps by name and by the calls under which they ran, as far out as wanted."""
        found: dict[tuple[object, ...], list[tuple[Step, set[int]]]] = {}
        for step in self.room.tapes.port.steps:
            frames = self.code.frames(step)
            instances = {frame.instance for frame in frames}
            chain = [(frame.code, frame.at) for frame in frames]
            for level in range(len(chain)):
                found.setdefault((step.name, *chain[: level + 1]), []).append((step, instances))
        return found

    def _built(self, step: Step, frame: Frame) -> Source | None:
        """Where a module of torch's own was made: nothing but how it was made can be wrong about it."""
        module = self.modules.get(step.module)
        if module is None or not type(module).__module__.startswith("torch."):
            return None
        line = built_at(frame.file, step.module, [v for v in vars(module).values() if isinstance(v, float)])
        return None if line is None else source_at(frame.file, line)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The port's modules by name."""
        return dict(self.room.tapes.port_model.named_modules())

    def culprit(self, found: Diagnosis, fault: Fault) -> Step | None:
        """The step of the port that makes the wrong value: the first that only the changed reference accounts for.

        What leads up to it and is in no reference, changed or not, is part of it.
        """
        tape = self.room.tapes.port
        written = [ref for ref in fault.explained if tape.steps[ref.step].frames]
        wrong = next((ref for ref in written if not self.values.accounted(ref)), None)
        first = next(iter(written), None) if wrong is None else self._moved(wrong, set(written))
        if first is not None and not (fault.first.omits or fault.first.moves):
            first = self._misread(self._changed(first, fault))
        if first is None:
            return self.suspect(found)
        before = set(backward(tape, [first], lambda ref, _: self.values.accounted(ref)))
        given = [ref for ref in (first, *before) if self._is_given(tape.steps[ref.step], fault.first.instead)]
        if given:
            return tape.steps[min(given).step]
        here = self.code.frames(tape.steps[first.step])[:1]
        leading = [
            ref
            for ref in found.suspicion.likely
            if ref in before and ref < first
            if first.step - ref.step <= _NEAR
            or {frame.instance for frame in self.code.frames(tape.steps[ref.step])} & {each.instance for each in here}
        ]
        return tape.steps[(leading or [first])[0].step]

    def _rebound(self, found: Diagnosis, fault: Fault) -> Source | None:
        """Where the name of what a function was given came to stand for another value, which a sum then takes."""
        step = (
            self.culprit(found, fault) if fault.first.cause == "residual-topology" and not fault.first.omits else None
        )
        if step is None or step.name not in ("add", "__add__", "__radd__", "add_", "__iadd__"):
            return None
        for ref in step.inputs:
            made = {(frame.code, frame.line) for frame in self._made_under(ref, "") or self.code.frames(step)[:0]}
            for frame in self.code.frames(step)[:_OUTER]:
                for line in rebound_at(frame.file, frame.line) if self.values.relation(ref) == "same" else ():
                    if (frame.code, line) in made:
                        return source_at(frame.file, line)
        return None

    def _twice(self, fault: Fault) -> Step | None:
        """The first of two operations with one number, where the port behaves as if that were squared."""
        number, instead = fault.first.number, fault.first.instead
        if number is None or instead is None or abs(instead - number * number) > 1e-9 * abs(instead):
            return None
        tape = self.room.tapes.port
        leading = list(islice(backward(tape, fault.explained[:1], lambda ref, _: False), _BEFORE))
        found = [tape.steps[ref.step] for ref in sorted(leading) if self._is_given(tape.steps[ref.step], number)]
        return found[0] if len({self.code.frames(step)[0].line for step in found if step.frames}) > 1 else None

    def _parted(self, step: Step) -> Step | None:
        """Where a value was taken apart, if a step is given a part of it."""
        tape = self.room.tapes.port
        for ref in step.inputs:
            made = tape.steps[ref.step]
            while is_layout(made.name) and made.name not in _PARTING and made.inputs:
                made = tape.steps[made.inputs[0].step]
            if made.name in _PARTING and len(made.values) > 1 and made.frames:
                return made
        return None

    def _is_given(self, step: Step, number: float | None) -> bool:
        """Whether a step works with this very number."""
        given = [value for value in step.arguments if isinstance(value, int | float) and not isinstance(value, bool)]
        return number is not None and any(abs(value - number) <= 1e-9 * abs(number) for value in given)

    def _changed(self, ref: Ref, fault: Fault) -> Ref:
        """What gives the very result of the changed operation, though that may be right elsewhere."""
        tape = self.room.tapes.port
        given = [other for other in tape.steps[ref.step].inputs if other in fault.bare and other in fault.explained]
        made = [
            other for other in given if tape.steps[other.step].frames and not is_layout(tape.steps[other.step].name)
        ]
        return max(made, default=ref)

    def _moved(self, ref: Ref, explained: set[Ref]) -> Ref:
        """The first of the moves that led up to a wrong value, or what was moved: it may be a right value elsewhere."""
        tape = self.room.tapes.port
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
        return min((each for each in seen if self.values.twisted(each)), default=first)

    def suspect(self, found: Diagnosis) -> Step | None:
        """The first step that gives what the reference has not, where nothing says why."""
        tape = self.room.tapes.port
        made = [ref for ref in found.suspicion.strict if tape.steps[ref.step].inputs]
        for ref in (*made, *found.suspicion.likely, *found.suspicion.strict):
            if tape.steps[ref.step].frames:
                return tape.steps[self._misread(ref).step]
        return None

    def _misread(self, ref: Ref) -> Ref:
        """Where a value first stood in an order that the reference does not have it in."""
        tape = self.room.tapes.port
        first = ref
        for _ in range(_BEFORE):
            inputs = [self._behind(other) for other in tape.steps[ref.step].inputs]
            twisted = [other for other in inputs if tape.steps[other.step].frames and self._is_twisted(other)]
            if not twisted:
                break
            ref = first = twisted[0]
        return first

    def _is_twisted(self, ref: Ref) -> bool:
        """Whether a value is only in an order that the reference does not have it in."""
        moved = is_layout(self.room.tapes.port.steps[ref.step].name)
        return self.values.twisted(ref) or (moved and self.values.relation(ref) == "reordered")

    def _behind(self, ref: Ref) -> Ref:
        """The value that a module was handed, as it was made outside of it."""
        step = self.room.tapes.port.steps[ref.step]
        if step.name != "leaf" or step.label:
            return ref
        value = step.values[0]
        alike = (own for own in self._by_size.get(value.numel(), ()) if own < ref)
        return next((own for own in alike if torch.equal(self.room.tapes.port.value(own), value)), ref)

    @cached_property
    def _by_size(self) -> dict[int, list[Ref]]:
        """The port's own values by their number of elements, the last made first."""
        found: dict[int, list[Ref]] = {}
        for step in reversed(self.room.tapes.port.steps):
            for ref in step.refs if step.frames else ():
                found.setdefault(step.values[ref.part].numel(), []).append(ref)
        return found

    def reference_suspect(self, endpoint: Endpoint) -> Source | None:
        """The first operation of the reference whose result the port never computes."""
        tape = self.room.tapes.reference
        witnessed = Values.between(tape, self.room.tapes.port, {})
        for ref in witnessed.suspicion(self.room.targets(endpoint)).strict:
            source = Code(()).source(tape.steps[ref.step])
            if source is not None:
                return source
        return None

    def calling(self, endpoint: Endpoint) -> Source | None:
        """The line that calls the port's module: a right value went to the wrong place."""
        for wire in self.room.wires(endpoint):
            frames = self.room.tapes.port.called.get((wire.port.module, wire.port.number), ())
            own = self.code.of(frames)
            if own:
                return source_at(own[0].file, own[0].line)
        return None

    def _left_out(self, fault: Fault) -> Source | None:
        """Where the port goes on with the value that an operation was left out on, in the function that made it."""
        tape = self.room.tapes.port
        for made in fault.bare:
            loaded = tape.steps[made.step].name == "copy_" or bool(tape.steps[made.step].label)
            producer = [] if loaded else self._made_under(made, self._partner(fault.first.site))
            if (source := self._neutral(made, fault) or self._numbered_near(made, fault)) is not None:
                return source
            if self._in_line(fault) and producer:
                step = tape.steps[made.step]
                frames = self._beside(step, self._partner(fault.first.site)) or producer
                return self._built(step, frames[0]) or source_at(frames[0].file, frames[0].line)
            instances = [frame.instance for frame in producer]
            waiting, seen = [made], {made}
            while waiting:
                ref = min(waiting)
                waiting.remove(ref)
                for number in self.room.port_users.get(ref, ()):
                    step = tape.steps[number]
                    if is_layout(step.name):
                        waiting += [other for other in step.refs if other not in seen]
                        seen |= set(step.refs)
                        continue
                    shared = [f for f in self.code.frames(step) if f.instance in instances or loaded]
                    if shared:
                        return source_at(shared[0].file, shared[0].line)
            called = self._calls_with(made)
            if called:
                return source_at(called[0].file, called[0].line)
            if producer:
                line = returned_at(producer[0].file, producer[0].line) or producer[0].line
                return source_at(producer[0].file, line)
        return None

    def _neutral(self, made: Ref, fault: Fault) -> Source | None:
        """Where a number comes from that does nothing, in the place of one that would."""
        for number in self.room.port_users.get(made, ()):
            step = self.room.tapes.port.steps[number]
            frames = self.code.frames(step)
            if frames and is_neutral(step) and all(self.values.relation(other) == "same" for other in step.refs):
                return source_at(frames[0].file, self._origin(step, frames[0], fault))
        here = [frame.instance for frame in self.code.frames(self.room.tapes.port.steps[made.step])[:1]]
        for step in self.room.tapes.port.steps if fault.first.cause == "rope-scaling-dropped" else ():
            frames = self.code.frames(step)
            if is_neutral(step) and [frame.instance for frame in frames[:1]] == here:
                return source_at(frames[0].file, self._origin(step, frames[0], fault))
        return None

    def _numbered_near(self, made: Ref, fault: Fault) -> Source | None:
        """The line that uses a number right after where it is missing."""
        waiting = list(self.room.port_users.get(made, ()))
        for number in waiting if fault.first.number is not None else ():
            step = self.room.tapes.port.steps[number]
            after = [n for ref in step.refs for n in self.room.port_users.get(ref, ())]
            for each in (step, *(self.room.tapes.port.steps[n] for n in after)):
                if self._is_given(each, fault.first.number):
                    return self.code.source(each)
        return None

    def _in_line(self, fault: Fault) -> bool:
        """Whether what was left out is a number, a bias or a summand: as a rule it stood on the line of the rest."""
        kind = fault.first.cause in ("attention-mask", "window-pattern")
        return (
            (fault.first.number is not None and fault.first.cause != "rope-scaling-dropped")
            or fault.first.cause == "bias-dropped"
            or ("without operand" in fault.first.name and not kind)
        )

    def _partner(self, site: int) -> str:
        """The port's module for the reference's in which a step runs."""
        module = self.room.tapes.reference.steps[site].module
        return next((p.port for p in self.room.measured.pairs if p.reference == module and not p.partial), "")

    def _beside(self, step: Step, module: str) -> list[Frame]:
        """The frames in which a module works on what it got from one of torch's own inside it."""
        names = [name for name, _ in step.modules]
        if names and not type(self.modules[names[0]]).__module__.startswith("torch."):
            return []
        depth = names.index(module) if module in names else 0
        return self.code.of(self.room.tapes.port.called.get(step.modules[depth - 1], ())) if depth else []

    def _calls_with(self, ref: Ref) -> list[Frame]:
        """The frames of the first call of a module that is given a value."""
        tape = self.room.tapes.port
        for endpoint, refs in tape.marks.items():
            if endpoint.kind == "input" and ref in refs:
                return self.code.of(tape.called.get((endpoint.module, endpoint.number), ()))
        return []

    def _made_under(self, ref: Ref, inside: str) -> list[Frame]:
        """The frames in which a value was made: those that called the module for one that a module handed on."""
        tape = self.room.tapes.port
        step = tape.steps[ref.step]
        if step.frames:
            return self.code.frames(step)
        made = [
            endpoint
            for endpoint, refs in tape.marks.items()
            if endpoint.kind == "output"
            and endpoint.module != inside
            and endpoint.module.startswith(f"{inside}." if inside else "")
            if (own := next(iter(refs), None)) is not None and same(tape.value(own), step.values[0])
        ]
        outermost = min(made, key=lambda endpoint: endpoint.module.count("."), default=None)
        return self.code.of(tape.called.get((outermost.module, outermost.number), ())) if outermost else []

    def _origin(self, step: Step, frame: Frame, fault: Fault) -> int:
        """The line where a wrong number comes from, where a number is what is wrong."""
        tape = self.room.tapes.port
        numbers = []
        for argument in (*step.arguments, *step.keywords.values()):
            if isinstance(argument, Ref) and tape.value(argument).numel() == 1:
                numbers.append(float(tape.value(argument)))
            elif isinstance(argument, int | float) and not isinstance(argument, bool):
                numbers.append(float(argument))
        right = fault.first.number
        if right is None:
            return frame.line
        wrong = [number for number in numbers if abs(number - right) > 1e-9 * abs(right)]
        instead = fault.first.instead
        if "=" in fault.first.name and not any(instead and abs(n - instead) <= 1e-9 * abs(instead) for n in wrong):
            return frame.line  # a field of the config that the port may read rightly, and use in another way
        rightful = [n for n in wrong if n in self.room.context.numbers.values() and n != instead]
        if not wrong or rightful or len(wrong) < len(numbers):
            return frame.line
        return self._from(step, wrong[0])

    def _from(self, step: Step, number: float, hops: int | None = None) -> int:
        """The line where a number comes from that a step is given; hops: not further back than that."""
        frame, *outer = self.code.frames(step)
        callers = tuple(each.line for each in outer if each.file == frame.file)
        same = [other for other, _ in self.chains.get((step.name, (frame.code, frame.at)), ())]
        steady = all(self._is_given(other, number) for other in same)
        use = Use(frame.file, frame.line, frame.span, step.scope, step.module, callers, steady)
        return origin(use, number, hops)
