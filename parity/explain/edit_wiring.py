"""Mutations of wiring: values that are right but go to the wrong place."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from parity.explain.edit_common import mutation_of
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Edit, Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step, each_value
from parity.names import numbers, template

_MOST_GATHERED = 14


def propose(context: Context, steps: Sequence[int]) -> Iterator[Mutation]:
    """Mutations of a stretch as a whole: it is given what another layer, or another module of its own, is given."""
    inside = set(steps)
    yield from _other_kinds(context, inside)
    yield from _siblings(context, inside)
    yield from _other_positions(context, inside)


def _exchanged(context: Context, inside: set[int], instead: Mapping[Ref, Ref]) -> dict[int, Edit]:
    """Edits by which the steps inside take other values for some."""
    edits: dict[int, Edit] = {}
    for ref in instead:
        for number in context.users.get(ref, ()):
            if number in inside and context.tape.steps[number].function is not None:
                edits[number] = given_others(instead)
    return edits


def given_others(instead: Mapping[Ref, Ref]) -> Edit:
    """A step computed again with other values in the place of some."""

    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        def filled(value: object) -> object:
            if isinstance(value, Ref):
                other = instead.get(value)
                if other is None:
                    return playing.value(value, step)
                return _early(playing, other, step).reshape(playing.tape.value(value).shape)
            return value

        arguments, keywords = each_value(filled, step.arguments), each_value(filled, dict(step.keywords))
        return playing.compute(step, *arguments, **keywords)

    return edit


def _early(playing: Playing, ref: Ref, step: Step) -> Tensor:
    """A value that may only be made after the step that takes it, from the same inputs."""
    maker = playing.tape.steps[ref.step]
    if maker.number < step.number or maker.function is None:
        return playing.value(ref, step)
    arguments, keywords = playing.given(maker)
    return playing.compute(maker, *arguments, **keywords)[ref.part]


def _other_kinds(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """A layer given the masks, the rope tables, or both, of a layer of another kind; or what was made for another."""
    layers = {call for call in context.calls if context.role_of(call[0]) == Role.layer}
    here = {call for number in inside for call in context.tape.steps[number].modules if call in layers}
    for call in sorted(here):
        own = _outer(context, call)
        pairs: dict[tuple[tuple[Ref, Ref], ...], str] = {}
        for other in sorted(layers - {call}):
            theirs = _outer(context, other)
            instead = {ref: theirs[site] for site, ref in own.items() if site in theirs and theirs[site] != ref}
            if instead:
                pairs.setdefault(tuple(sorted(instead.items())), other[0])
        for pairing, layer in pairs.items():
            instead = dict(pairing)
            masks = {ref: to for ref, to in instead.items() if _square(context.tape.value(ref))}
            alone = {ref: to for ref, to in instead.items() if ref not in masks and _of_one_layer(context, ref)}
            tables = {ref: to for ref, to in instead.items() if ref not in masks and ref not in alone}
            choices = [("mask", masks, "window-pattern"), ("rope table", tables, "rope-layer-type")]
            if masks and tables:
                choices.insert(0, ("mask and rope table", {**masks, **tables}, "window-pattern"))
            yield from _made_for_another(context, inside, alone, numbers(layer)[0] - numbers(call[0])[0])
            for what, chosen, cause in choices:
                edits = _exchanged(context, inside, chosen)
                if edits:
                    kind = f"{what} of {template(layer)}, another kind of layer"
                    yield Mutation(
                        cause,
                        f"{what} of another kind",
                        f"behaves as if it took the {kind}",
                        edits,
                        min(edits),
                        0.95,
                        moves=True,
                    )


def _made_for_another(
    context: Context, inside: set[int], instead: Mapping[Ref, Ref], offset: int
) -> Iterator[Mutation]:
    """A layer given what was made for another one alone."""
    edits = _exchanged(context, inside, instead)
    if edits:
        text = f"behaves as if it took what was made for the layer at {offset:+d}"
        name = f"input of the layer at {offset:+d}"
        yield Mutation("layer-wiring", name, text, edits, min(edits), 1.0, moves=True)


def _of_one_layer(context: Context, ref: Ref) -> bool:
    """Whether a value that layers are given from outside is made for one of them alone, and is no rope table."""
    if context.role_of(context.maker(ref).module) == Role.frequencies:
        return False
    taking = (numbers(context.tape.steps[number].module)[:1] for number in context.users.get(ref, ()))
    return len({layer for layer in taking if layer}) == 1


def _outer(context: Context, call: tuple[str, int]) -> dict[tuple[object, ...], Ref]:
    """What a layer is given beside its hidden state and its weights, by the operation that takes it."""
    region = context.calls[call]
    first = region.steps[0]
    found: dict[tuple[object, ...], Ref] = {}
    for number in region.steps:
        step = context.tape.steps[number]
        for at, ref in enumerate(step.inputs):
            producer = context.producer(ref)
            if ref.step < first and not producer.label and not numbers(producer.module):
                found[(*context.sites[number], at)] = ref
    return found


def _square(value: Tensor) -> bool:
    return value.ndim >= 2 and value.shape[-1] == value.shape[-2]


def _siblings(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """What two modules beside each other give, exchanged, or one's taken for both."""
    given: dict[tuple[str, int, tuple[int, ...]], list[tuple[str, Ref]]] = {}
    for (module, number), region in context.calls.items():
        if len(region.outputs) != 1 or any(call[0].startswith(f"{module}.") for call in context.calls):
            continue
        ref = region.outputs[0]
        if any(user in inside for user in context.users.get(ref, ())):
            outer = module.rpartition(".")[0]
            given.setdefault((outer, number, tuple(context.tape.value(ref).shape)), []).append((module, ref))
    for (outer, _, _), group in given.items():
        for place, (first, ours) in enumerate(group):
            for second, theirs in group[place + 1 :]:
                yield from _pair(context, inside, outer, (first, ours), (second, theirs))


