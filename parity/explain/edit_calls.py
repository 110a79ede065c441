"""Mutations of whole module calls: left out, made twice, given another input or another module's weights."""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from parity.explain.edit_operations import ACTIVATIONS
from parity.explain.mutations import Context, Mutation, Region, again
from parity.explain.play import Edit, Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step
from parity.names import numbers, template

_MOST_INPUTS = 10


def propose(context: Context, call: tuple[str, int], region: Region) -> Iterator[Mutation]:
    """Everything that can go wrong with one call of a module that gives one value."""
    if len(region.outputs) != 1:
        return
    output = region.outputs[0]
    result = context.tape.value(output)
    values = [ref for ref in region.inputs if context.producer(ref).label == ""]
    main = [ref for ref in values if context.tape.value(ref).shape == result.shape]
    last = context.tape.steps[output.step]
    role = context.place(last).role
    if len(main) == 1 and result.is_floating_point():
        yield _dropped(context, call[0], main[0], output, role)
        yield _twice(context, call[0], region, main[0], output, role)
        if role == Role.activation:
            yield from _other_activations(main[0], output)
        yield from _other_inputs(context, call[0], region, main[0], output)
        yield from _norm_of_sum(context, call[0], region, main[0], output, role)
    yield from _other_weights(context, call[0], region, output)


def _here(change: Callable[[Playing, Step], Tensor]) -> Callable[[Playing, Step], tuple[Tensor, ...]]:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        return (change(playing, step),)

    return edit


def _dropped(context: Context, module: str, given: Ref, output: Ref, role: Role) -> Mutation:
    last = module.rpartition(".")[2]
    cause = {
        Role.final_norm: "final-norm", Role.qk_norm: "qknorm-missing-or-width", Role.activation: "activation",
        Role.norm: "residual-topology", Role.gated_norm: "ssm-gated-norm", Role.mlp: "residual-topology",
        Role.attention: "residual-topology",
    }.get(role, "layer-wiring")  # fmt: skip
    last = "q/k norm" if role == Role.qk_norm else last
    edit = _here(lambda playing, step: playing.value(given, step))
    name, text = f"{last} left out", f"behaves as if {last} were left out"
    return Mutation(cause, name, text, {output.step: edit}, output.step, 0.95, omits=True)


def _norm_of_sum(
    context: Context, module: str, region: Region, given: Ref, output: Ref, role: Role
) -> Iterator[Mutation]:
    """A norm taken after the residual was added, not before."""
    if role != Role.norm:
        return
    for number in context.users.get(output, ()):
        step = context.tape.steps[number]
        others = [ref for ref in step.inputs if ref != output]
        if step.name != "add" or len(others) != 1:
            continue

        def change(playing: Playing, step: Step, other: Ref = others[0]) -> Tensor:
            total = playing.value(given, step) + playing.value(other, step)
            return again(playing, context, region, {given: total}, output)

        last = module.rpartition(".")[2]
        text = f"behaves as if {last} came after the residual was added"
        yield Mutation("residual-topology", f"{last} of the sum", text, {number: _here(change)}, number)


