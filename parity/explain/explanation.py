"""Findings with their line and their cause: what the trace and the catalogue of mutations say of each wrong value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from parity.compare.capture import LOGITS, Endpoint
from parity.compare.sides import parents
from parity.compare.stages import Forward, Sides
from parity.explain.diagnose import Diagnosis, Fault, Room, diagnose, explanations
from parity.explain.findings import Located
from parity.explain.loader import loader_line
from parity.explain.locate import Code, Values, source_at
from parity.explain.match import is_layout, is_neutral, same
from parity.explain.mutations import Context
from parity.explain.provenance import Use, built_at, origin
from parity.explain.record import tapes
from parity.explain.roles import Role
from parity.explain.trace import Frame, Ref, Step, TooLarge, backward
from parity.pair.pair import Pair
from parity.records import Finding, Source

_MOST_PLACES = 8  # of the first, in the order data flows; what comes after follows from these more often than not
_BELONGS_ELSEWHERE = (Role.mask, Role.window)
_TOO_LARGE = "lines and causes were not looked for: the run is too large to be traced; add --small-config"


def explain(pair: Pair, sides: Sides, measured: Forward, located: Sequence[Located]) -> tuple[Finding, ...]:
    """Findings, each with the port's line, the reference's, and what explains it."""
    if not any(each.endpoints or each.names or each.called for each in located):
        return tuple(each.finding for each in located)
    try:
        recorded = tapes(pair, sides, measured)
    except TooLarge:
        return tuple(replace(each.finding, evidence=(*each.finding.evidence, _TOO_LARGE)) for each in located)
    context = Context.of(recorded.reference, sides.reference.model, pair.reference.settings)
    desk = _Desk(Room.of(sides, measured, recorded, context), Values.of(recorded), Code(recorded.own_code))
    found: list[Finding] = []
    for place, each in enumerate(located):
        if each.called:
            frames = desk.code.of(recorded.port.called.get((each.called, 0), ()))
            source = source_at(frames[0].file, frames[0].line) if frames else None
            found.append(replace(each.finding, port_source=source))
            continue
        if each.names:
            found.append(replace(each.finding, port_source=loader_line(pair, recorded, each.names)))
            continue
        if not each.endpoints or place >= _MOST_PLACES:
            found.append(each.finding)
            continue
        found += desk.findings(each.finding, each.endpoints[0])
    return _without_repetition(found)


def _without_repetition(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One cause on one line is one finding, wherever it shows."""
    kept: dict[object, Finding] = {}
    for finding in findings:
        line = finding.port_source
        known = finding.cause != "unknown" and line is not None
        key = (finding.cause, line.file, line.line) if known and line is not None else id(finding)
        if key in kept:
            first = kept[key]
            also = f"also {finding.reference_module}"
            evidence = first.evidence if also in first.evidence else (*first.evidence, also)
            kept[key] = replace(first, evidence=evidence)
        else:
            kept[key] = finding
    return tuple(kept.values())


