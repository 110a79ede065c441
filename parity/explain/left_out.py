"""The line of what was left out: nothing computes it, so it shows where the port goes on without it."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from parity.explain.diagnose import Fault
from parity.explain.locate import source_at
from parity.explain.match import is_layout, is_neutral, moves, same
from parity.explain.roles import Role
from parity.explain.sight import Sight
from parity.explain.syntax import around_at, returned_at, returned_early_at
from parity.explain.trace import Frame, Ref, Step
from parity.records import Source


@dataclass(frozen=True)
class LeftOut:
    """Where what a fault leaves out is missing."""

    sight: Sight

    def line(self, fault: Fault) -> Source | None:
        """Where the port goes on with the value that an operation was left out on, in the function that made it."""
        tape = self.sight.room.tapes.port
        for made in fault.bare:
            loaded = tape.steps[made.step].name == "copy_" or bool(tape.steps[made.step].label)
            producer = [] if loaded else self.sight.made_under(made, self._partner(fault.first.site))
            if (source := self.neutral(made, fault) or self._numbered_near(made, fault)) is not None:
                return source
            if self._in_line(fault) and producer:
                step = tape.steps[made.step]
                beside = self._beside(step, self._partner(fault.first.site))
                frames = beside or producer
                apart = not beside and not self._on_one_line(made, fault)
                later = self._goes_on(made, self._inside(producer, step, fault)) if apart else None
                return later or self.sight.built(step, frames[0]) or source_at(frames[0].file, frames[0].line)
            instances = [frame.instance for frame in producer]
            waiting, seen = [made], {made}
            while waiting:
                ref = min(waiting)
                waiting.remove(ref)
                for number in self.sight.room.port_users.get(ref, ()):
                    step = tape.steps[number]
                    if is_layout(step.name):
                        waiting += [other for other in step.refs if other not in seen]
                        seen |= set(step.refs)
                        continue
                    shared = [f for f in self.sight.code.frames(step) if f.instance in instances or loaded]
                    if shared:
                        built = self.sight.built(step, shared[0]) if loaded else None
                        file, line = shared[0].file, shared[0].line
                        loop = around_at(file, line, ast.For) if fault.first.cause == "layer-wiring" else None
                        return built or source_at(file, loop or line)
            called = self._calls_with(made)
            if called:
                return source_at(called[0].file, called[0].line)
            if producer:
                line = returned_at(producer[0].file, producer[0].line) or producer[0].line
                return source_at(producer[0].file, line)
        return None

    def _on_one_line(self, made: Ref, fault: Fault) -> bool:
        """Whether what was left out stands on the line of what it is missing on, in the reference or as a rule.

        So does what is added to the residual stream.
        """
        reference = self.sight.room.tapes.reference
        site = reference.steps[fault.first.site]
        value = self.sight.room.tapes.port.value(made)
        kept = next((ref for ref in site.inputs if same(reference.value(ref), value)), None)
        if kept is None or not site.frames or self.sight.room.context.place(site).role == Role.layer:
            return True
        here = site.frames[0]
        steps = (reference.steps[moved.step] for moved in moves(reference, kept))
        return any((frame.instance, frame.line) == (here.instance, here.line) for s in steps for frame in s.frames)

    def _inside(self, producer: Sequence[Frame], step: Step, fault: Fault) -> list[Frame]:
        """Those of the frames that made a value which belong to the module that a fault is in."""
        partner = self._partner(fault.first.site)
        call = next((each for each in step.modules if each[0] == partner), None)
        outer = {frame.instance for frame in self.sight.room.tapes.port.called.get(call, ())} if call else set()
        return [frame for frame in producer if frame.instance not in outer] or list(producer)

    def _goes_on(self, made: Ref, producer: Sequence[Frame]) -> Source | None:
        """The line on which a function moves on, uses or returns a value that it made on another one."""
        instances = [frame.instance for frame in producer]
        here = [(frame.instance, frame.line) for frame in producer]
        waiting, moved = [made], None
        while waiting:
            ref = waiting.pop(0)
            for number in self.sight.room.port_users.get(ref, ()):
                step = self.sight.room.tapes.port.steps[number]
                shared = next((f for f in self.sight.code.frames(step) if f.instance in instances), None)
                own = source_at(shared.file, shared.line) if shared is not None else None
                elsewhere = own if shared is not None and (shared.instance, shared.line) not in here else None
                if not is_layout(step.name):
                    return moved or elsewhere
                moved = elsewhere or moved
                waiting += step.refs
        line = returned_at(producer[0].file, producer[0].line) if moved is None else None
        return moved if line is None else source_at(producer[0].file, line)

    def early(self, fault: Fault) -> Source | None:
        """Where a function returns a value as it is, before what is left out."""
        for made in fault.bare:
            frames = self.sight.code.frames(self.sight.room.tapes.port.steps[made.step])
            line = returned_early_at(frames[0].file, frames[0].line) if frames else None
            if line is not None:
                return source_at(frames[0].file, line)
        return None

    def neutral(self, made: Ref, fault: Fault) -> Source | None:
        """Where a number comes from that does nothing, in the place of one that would."""
        for number in self.sight.room.port_users.get(made, ()):
            step = self.sight.room.tapes.port.steps[number]
            frames = self.sight.code.frames(step)
            if frames and is_neutral(step) and all(self.sight.values.relation(other) == "same" for other in step.refs):
                return source_at(frames[0].file, self._idle(step))
        here = [frame.instance for frame in self.sight.code.frames(self.sight.room.tapes.port.steps[made.step])[:1]]
        for step in self.sight.room.tapes.port.steps if fault.first.cause == "rope-scaling-dropped" else ():
            frames = self.sight.code.frames(step)
            if is_neutral(step) and [frame.instance for frame in frames[:1]] == here:
                return source_at(frames[0].file, self._idle(step))
        return None

    def _idle(self, step: Step) -> int:
        """The line that gives its value to a number that does nothing."""
        return self.sight.number_from(step, 0.0 if step.name in ("add", "sub") else 1.0)

    def _numbered_near(self, made: Ref, fault: Fault) -> Source | None:
        """The line that uses a number right after where it is missing."""
        waiting = list(self.sight.room.port_users.get(made, ()))
        for number in waiting if fault.first.number is not None else ():
            step = self.sight.room.tapes.port.steps[number]
            after = [n for ref in step.refs for n in self.sight.room.port_users.get(ref, ())]
            for each in (step, *(self.sight.room.tapes.port.steps[n] for n in after)):
                if self.sight.is_given(each, fault.first.number):
                    return self.sight.code.source(each)
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
        module = self.sight.room.tapes.reference.steps[site].module
        return next((p.port for p in self.sight.room.measured.pairs if p.reference == module and not p.partial), "")

    def _beside(self, step: Step, module: str) -> list[Frame]:
        """The frames in which a module works on what it got from one of torch's own inside it."""
        names = [name for name, _ in step.modules]
        if names and not type(self.sight.modules[names[0]]).__module__.startswith("torch."):
            return []
        depth = names.index(module) if module in names else 0
        return self.sight.code.of(self.sight.room.tapes.port.called.get(step.modules[depth - 1], ())) if depth else []

    def _calls_with(self, ref: Ref) -> list[Frame]:
        """The frames of the first call of a module that is given a value."""
        tape = self.sight.room.tapes.port
        for endpoint, refs in tape.marks.items():
            if endpoint.kind == "input" and ref in refs:
                return self.sight.code.of(tape.called.get((endpoint.module, endpoint.number), ()))
        return []
