"""Findings of the load audit: tensors that are nowhere, in the wrong place, or in several layers at once."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from difflib import SequenceMatcher

from parity.compare.capture import LOGITS
from parity.compare.lineage import share
from parity.compare.measure import identical
from parity.compare.sides import Side, parents
from parity.compare.stages import Forward, Sides
from parity.explain.findings import Located, merged, module_of
from parity.names import fold, numbers, template
from parity.records import PROMOTED_NOISE, Finding


def weights(sides: Sides, forward: Forward) -> tuple[Located, ...]:
    """Findings of the load audit, one per kind of place."""
    shared = _shared(sides, forward)
    inside = tuple(f"{template(each.finding.reference_module)}." for each in shared)
    found = [
        *_moved(sides, forward),
        *_misplaced(sides),
        *_mixed(sides, forward),
        *_untouched(sides, forward),
        *_not_held(sides, forward),
    ]
    others = [each for each in found if not template(f"{each.finding.reference_module}.").startswith(inside or ("?",))]
    return (*shared, *_grouped(others))


def _shared(sides: Sides, forward: Forward) -> list[Located]:
    """Layers that are one module in the port, and several in the reference."""
    partners = {pair.port: pair.reference for pair in forward.pairs}
    groups: dict[tuple[int, str], list[str]] = {}
    for name, module in sides.port.model.named_modules(remove_duplicate=False):
        groups.setdefault((id(module), template(name)), []).append(name)
    found: list[Located] = []
    for (_, kind), names in groups.items():
        if len(names) < 2:
            continue
        layers = [name for name in sides.reference.modules if template(name) == template(partners.get(names[0], ""))]
        within = any(kind.startswith(f"{template(each.finding.port_module)}.") for each in found)
        if len(layers) < len(names) or within or not sides.port.holds_weights(names[0]):
            continue
        title = f"{fold(names)[0]} are one module; what was loaded last is in all of them"
        evidence = tuple(f"also {name}" for name in layers[1:])
        finding = Finding("weights", "layer-wiring", title, layers[0], names[0], evidence=evidence)
        found.append(Located(finding, built=names[0].rpartition(".")[0]))
    return found


def _moved(sides: Sides, forward: Forward) -> Iterator[Located]:
    partners = {pair.port: pair.reference for pair in forward.pairs}
    for layer, (number, right) in sides.loading.moved.items():
        ours = next(partners[name] for name in (layer, *partners) if name == layer or name.startswith(f"{layer}."))
        title = f"{layer} runs in the place of layer {right} and holds the tensors of layer {number}"
        inside = [name for name in sides.loading.held if name.startswith(f"{layer}.")]
        yield Located(Finding("weights", "weights-misplaced", title, ours, layer), names=tuple(inside[:1]))


def _misplaced(sides: Sides) -> Iterator[Located]:
    """Tensors in each other's place; where the names say that they belong there, the code that uses them is wrong."""
    loading, reference = sides.loading, sides.reference
    for parameter, (held, expected) in loading.misplaced.items():
        if any(outer in loading.moved for outer in parents(parameter)):
            continue
        title = f"{parameter} holds {held}; what is around it calls for {expected}"
        crosswise = (expected, held) in loading.misplaced.values()
        gated = crosswise and _is_gate_and_up(held, expected)
        module = reference.serves(expected)
        finding = Finding(
            "weights",
            "gate-up-order" if gated else "weights-misplaced",
            title,
            module_of(module) if gated else module,
            module_of(parameter),
        )
        if _likeness(parameter, held) > _likeness(parameter, expected):
            yield Located(finding, called=module_of(parameter))
        else:
            yield Located(finding, names=(parameter, held))


def _mixed(sides: Sides, forward: Forward) -> Iterator[Located]:
    """A module whose tensors come from two modules of the reference's of one class, in a port that goes wrong."""
    reference = sides.reference
    if not forward.total.get(LOGITS, float("inf")) > PROMOTED_NOISE:
        return
    groups: dict[tuple[str, ...], list[str]] = {}
    for module in dict.fromkeys(module_of(name) for name in sides.loading.held):
        own = [tensors for name, tensors in sides.loading.held.items() if module_of(name) == module]
        places = sorted({module_of(tensors[0]) for tensors in own})
        kinds = {type(reference.modules.get(name)) for name in places}
        mixed = len(own) == len(places) == 2 and all(len(tensors) == 1 for tensors in own)
        if mixed and len(kinds) == 1 and len({module_of(name) for name in places}) == 1:
            groups.setdefault(tuple(places), []).append(module)
    for owners, modules in groups.items():
        if len(modules) == len(owners):
            pairs = zip(_in_turn(sides.port, modules), _in_turn(reference, owners), strict=True)
            yield from (_strangers(sides, module, right) for module, right in pairs)


