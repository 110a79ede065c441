"""What is seen of a port while a line is looked for: its calls, where its values and numbers came from."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from parity.compare.capture import Endpoint
from parity.explain.diagnose import Fault
from parity.explain.locate import Code, Values, source_at
from parity.explain.match import same
from parity.explain.provenance import Use, built_at, named_origin, origin
from parity.explain.room import Room
from parity.explain.trace import Frame, Ref, Step
from parity.records import Source

_HUGE = 1e12  # numbers from which on none is meant as one
_MOST_NUMBERS = 40


@dataclass(frozen=True)
class Sight:
    """One check's port, with the reference beside it."""

    room: Room
    values: Values
    code: Code

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

    def built(self, step: Step, frame: Frame) -> Source | None:
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

    def is_given(self, step: Step, number: float | None) -> bool:
        """Whether a step works with this very number."""
        given = [value for value in step.arguments if isinstance(value, int | float) and not isinstance(value, bool)]
        return number is not None and any(abs(value - number) <= 1e-9 * abs(number) for value in given)

    def behind(self, ref: Ref) -> Ref:
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

    def calling(self, endpoint: Endpoint) -> Source | None:
        """The line that calls the port's module: a right value went to the wrong place."""
        for wire in self.room.wires(endpoint):
            frames = self.room.tapes.port.called.get((wire.port.module, wire.port.number), ())
            own = self.code.of(frames)
            if own:
                return source_at(own[0].file, own[0].line)
        return None

    def made_under(self, ref: Ref, inside: str) -> list[Frame]:
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

    def origin(self, step: Step, frame: Frame, fault: Fault) -> int:
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
        return self.number_from(step, wrong[0])

    def number_from(self, step: Step, number: float, hops: int | None = None) -> int:
        """The line where a number comes from that a step is given; hops: not further back than that."""
        frame, *outer = self.code.frames(step)
        callers = tuple(each.line for each in outer if each.file == frame.file)
        alike = [other for other, _ in self.chains.get((step.name, (frame.code, frame.at)), ())]
        steady = all(self.is_given(other, number) for other in alike)
        use = Use(frame.file, frame.line, frame.span, step.scope, step.module, callers, steady)
        return origin(use, number, hops)

    def named_number(self, step: Step, number: float) -> Source | None:
        """The line where a number comes from that the function around a step names, if not the step's own line."""
        if not (frames := self.code.frames(step)):
            return None
        frame, *outer = frames
        callers = tuple(each.line for each in outer if each.file == frame.file)
        use = Use(frame.file, frame.line, frame.span, step.scope, step.module, callers)
        return source_at(frame.file, named_origin(use, number) or frame.line)