def sums_before_norms(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """What a port hands to a norm where it adds the residual first."""
    for (module, _), region in context.calls.items():
        if context.role_of(module) != Role.norm or len(region.outputs) != 1:
            continue
        values = [ref for ref in region.inputs if not context.producer(ref).label]
        for number in context.users.get(region.outputs[0], ()) if len(values) == 1 else ():
            step, given = context.tape.steps[number], values[0]
            others = [ref for ref in step.inputs if ref != region.outputs[0]]
            if step.name != "add" or len(others) != 1 or given.step not in inside:
                continue

            def edit(playing: Playing, step: Step, given: Ref = given, other: Ref = others[0]) -> tuple[Tensor, ...]:
                values = list(step.values)
                values[given.part] = values[given.part] + playing.tape.value(other)
                return tuple(values)

            last = module.rpartition(".")[2]
            text = f"behaves as if {last} came after the residual was added"
            yield Mutation(
                "residual-topology", f"sum before {last}", text, {given.step: edit}, given.step, 0.95, moves=True
            )


def other_layers(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """Layers that run with the weights of others: all of them of the next or the one before, or one alone."""
    layers = [region for (module, _), region in context.calls.items() if context.role_of(module) == Role.layer]
    steps = [_layer_as(context, region, region) for region in layers]
    if len(layers) < 2 or None in steps or not any(ref.step in inside for layer in layers for ref in layer.outputs):
        return
    for offset, words in ((1, "next"), (-1, "previous")):
        edits = {}
        for place, region in enumerate(layers):
            found = _layer_as(context, region, layers[(place + offset) % len(layers)])
            if found is not None:
                edits[found[0]] = found[1]
                if 0 <= place + offset < len(layers):
                    text = f"behaves as if {region.name} were {layers[place + offset].name} once more"
                    yield Mutation("layer-wiring", f"{region.name} as the {words}", text, dict((found,)), found[0])
        text = f"behaves as if every layer had the weights of the {words} one"
        yield Mutation("layer-wiring", f"layers as the {words}", text, edits, min(edits), 0.95)


def _layer_as(context: Context, layer: Region, other: Region) -> tuple[int, Edit] | None:
    """What a layer gives if it is another one, as an edit of its last step."""
    hidden = [_hidden(context, region) for region in (layer, other)]
    if len(layer.outputs) != 1 or len(other.outputs) != 1 or None in hidden:
        return None
    given, taken = hidden

    def change(playing: Playing, step: Step) -> Tensor:
        assert given is not None
        assert taken is not None
        return again(playing, context, other, {taken: playing.value(given, step)}, other.outputs[0])

    return layer.outputs[0].step, _here(change)


def _hidden(context: Context, layer: Region) -> Ref | None:
    """The hidden state that a layer is given."""
    shape = context.tape.value(layer.outputs[0]).shape if layer.outputs else None
    found = [ref for ref in layer.inputs if context.tape.value(ref).shape == shape and not context.producer(ref).label]
    return found[0] if len(found) == 1 else None


def _twice(context: Context, module: str, region: Region, given: Ref, output: Ref, role: Role) -> Mutation:
    last = module.rpartition(".")[2]

    def change(playing: Playing, step: Step) -> Tensor:
        once = again(playing, context, region, {given: playing.value(given, step)}, output)
        return again(playing, context, region, {given: once}, output)

    cause = {Role.qk_norm: "qknorm-missing-or-width", Role.activation: "activation"}.get(role, "residual-topology")
    text = f"behaves as if {last} were applied twice"
    return Mutation(cause, f"{last} twice", text, {output.step: _here(change)}, output.step, 1.1)


def _other_activations(given: Ref, output: Ref) -> Iterator[Mutation]:
    for name, function in ACTIVATIONS.items():

        def change(playing: Playing, step: Step, function: Callable[[Tensor], Tensor] = function) -> Tensor:
            return function(playing.value(given, step))

        text = f"behaves as if the activation were {name}"
        yield Mutation("activation", f"activation -> {name}", text, {output.step: _here(change)}, output.step)


def _other_inputs(context: Context, module: str, region: Region, given: Ref, output: Ref) -> Iterator[Mutation]:
    """The module given what other modules near it took or gave."""
    outer = module.rpartition(".")[0]
    wanted = context.tape.value(given)
    near: dict[Ref, str] = {}
    for endpoint, refs in context.tape.marks.items():
        beside = endpoint.module.rpartition(".")[0] == outer or endpoint.module == outer
        for ref in refs:
            if ref is None or not beside or ref == given or ref.step >= output.step:
                continue
            value = context.tape.value(ref)
            if value.shape == wanted.shape and value.dtype == wanted.dtype:
                near.setdefault(ref, f"the {endpoint.kind} of {endpoint.module}")
    last = module.rpartition(".")[2]
    for ref, what in sorted(near.items(), key=lambda item: -item[0].step)[:_MOST_INPUTS]:

        def change(playing: Playing, step: Step, ref: Ref = ref) -> Tensor:
            return again(playing, context, region, {given: playing.value(ref, step)}, output)

        name = f"{last} <- {template(what)}"
        text = f"behaves as if {last} were given {what}"
        yield Mutation("residual-topology", name, text, {output.step: _here(change)}, output.step, 1.15)


def _other_weights(context: Context, module: str, region: Region, output: Ref) -> Iterator[Mutation]:
    """The module with the weights of its twin in the next or last layer, or of a sibling."""
    own = [ref for ref in region.inputs if context.producer(ref).label]
    own += [Ref(n) for n in region.steps if context.tape.steps[n].function is None and context.tape.steps[n].label]
    if not 1 <= len(own) <= 2:
        return
    labels = {step.label: step for step in context.tape.steps if step.label}
    steps = [context.tape.steps[ref.step] for ref in own]
    role = context.role_of(module)
    for label in labels:
        first = steps[0].label
        if label == first or not _near(first, label):
            continue
        others = [labels.get(f"{label.rpartition('.')[0]}.{step.label.rpartition('.')[2]}") for step in steps]
        fitting = [
            (step, other)
            for step, other in zip(steps, others, strict=True)
            if other is not None and other.values[0].shape == step.values[0].shape
        ]
        if len(fitting) < len(steps):
            continue
        edits = {step.number: _here(partial(_value, other.values[0])) for step, other in fitting}
        name = f"{template(first)} <- {template(label)}{_distance(first, label)}"
        text = f"behaves as if {first} were {label}"
        cause = _cause_of_weights(role, numbers(first) == numbers(label))
        pair = module, label.rpartition(".")[0]
        yield Mutation(cause, name, text, edits, output.step, 1.1, moves=True, pair=pair)


def _cause_of_weights(role: Role, same_layer: bool) -> str:
    """The port holds the right tensors, as its load audit says: it calls the wrong module."""
    if role == Role.qk_norm and same_layer:
        return "qknorm-missing-or-width"
    return "residual-topology" if role in (Role.norm, Role.final_norm) and same_layer else "weights-misplaced"


def _value(value: Tensor, playing: Playing, step: Step) -> Tensor:
    return value


def _near(first: str, second: str) -> bool:
    ours, theirs = numbers(first), numbers(second)
    if template(first) == template(second):
        return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) == 1
    return ours == theirs


def _distance(first: str, second: str) -> str:
    ours, theirs = numbers(first), numbers(second)
    if len(ours) != len(theirs):
        return ""
    return "".join(f"{b - a:+d}" for a, b in zip(ours, theirs, strict=True) if a != b)