@dataclass(frozen=True)
class _Desk:
    """One check's findings being explained."""

    room: Room
    values: Values
    code: Code

    def findings(self, finding: Finding, endpoint: Endpoint) -> list[Finding]:
        """The finding, once for each fault that its wrong value shows."""
        found = diagnose(self.room, endpoint, self.values)
        if not found.faults:
            return [self._unexplained(finding, endpoint, found)]
        told = []
        for number, fault in enumerate(found.faults):
            each = self._explained(finding, endpoint, found, fault)
            told.append(each if number == 0 else replace(each, evidence=each.evidence[:1]))
        if not found.solved:
            rest = "this accounts for values that the port computes on the way, but something else is wrong as well"
            told[-1] = replace(told[-1], evidence=(*told[-1].evidence, rest))
        return told

    def _unexplained(self, finding: Finding, endpoint: Endpoint, found: Diagnosis) -> Finding:
        step = self._suspect(found)
        source = self._source(step, None) if step else self._calling(endpoint)
        reference = self._reference_suspect(endpoint)
        return replace(finding, port_source=source, reference_source=reference)

    def _explained(self, finding: Finding, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> Finding:
        mutation = fault.first
        site = self.room.tapes.reference.steps[mutation.site]
        residual = min(found.faults[-1].residual, fault.residual)
        module = self._module(finding, endpoint, mutation.site)
        partners = {pair.reference: pair.port for pair in self.room.measured.pairs if not pair.partial}
        port_module = finding.port_module
        if module != finding.reference_module:
            port_module = next((partners[name] for name in (module, *parents(module)) if name in partners), port_module)
        return replace(
            finding,
            cause=mutation.cause,
            reference_module=module,
            port_module=port_module,
            port_source=self._line(endpoint, found, fault),
            reference_source=Code(()).source(site),
            explanations=explanations(fault, residual) if found.solved else (),
            evidence=(*finding.evidence, *(() if found.solved else (mutation.text,))),
        )

    def _module(self, finding: Finding, endpoint: Endpoint, site: int) -> str:
        """The reference's module that a mutation is made in; a stretch over many modules is narrowed down to it."""
        if endpoint != LOGITS and not self._spans(finding.reference_module, site):
            return finding.reference_module
        return self._user(site) or finding.reference_module

    def _spans(self, module: str, site: int) -> bool:
        own = self._user(site)
        return bool(own) and own.startswith(f"{module}.") and own.rpartition(".")[0] == module

    def _user(self, site: int) -> str:
        """The module in which a step runs, or the first that uses what it makes where it is made for others."""
        context = self.room.context
        waiting, seen = [site], set()
        while waiting:
            number = min(waiting)
            waiting.remove(number)
            step = context.tape.steps[number]
            if "." in step.module and context.place(step).role not in _BELONGS_ELSEWHERE:
                return step.module
            for ref in step.refs:
                fresh = [user for user in context.users.get(ref, ()) if user not in seen]
                seen |= set(fresh)
                waiting += fresh
        return ""

    def _line(self, endpoint: Endpoint, found: Diagnosis, fault: Fault) -> Source | None:
        if fault.first.omits:
            left = self._left_out(fault)
            if left is not None:
                return left
        step = self._culprit(found, fault)
        return self._calling(endpoint) if step is None else self._source(step, fault)

    def _source(self, step: Step, fault: Fault | None) -> Source | None:
        """The line of a step, or of the call that led to it where the step's own line is right elsewhere."""
        frames = self.code.frames(step)
        if not frames:
            return None
        if fault is not None and (line := self._origin(step, frames[0], fault)) != frames[0].line:
            return source_at(frames[0].file, line)
        frame = self._outward(step, frames)
        if frame is not frames[0]:
            return source_at(frame.file, frame.line)
        built = self._built(step, frame)
        if built is not None:
            return built
        return source_at(frame.file, frame.line)

    def _outward(self, step: Step, frames: Sequence[Frame]) -> Frame:
        """The innermost frame whose line is wrong wherever it ran: code that is right elsewhere was called wrongly."""
        chain = [(frame.code, frame.at) for frame in frames]
        for level, frame in enumerate(frames):
            alike = [
                other
                for other, others in self.chains.get((step.name, *chain[: level + 1]), ())
                if frame.instance not in others and self.values.judged(other)
            ]
            right = any(all(self.values.relation(ref) == "same" for ref in other.refs) for other in alike)
            if not right or level == len(frames) - 1:
                return frame
        return frames[-1]

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
        line = built_at(frame.file, step.module)
        return None if line is None else source_at(frame.file, line)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The port's modules by name."""
        return dict(self.room.tapes.port_model.named_modules())

    def _culprit(self, found: Diagnosis, fault: Fault) -> Step | None:
        """The step of the port that makes the wrong value: the first that only the changed reference accounts for.

        What leads up to it and is in no reference, changed or not, is part of it.
        """
        tape = self.room.tapes.port
        first = next((ref for ref in fault.explained if tape.steps[ref.step].frames), None)
        if first is None:
            return self._suspect(found)
        before = set(backward(tape, [first], lambda ref, _: self.values.accounted(ref)))
        leading = [ref for ref in found.suspicion.likely if ref in before and ref < first]
        return tape.steps[(leading or [first])[0].step]

    def _suspect(self, found: Diagnosis) -> Step | None:
        tape = self.room.tapes.port
        floats = [ref for ref in found.suspicion.strict if tape.value(ref).is_floating_point()]
        for ref in (*floats, *found.suspicion.likely, *found.suspicion.strict):
            if tape.steps[ref.step].frames:
                return tape.steps[ref.step]
        return None

    def _reference_suspect(self, endpoint: Endpoint) -> Source | None:
        """The first operation of the reference whose result the port never computes."""
        tape = self.room.tapes.reference
        witnessed = Values.between(tape, self.room.tapes.port, {})
        for ref in witnessed.suspicion(self.room.targets(endpoint)).strict:
            source = Code(()).source(tape.steps[ref.step])
            if source is not None:
                return source
        return None

    def _calling(self, endpoint: Endpoint) -> Source | None:
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
            producer = self._made_under(made)
            instances = [frame.instance for frame in producer]
            waiting, seen = [made], {made}
            while waiting:
                ref = min(waiting)
                waiting.remove(ref)
                for number in self.room.port_users.get(ref, ()):
                    step = tape.steps[number]
                    if all(self.values.relation(other) == "same" for other in step.refs) and is_neutral(step):
                        frames = self.code.frames(step)
                        return source_at(frames[0].file, self._origin(step, frames[0], fault)) if frames else None
                    if is_layout(step.name):
                        waiting += [other for other in step.refs if other not in seen]
                        seen |= set(step.refs)
                        continue
                    shared = [frame for frame in self.code.frames(step) if frame.instance in instances]
                    if shared and producer and shared[0].instance != producer[0].instance:
                        return source_at(producer[0].file, producer[0].line)
                    if shared:
                        return source_at(shared[0].file, shared[0].line)
            if producer:
                return source_at(producer[0].file, producer[0].line)
        return None

    def _made_under(self, ref: Ref) -> list[Frame]:
        """The frames in which a value was made: those that called the module for one that a module handed on."""
        tape = self.room.tapes.port
        step = tape.steps[ref.step]
        if step.frames:
            return self.code.frames(step)
        for endpoint, refs in tape.marks.items():
            own = next(iter(refs), None)
            if endpoint.kind == "output" and own is not None and same(tape.value(own), step.values[0]):
                return self.code.of(tape.called.get((endpoint.module, endpoint.number), ()))
        return []

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
        if not wrong or len(wrong) < len(numbers):
            return frame.line
        return origin(Use(frame.file, frame.line, frame.span, step.scope, step.module), wrong[0])