def _in_turn(side: Side, modules: Iterable[str]) -> list[str]:
    """Modules in the order in which they run."""
    began = {name: calls[0].began for name, calls in side.trace.calls.items() if calls}
    return sorted(modules, key=lambda name: began.get(name, len(began)))


def _strangers(sides: Sides, module: str, right: str) -> Located:
    held = {name: tensors[0] for name, tensors in sides.loading.held.items() if module_of(name) == module}
    name, tensor = next((name, tensor) for name, tensor in held.items() if module_of(tensor) != right)
    title = f"{name} holds {tensor}; {module} runs in the place of {right}"
    return Located(Finding("weights", "weights-misplaced", title, right, module), names=(name, tensor))


def _is_gate_and_up(first: str, second: str) -> bool:
    """The two projections of a gated MLP, of one layer."""
    last = {module_of(name).rpartition(".")[2].partition("_")[0] for name in (first, second)}
    return last == {"gate", "up"} and module_of(module_of(first)) == module_of(module_of(second))


def _likeness(first: str, second: str) -> float:
    return SequenceMatcher(None, template(first), template(second)).ratio()


def _untouched(sides: Sides, forward: Forward) -> Iterator[Located]:
    loading, reference = sides.loading, sides.reference
    partners = {pair.port: pair.reference for pair in forward.pairs}
    same_function = forward.total.get(LOGITS, float("inf")) <= PROMOTED_NOISE
    for parameter in loading.untouched:
        module = partners.get(module_of(parameter), "")
        fitting = set(loading.waiting[parameter]) - (set(loading.dropped) if same_function else set())
        if not fitting and not shares_a_tensor(reference, module):
            continue  # nothing is missing that it could have held: a constant of the port's own
        near = sorted(loading.waiting[parameter], key=lambda tensor: numbers(tensor) != numbers(parameter))
        module = module or next((reference.serves(tensor) for tensor in near), "")
        head = shares_a_tensor(reference, module) or _is_head(reference, module)
        cause = "tied-head" if head else "weights-silently-missing"
        title = f"{parameter} was never loaded, it is as Model(config) left it"
        finding = Finding("weights", cause, title, module, module_of(parameter))
        yield Located(finding, names=(*loading.waiting[parameter], parameter))


def _not_held(sides: Sides, forward: Forward) -> Iterator[Located]:
    loading, reference = sides.loading, sides.reference
    partners = {pair.port: pair.reference for pair in forward.pairs}
    counterparts = {theirs: ours for ours, theirs in partners.items()}
    misplaced = {expected for _, expected in loading.misplaced.values()}
    waiting = {
        tensor
        for parameter in loading.untouched
        for tensor in (*reference.tensors_of(partners.get(module_of(parameter), "")), *loading.waiting[parameter])
    }
    for tensor in loading.unused:
        if tensor not in misplaced and tensor not in waiting:
            module = reference.serves(tensor)
            cause = "bias-dropped" if tensor.endswith(".bias") else "weights-silently-missing"
            if _is_head(reference, module):
                cause = "tied-head"
            title = f"{tensor} is in the checkpoint and nowhere in the port"
            port = counterparts.get(module, "")
            finding = Finding("weights", cause, title, module, port)
            yield Located(finding, names=(tensor, f"{port}.{tensor.rpartition('.')[2]}"))
    for tensor in loading.partly:
        module = reference.serves(tensor)
        title = f"only a part of {tensor} is in the port"
        finding = Finding("weights", "weights-silently-missing", title, module, counterparts.get(module, ""))
        yield Located(finding, names=(tensor,))


def _is_head(reference: Side, module: str) -> bool:
    """Whether a module makes the logits."""
    calls = reference.trace.calls.get(module, ())
    return bool(calls) and any(identical(value, reference.trace.logits) for value in calls[-1].outputs)


def shares_a_tensor(reference: Side, module: str) -> bool:
    """Whether a module uses a tensor that another one uses too, as a tied head does."""
    own = reference.held(module)
    others = (each for name in reference.owned if name != module for each in reference.held(name))
    return any(mine.tensor == other.tensor and share(mine, other) for other in others for mine in own)


def _grouped(found: Iterable[Located]) -> tuple[Located, ...]:
    """The same finding in several layers is one, named by the first."""
    groups: dict[tuple[str, ...], list[Located]] = {}
    for each in found:
        finding = each.finding
        place = (template(finding.reference_module), template(finding.port_module), _plain(finding.title))
        groups.setdefault((finding.cause, *place), []).append(each)
    return tuple(replace(group[0], finding=merged([each.finding for each in group])) for group in groups.values())


def _plain(title: str) -> str:
    """A title without the numbers in its names, so that layers can be told from kinds."""
    return " ".join(template(word.rstrip(",;")) for word in title.split())
