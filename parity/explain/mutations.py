"""The catalogue: named, small changes to a reference, each with the cause it stands for.

A mutation of code changes what recorded operations of the reference give; a mutation of the config changes one field
of it. Both are generated from the reference itself, from its operations and its fields, never for one architecture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from parity.explain.match import moves
from parity.explain.play import Edit, Playing, overwritten, uses
from parity.explain.roles import Place, Role, place, role_of
from parity.explain.trace import Ref, Step, Tape, each_value
from parity.names import numbers, template


@dataclass(frozen=True)
class Mutation:
    """One change to a run of the reference. name is the same for the same change in every layer.

    edits: step number -> what it gives instead. site: the step whose source line the change is shown at.
    weight: of several that reproduce a port, the lightest is the likeliest slip. omits: something is left out.
    number: the reference's own number, where another one, `instead`, is put in its place.
    moves: no operation is wrong, a right value goes where it should not. pair: two modules that stand for each other.
    """

    cause: str
    name: str
    text: str
    edits: Mapping[int, Edit]
    site: int
    weight: float = 1.0
    omits: bool = False
    number: float | None = None
    moves: bool = False
    instead: float | None = None
    pair: tuple[str, str] | None = None


@dataclass(frozen=True)
class Region:
    """One call of a module or function on the tape: its steps, the values that go in, and those that come out."""

    name: str
    steps: tuple[int, ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]


@dataclass(frozen=True)
class Context:
    """A recorded run of the reference, with what mutations are generated from.

    classes: module name -> class name. settings: every field of the config. at_hand: numbers that a port uses near by.
    """

    tape: Tape
    classes: Mapping[str, str]
    settings: Mapping[str, Any]
    at_hand: tuple[float, ...] = ()

    @classmethod
    def of(cls, tape: Tape, model: nn.Module, settings: Mapping[str, Any]) -> "Context":
        """The context of one model's run."""
        return cls(tape, {name: type(module).__name__ for name, module in model.named_modules()}, settings)

    @cached_property
    def users(self) -> dict[Ref, list[int]]:
        """The steps that take each value."""
        return uses(self.tape)

    @cached_property
    def calls(self) -> dict[tuple[str, int], Region]:
        """Every call of a module, by name and number."""
        inside: dict[tuple[str, int], list[int]] = {}
        for step in self.tape.steps:
            for call in step.modules:
                inside.setdefault(call, []).append(step.number)
        return {call: self._region(call[0], numbers) for call, numbers in inside.items()}

    @cached_property
    def functions(self) -> tuple[Region, ...]:
        """Every call of a function of the reference's, other than `forward`, that gives a value."""
        runs: dict[tuple[Any, ...], list[int]] = {}
        last: dict[tuple[Any, ...], int] = {}
        for step in self.tape.steps:
            for depth, frame in enumerate(step.frames[:6]):
                if frame.code.co_name in ("forward", "__init__", "<module>", "wrapper", "__call__"):
                    continue
                around = step.frames[depth + 1].line if depth + 1 < len(step.frames) else 0
                key = (frame.code, frame.instance, frame.site, around, step.modules[:1])
                runs.setdefault(key, []).append(step.number)
                last[key] = step.number
        return tuple(self._region(key[0].co_name, numbers) for key, numbers in runs.items())

    def _region(self, name: str, numbers: Sequence[int]) -> Region:
        inside = set(numbers)
        taken: dict[Ref, None] = {}
        given: dict[Ref, None] = {}
        for number in numbers:
            step = self.tape.steps[number]
            taken |= dict.fromkeys(ref for ref in step.inputs if ref.step not in inside)
            for ref in step.refs:
                users = self.users.get(ref, [])
                if step.function is not None and (any(user not in inside for user in users) or ref == self.tape.logits):
                    given[ref] = None
        return Region(name, tuple(numbers), tuple(taken), tuple(given))

    @cached_property
    def sites(self) -> dict[int, tuple[Any, ...]]:
        """What tells an operation from others, whatever the layer."""
        counts: dict[tuple[Any, ...], int] = {}
        found = {}
        for step in self.tape.steps:
            lines = tuple((frame.code.co_name, frame.line) for frame in step.frames[:3])
            call = step.modules[:1]
            key = (template(step.module), lines, step.name)
            counts[(*key, call)] = counts.get((*key, call), -1) + 1
            found[step.number] = (*key, counts[(*key, call)])
        return found

    def place(self, step: Step) -> Place:
        """The part of the model that a step belongs to."""
        return place(step, self.classes)

    def role_of(self, module: str) -> Role:
        """The part of the model that a module is."""
        return role_of(module, self.classes)

    def of_role(self, role: Role) -> str:
        """The first module called that is a part of the model; "" if none is."""
        return next((module for module, _ in self.calls if self.role_of(module) == role), "")

    def producer(self, ref: Ref) -> Step:
        """The step that gave a value."""
        return self.tape.steps[ref.step]

    def maker(self, ref: Ref) -> Step:
        """The step that gave a value, before it was only moved around."""
        *_, first = moves(self.tape, ref)
        return self.producer(first)

    def name_of(self, ref: Ref) -> str:
        """What a value is called: the input or output of a module."""
        ends = [endpoint for endpoint, refs in self.tape.marks.items() if ref in refs]
        best = min(ends, key=lambda end: (end.kind == "input", len(end.module)), default=None)
        return f"the {best.kind} of {best.module}" if best else "another value at hand"

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Numbers in the config by field name, nested ones with dots."""
        found: dict[str, float] = {}

        def collect(prefix: str, value: Any) -> None:
            if isinstance(value, Mapping):
                for key, inner in value.items():
                    collect(f"{prefix}.{key}" if prefix else str(key), inner)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[prefix] = value

        collect("", self.settings)
        return {name: value for name, value in found.items() if not name.endswith("_token_id") and name[0] != "_"}

    @cached_property
    def derived(self) -> tuple[float, ...]:
        """What the config's widths suggest as a factor: themselves, their roots, and the inverse of both."""
        named = self.numbers.items()
        sizes = {int(number) for name, number in named if _is_width(name) and 1 < number < 1 << 20}
        heads = self.numbers.get("num_attention_heads") or self.numbers.get("n_head")
        hidden = self.numbers.get("hidden_size") or self.numbers.get("n_embd")
        if heads and hidden:
            sizes.add(int(hidden // heads))
        parts = [part for size in sorted(sizes) for part in (size**-0.5, size**0.5, float(size), 1.0 / size)]
        return (*parts, *(number for number in self.numbers.values() if isinstance(number, float)))


def _is_width(name: str) -> bool:
    return any(part in name for part in ("dim", "size", "head", "embd", "scalar", "rank")) and "vocab" not in name


def again(playing: Playing, context: Context, region: Region, given: Mapping[Ref, Tensor], wanted: Ref) -> Tensor:
    """Run the steps of a region once more on other inputs; what it then gives at `wanted`."""
    values: dict[Ref, Tensor] = dict(given)
    for number in region.steps:
        step = context.tape.steps[number]
        if not any(ref in values for ref in step.inputs):
            continue
        if step.function is None:
            before, latest = (values.get(ref, playing.value(ref, step)) for ref in (step.inputs[0], step.inputs[-1]))
            values.update(dict.fromkeys(step.refs, overwritten(step, before, latest)))
            continue

        def filled(value: Any, step: Step = step) -> Any:
            if isinstance(value, Ref):
                return values[value] if value in values else playing.value(value, step)
            return value

        arguments = each_value(filled, step.arguments)
        keywords = each_value(filled, dict(step.keywords))
        values.update(zip(step.refs, playing.compute(step, *arguments, **keywords), strict=True))
    return values[wanted] if wanted in values else playing.own(wanted)


def joined(context: Context, proposals: Sequence[Mutation]) -> list[Mutation]:
    """The proposals, and before them each that is made at several calls of the same code, at all of these at once.

    What goes wrong for queries goes wrong for keys, as a rule.
    """
    alike: dict[tuple[Any, ...], list[Mutation]] = {}
    for mutation in proposals:
        step = context.tape.steps[mutation.site]
        line = (step.frames[0].file, step.frames[0].line) if step.frames else ()
        alike.setdefault((mutation.name, mutation.cause, line), []).append(mutation)
    fields: dict[tuple[Any, ...], list[Mutation]] = {}
    for mutation in proposals:
        if mutation.number is not None:
            call = context.tape.steps[mutation.site].modules[:1]
            named = (mutation.text,) if "`" in mutation.text else (mutation.name, call)
            fields.setdefault((mutation.cause, *named), []).append(mutation)
    groups = [*fields.values(), *alike.values()]
    several = [together(group) for group in groups if len(group) > 1]
    return [*several, *proposals]


def lifted(context: Context, mutation: Mutation) -> list[Mutation]:
    """The same mutation wherever its line runs, in all layers, in all of each kind, and in one alone."""
    lines = {_line(context.tape.steps[number]) for number in mutation.edits}
    keys = {context.sites[number][:-1] for number in mutation.edits}
    made = [step for step in context.tape.steps if _line(step) in lines]
    taking = {user for step in made for ref in step.refs for user in context.users.get(ref, ())}
    steps = sorted({step.number for step in made} | taking)
    proposals = joined(context, list(propose(context, steps)))
    single = [each for each in proposals if each.name == mutation.name and each.cause == mutation.cause]
    here = [each for each in single if {context.sites[number][:-1] for number in each.edits} <= keys]
    own = _layers(context, mutation)
    kinds = context.settings.get("layer_types") or ()
    same_kind = [
        each for each in here if {_kind(kinds, n) for n in _layers(context, each)} <= {_kind(kinds, n) for n in own}
    ]
    choices = [single, here, same_kind, [mutation]]
    return [together(choice) for choice in choices if choice]


def _line(step: Step) -> tuple[object, ...]:
    return (step.name, step.frames[0].file, step.frames[0].line) if step.frames else (step.name, step.module)


def _layers(context: Context, mutation: Mutation) -> set[int]:
    return {
        numbers(context.tape.steps[step].module)[0]
        for step in mutation.edits
        if numbers(context.tape.steps[step].module)
    }


def _kind(kinds: Sequence[str], layer: int) -> str:
    return kinds[layer] if layer < len(kinds) else ""


def together(mutations: Sequence[Mutation]) -> Mutation:
    """Several mutations at once."""
    first = mutations[0]
    edits = {number: edit for mutation in reversed(mutations) for number, edit in mutation.edits.items()}
    return replace(first, edits=edits)


def propose(context: Context, numbers: Sequence[int]) -> Iterator[Mutation]:
    """Every mutation of the given steps, and of the calls that end in them."""
    from parity.explain import (
        edit_calls,
        edit_choices,
        edit_experts,
        edit_heads,
        edit_numbers,
        edit_operations,
        edit_recurrent,
        edit_rope,
        edit_wiring,
    )

    wanted = set(numbers)
    for number in numbers:
        step = context.tape.steps[number]
        if step.function is not None:
            yield from edit_numbers.propose(context, step)
            yield from edit_operations.propose(context, step)
            yield from edit_experts.of_router(context, step)
            yield from edit_experts.of_sum(context, step)
            yield from edit_recurrent.propose(context, step)
            yield from edit_choices.propose(context, step)
            if context.place(step).role == Role.frequencies:
                yield from edit_rope.standing(context, step)
    yield from edit_wiring.propose(context, numbers)
    yield from edit_rope.before_norms(context, wanted)
    yield from edit_calls.sums_before_norms(context, wanted)
    yield from edit_calls.other_layers(context, wanted)
    yield from edit_heads.propose(context, wanted)
    for call, region in context.calls.items():
        if wanted & {ref.step for ref in region.outputs}:
            yield from edit_calls.propose(context, call, region)
            if context.role_of(call[0]) == Role.gated_norm:
                yield from edit_recurrent.gated(context, region)
        if context.role_of(call[0]) == Role.experts and wanted & set(region.steps):
            yield from edit_experts.of_experts(context, region)
    for region in context.functions:
        if wanted & {ref.step for ref in region.outputs}:
            yield from edit_rope.propose(context, region)