def _pair(
    context: Context, inside: set[int], outer: str, first: tuple[str, Ref], second: tuple[str, Ref]
) -> Iterator[Mutation]:
    names = [module.rpartition(".")[2] for module, _ in (first, second)]
    gated = context.role_of(outer) in (Role.mlp, Role.experts)
    choices: tuple[tuple[str, dict[Ref, Ref], str], ...] = (
        (f"{names[0]} and {names[1]} exchanged", {first[1]: second[1], second[1]: first[1]}, "exchanged"),
        (f"{names[1]} for {names[0]}", {first[1]: second[1]}, "taken"),
        (f"{names[0]} for {names[1]}", {second[1]: first[1]}, "taken"),
    )
    for name, instead, _ in choices:
        edits = _exchanged(context, inside, instead)
        if edits:
            cause = "gate-up-order" if gated else "weights-misplaced"
            text = f"behaves as if {name} were what is used"
            both = first[0], second[0]
            yield Mutation(cause, name, text, edits, min(edits), 1.0, moves=True, pair=both)
    yield _interleaved(context, first, second, "gate-up-order" if gated else "split-layout")


def _interleaved(context: Context, first: tuple[str, Ref], second: tuple[str, Ref], cause: str) -> Mutation:
    """What two projections give, in one and read with their features taking turns."""
    ours, theirs = first[1], second[1]

    def taking_turns(place: int) -> Edit:
        def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            both = torch.cat((playing.tape.value(ours), playing.tape.value(theirs)), -1)
            return (both[..., place::2],)

        return edit

    names = [module.rpartition(".")[2] for module, _ in (first, second)]
    text = f"behaves as if the features of {names[0]} and {names[1]} took turns in one projection"
    edits = {ours.step: taking_turns(0), theirs.step: taking_turns(1)}
    return Mutation(cause, f"{names[0]} and {names[1]} take turns", text, edits, min(edits), 1.05)


def _other_positions(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """Positions counted otherwise: from one, all zero, backwards, wrapped, along the batch."""
    for number in sorted(inside):
        step = context.tape.steps[number]
        value = step.values[0]
        counts = step.name in ("arange", "add") and value.ndim == 1 and not value.is_floating_point()
        if not counts or len(value) < 3 or not torch.equal(value, torch.arange(len(value)) + value[0]):
            continue
        for name, change in _COUNTS:

            def edit(playing: Playing, step: Step, change: Callable[[Tensor], Tensor] = change) -> tuple[Tensor, ...]:
                return (change(step.values[0]),)

            yield Mutation(
                "position-ids", f"positions {name}", f"behaves as if positions {name}", {number: edit}, number
            )
        for size in {int(n) for n in (*context.at_hand, 8, 16, 32) if 1 < n < len(value) and n == int(n)}:
            text = f"behaves as if positions wrapped at {size}"
            wrapped = _wrapped(size)
            yield Mutation("position-ids", f"positions wrap {size}", text, {number: wrapped}, number, 1.05)


def _wrapped(size: int) -> Edit:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        return (step.values[0] % size,)

    return edit


_COUNTS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("began at 1", lambda value: value + 1),
    ("began at 2", lambda value: value + 2),
    ("were all 0", torch.zeros_like),
    ("ran backwards", lambda value: value.flip(0)),
    ("began at -1, clamped", lambda value: (value - 1).clamp_min(0)),
    ("were doubled", lambda value: value * 2),
    ("were halved", lambda value: value // 2),
)


def gathered(context: Context, step: Step) -> Iterator[Mutation]:
    """Taken from another value of its shape that the module computed on the way, as from scores with a bias on them."""
    taken, shape = step.arguments[0], context.tape.value(step.arguments[0]).shape
    near = [ref for other in context.tape.steps[: step.number] if other.module == step.module for ref in other.refs]
    like = [ref for ref in near if ref != taken and context.tape.value(ref).shape == shape]
    for at, other in enumerate(ref for ref in like[-_MOST_GATHERED:] if context.tape.value(ref).is_floating_point()):

        def change(playing: Playing, step: Step, other: Ref = other) -> Tensor:
            arguments, keywords = playing.given(step)
            result: Tensor = playing.value(other, step).gather(*arguments[1:], **keywords)
            return result

        made = context.producer(other).name.rpartition(".")[2]
        text = f"gather took what {made} gives, not what {context.producer(taken).name.rpartition('.')[2]} gives"
        yield mutation_of(context, step, f"gather <- {made} {at}", text, change, 1.0)
