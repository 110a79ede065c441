"""Reading a tape: what an operation takes, what takes its result, and what is only moved around in between."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from parity.explain.match import is_layout
from parity.explain.roles import Role, role_of
from parity.explain.trace import Ref, Step, Tape

PRODUCTS = {
    "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "functional.einsum", "einsum", "baddbmm", "addbmm", "addmm",
    "nn.functional.linear", "nn.functional.conv1d", "conv1d", "nn.functional.bilinear", "tensordot",
    "functional.tensordot",
}  # fmt: skip
MADE = ("leaf", "written", "copy_")  # nothing that was recorded made these
FURTHEST = 24  # operations from one value of interest to the next
_REPEATED = {"repeat_interleave", "repeat", "tile", "expand_as", "broadcast_to"}
_TYPED = {"to", "type", "float", "double", "type_as"}


@dataclass(frozen=True)
class Reader:
    """A tape, read for the structure of what ran. named: the names of its classes mean what they say."""

    tape: Tape
    model: nn.Module
    named: bool = True

    @cached_property
    def inputs(self) -> tuple[tuple[Ref, ...], ...]:
        """The values that each step takes."""
        return tuple(step.inputs for step in self.tape.steps)

    @cached_property
    def users(self) -> dict[Ref, list[int]]:
        """The steps that take each value."""
        found: dict[Ref, list[int]] = {}
        for number, inputs in enumerate(self.inputs):
            for ref in inputs:
                found.setdefault(ref, []).append(number)
        return found

    @cached_property
    def classes(self) -> dict[str, str]:
        """Module name -> class name."""
        return {name: type(module).__name__ for name, module in self.model.named_modules()}

    def role(self, module: str) -> Role:
        """The part of the model that a module is."""
        return role_of(module, self.classes)

    def step(self, ref: Ref) -> Step:
        """What made a value."""
        return self.tape.steps[ref.step]

    def before_layout(self, ref: Ref, repeated: bool = False) -> Ref:
        """The value of which another is only a view, a cast or a copy; with `repeated`, also one that it repeats."""
        for _ in range(FURTHEST):
            step = self.step(ref)
            through = self.moves(step) or (repeated and step.name in _REPEATED)
            inputs = self.floating(step) if through and step.name not in MADE else []
            if len(inputs) != 1 or (not repeated and self.size(inputs[0]) != self.size(ref)):
                return ref
            if repeated and self.size(inputs[0]) > self.size(ref):
                return ref  # a part of something larger, such as queries of a fused projection
            ref = inputs[0]
        return ref

    def after_layout(self, ref: Ref) -> Iterator[tuple[Ref, Step]]:
        """A value and its views, casts and copies, each with every step that takes it."""
        waiting = [ref]
        while waiting:
            own = waiting.pop(0)
            for number in self.users.get(own, ()):
                step = self.tape.steps[number]
                yield own, step
                if self.moves(step):
                    waiting += list(step.refs)

    def moves(self, step: Step) -> bool:
        """Whether a step only moves values around, or casts them."""
        return is_layout(step.name) or step.name in _TYPED

    def floating(self, step: Step) -> list[Ref]:
        """The floating values that a step takes."""
        return [ref for ref in self.inputs[step.number] if self.tape.value(ref).is_floating_point()]

    def size(self, ref: Ref) -> int:
        """The number of elements of a value."""
        return self.tape.value(ref).numel()

    @cached_property
    def begins(self) -> int:
        """The first step of the run itself: the tokens come in, or a module begins. Before it, parameters are made."""
        for step in self.tape.steps:
            tokens = step.name == "leaf" and step.values[0].ndim == 2 and not step.values[0].is_floating_point()
            if step.modules or tokens:
                return step.number
        return 0

    def is_weight(self, ref: Ref) -> bool:
        """Whether a value is a parameter, or is made of one by moving it around."""
        for _ in range(FURTHEST):
            step = self.step(ref)
            if step.label or (step.number < self.begins and step.values[0].ndim == 2):
                return True
            if step.name in MADE or not self.moves(step):
                return step.name in MADE and not step.modules and step.values[0].ndim == 2
            inputs = self.floating(step)
            if not inputs:
                return False
            ref = inputs[0]
        return False

    def is_projection(self, step: Step) -> bool:
        """Whether a step multiplies something by a parameter."""
        return step.name in PRODUCTS and any(self.is_weight(ref) for ref in self.inputs[step.number])
