"""Alignment by lineage: two modules correspond when they hold the same checkpoint tensors.

Leaves are paired first, containers follow from what they contain, modules without parameters from where they stand,
what they return and when. Names are never compared; a port's MODULES only helps.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from parity.compare.capture import Call
from parity.compare.lineage import Holding, share
from parity.compare.loading import Loading
from parity.compare.measure import best_layout
from parity.compare.sides import Side, parents
from parity.errors import ParityError
from parity.names import numbers


@dataclass(frozen=True)
class ModulePair:
    """A reference module and a port module that correspond. partial: one holds only part of the other's tensors."""

    reference: str
    port: str
    partial: bool = False


Element = tuple[
    str, str
]  # a checkpoint tensor and the reference module it serves, which tells a tied head from its embedding


@dataclass(frozen=True)
class _Sets:
    """What each module holds, inner modules included."""

    reference: Mapping[str, frozenset[Element]]
    port: Mapping[str, frozenset[Element]]


def align(reference: Side, port: Side, loading: Loading, hints: Mapping[str, str]) -> tuple[ModulePair, ...]:
    """Pair modules that were called on both sides.

    Args:
        reference, port: both sides after a run each.
        loading: the load audit; misplaced tensors count where they should be.
        hints: the port's MODULES, reference template -> port template.

    Raises:
        ParityError: a hint names a module that is not there.
    """
    hinted = _hinted(reference, port, hints)
    sets = _element_sets(reference, port, loading)
    pairs = [*hinted, *_same_elements(reference, port, sets), *_parts(reference, port, sets)]
    pairs = _distinct(pairs, hinted)
    pairs += _without_parameters(reference, port, pairs)
    return tuple(sorted(_distinct(pairs, hinted), key=lambda pair: reference.began(pair.reference)))


def _distinct(pairs: Iterable[ModulePair], hinted: Sequence[ModulePair]) -> list[ModulePair]:
    """Without repetitions; what a hint says of a module overrides what was found."""
    told_reference, told_port = {pair.reference for pair in hinted}, {pair.port for pair in hinted}
    kept = [
        pair
        for pair in pairs
        if pair in hinted or (pair.reference not in told_reference and pair.port not in told_port)
    ]
    return list(dict.fromkeys(kept))


def _hinted(reference: Side, port: Side, hints: Mapping[str, str]) -> list[ModulePair]:
    pairs = []
    for source, target in hints.items():
        matches = [name for name in reference.modules if _fill(source, numbers(name)) == name]
        if not matches:
            raise ParityError(
                f"MODULES names {source!r}, which the reference has not", "Use its module names with {} for numbers."
            )
        for name in matches:
            place = _fill(target, numbers(name))
            if place is None or place not in port.modules:
                raise ParityError(
                    f"MODULES names {target!r}, which the port has not", "Use its module names with {} for numbers."
                )
            pairs.append(ModulePair(name, place))
    return pairs


def _fill(text: str, values: Sequence[int]) -> str | None:
    return text.format(*values) if text.count("{}") == len(values) else None


def _element_sets(reference: Side, port: Side, loading: Loading) -> _Sets:
    serves: dict[str, list[str]] = {}
    own_reference: dict[str, set[Element]] = {}
    for module, found in reference.owned.items():
        for tensor in {holding.tensor for holdings in found.values() for holding in holdings}:
            serves.setdefault(tensor, []).append(module)
            own_reference.setdefault(module, set()).add((tensor, module))
    own_port: dict[str, set[Element]] = {}
    for parameter, holdings in port.holdings.items():
        module = port.owner(parameter)
        held = {holding.tensor: holding for holding in holdings}
        for tensor in _meant(parameter, loading):
            roles = _roles(tensor, held.get(tensor), serves.get(tensor, []), reference, port.takes_ids(module))
            if roles:
                own_port.setdefault(module, set()).update((tensor, role) for role in roles)
    for module, role in _by_elimination(reference, port, own_reference, own_port, loading).items():
        own_port[module] = own_reference[role]
    claimed = set().union(*own_port.values()) if own_port else set()
    own_reference = {module: found & claimed for module, found in own_reference.items() if found & claimed}
    return _Sets(_with_inner(own_reference), _with_inner(own_port))


def _meant(parameter: str, loading: Loading) -> tuple[str, ...]:
    """The tensors a parameter holds, or should hold."""
    held = loading.held.get(parameter, ())
    wrong = loading.misplaced.get(parameter)
    return tuple(wrong[1] if wrong and tensor == wrong[0] else tensor for tensor in held)


def _roles(
    tensor: str, held: Holding | None, serves: Sequence[str], reference: Side, takes_ids: bool | None
) -> list[str]:
    """Which of the reference's modules that use a tensor a module of the port stands for: ids in, or activations in.

    It is one of them, unless each holds a part of the tensor: then it is those whose parts the port's module holds.
    """
    fitting = [name for name in serves if takes_ids is None or reference.takes_ids(name) in (takes_ids, None)]
    parts = {name: own for name in fitting for own in reference.held(name) if own.tensor == tensor and not own.complete}
    if held is None or len(parts) < 2:
        return fitting[:1]
    return [name for name, own in parts.items() if share(own, held)]


def _by_elimination(
    reference: Side,
    port: Side,
    own_reference: Mapping[str, set[Element]],
    own_port: Mapping[str, set[Element]],
    loading: Loading,
) -> dict[str, str]:
    """Pair modules whose load went wrong with modules of the reference that nothing claims, by shape, number, order."""
    claimed = set().union(*own_port.values()) if own_port else set()
    free_reference = [
        module for module, found in own_reference.items() if not found & claimed and reference.calls(module)
    ]
    waiting = [port.owner(name) for name in loading.untouched]
    free_port = [module for module in dict.fromkeys(waiting) if not own_port.get(module) and port.calls(module)]
    misled = [
        module
        for module in port.modules
        if port.keeps_weights(module) and not own_port.get(module) and port.calls(module)
    ]
    free_port += [module for module in misled if module not in free_port]
    found: dict[str, str] = {}
    for module in sorted(free_port, key=port.began):
        fitting = [
            name
            for name in sorted(free_reference, key=reference.began)
            if name not in found.values() and _shapes(reference, name) == _shapes(port, module)
        ]
        near = [name for name in fitting if numbers(name) == numbers(module)] or fitting
        if near:
            found[module] = near[0]
    return found


def _shapes(side: Side, module: str) -> list[tuple[int, ...]]:
    return sorted(tuple(sorted(value.shape)) for value in side.modules[module].parameters(recurse=False))


def _with_inner(own: Mapping[str, set[Element]]) -> dict[str, frozenset[Element]]:
    total: dict[str, set[Element]] = {}
    for module, found in own.items():
        for name in (module, *parents(module)) if module else ("",):
            total.setdefault(name, set()).update(found)
    return {name: frozenset(found) for name, found in total.items()}


def _same_elements(reference: Side, port: Side, sets: _Sets) -> list[ModulePair]:
    """Pairs of called modules that hold exactly the same."""
    by_elements: dict[frozenset[Element], tuple[list[str], list[str]]] = {}
    for place, side, found in ((0, reference, sets.reference), (1, port, sets.port)):
        for module, elements in found.items():
            if module and side.calls(module):
                by_elements.setdefault(elements, ([], []))[place].append(module)
    pairs = []
    for ours, theirs in by_elements.values():
        if ours and theirs and not any(_holds_part(port, module) for module in theirs):
            pairs += _match_chains(reference, port, ours, theirs)
    return pairs


def _holds_part(side: Side, module: str) -> bool:
    """Whether a module without inner ones holds only part of some tensor."""
    own = side.owned.get(module, {})
    return side.is_leaf(module) and any(not holding.complete for found in own.values() for holding in found)


def _match_chains(reference: Side, port: Side, ours: Sequence[str], theirs: Sequence[str]) -> list[ModulePair]:
    """Modules that hold the same are nested in each other, or copies: pair them by what they return, order kept."""
    ours = sorted(ours, key=lambda name: (name.count("."), reference.began(name)))
    theirs = sorted(theirs, key=lambda name: (name.count("."), port.began(name)))
    copies = [
        name
        for name in theirs
        if not any(_encloses(other, name) or _encloses(name, other) for other in theirs if other != name)
    ]
    if len(theirs) > 1 and len(copies) == len(theirs):
        return [ModulePair(ours[0], name) for name in theirs]
    size = min(len(ours), len(theirs))
    choices = (
        tuple(zip(left, right, strict=True))
        for left in itertools.combinations(ours, size)
        for right in itertools.combinations(theirs, size)
    )
    best = min(choices, key=lambda chosen: sum(_mismatch(reference, port, *pair) for pair in chosen))
    return [ModulePair(*pair) for pair in best]


def _encloses(outer: str, inner: str) -> bool:
    return inner.startswith(f"{outer}.")


def _mismatch(reference: Side, port: Side, ours: str, theirs: str) -> float:
    """How far two modules' first results are apart: 0 the same, 1 unrelated, 2 of shapes that do not fit."""
    left, right = reference.trace.calls[ours][0], port.trace.calls[theirs][0]
    return min((min(error, 1.0) for _, _, error in fits(left, right)), default=2.0)


def fits(reference: Call, port: Call) -> list[tuple[int, int, float]]:
    """Results of two calls that can be laid over each other: (reference's, port's, relative error)."""
    found = []
    for ours, left in enumerate(reference.outputs):
        for theirs, right in enumerate(port.outputs):
            layout = best_layout(right, left)
            if layout is not None:
                found.append((ours, theirs, layout[1]))
    return found


def _parts(reference: Side, port: Side, sets: _Sets) -> list[ModulePair]:
    """Leaves where one side fuses what the other keeps apart: pairs that share tensors without holding the same."""
    pairs = []
    for theirs in port.owned:
        if not theirs or not port.calls(theirs) or not port.is_leaf(theirs) or theirs not in sets.port:
            continue
        sharing = [
            ours
            for ours in reference.owned
            if sets.reference.get(ours, frozenset()) & sets.port[theirs]
            and reference.calls(ours)
            and reference.is_leaf(ours)
        ]
        whole = len(sharing) == 1 and sets.reference[sharing[0]] == sets.port[theirs]
        if (whole and not _holds_part(port, theirs)) or not _one_input(reference, sharing):
            continue
        pairs += [ModulePair(ours, theirs, partial=True) for ours in sharing]
    return pairs


def _one_input(side: Side, modules: Sequence[str]) -> bool:
    """Whether all modules take the same value, as parts of one fused module do."""
    inputs = [side.trace.calls[module][0].inputs for module in modules]
    if not inputs or not all(inputs):
        return False
    first = inputs[0][0]
    return all(some[0].shape == first.shape and bool((some[0] == first).all()) for some in inputs)


def _without_parameters(reference: Side, port: Side, pairs: Sequence[ModulePair]) -> list[ModulePair]:
    """Activations, rotary embeddings and the like: in the same enclosing pair, closest results first, then in order."""
    scopes = {pair.reference: pair.port for pair in pairs if not pair.partial} | {"": ""}
    taken_reference, taken_port = {pair.reference for pair in pairs}, {pair.port for pair in pairs}
    inner: dict[str, tuple[list[str], list[str]]] = {}
    for place, side, taken, roots in (
        (0, reference, taken_reference, set(scopes)),
        (1, port, taken_port, set(scopes.values())),
    ):
        for module in side.modules:
            if module not in taken and side.calls(module) and _bare(side, module):
                scope = next(name for name in parents(module) if name in roots)
                inner.setdefault(scope if place else scopes[scope], ([], []))[place].append(module)
    found = []
    for ours, theirs in inner.values():
        found += _closest(reference, port, ours, theirs)
    return found


def _bare(side: Side, module: str) -> bool:
    """A module that computes something without parameters, and contains no others."""
    return side.is_leaf(module) and not side.keeps_weights(module) and not side.is_identity(module)


def _closest(reference: Side, port: Side, ours: Sequence[str], theirs: Sequence[str]) -> list[ModulePair]:
    """One-to-one, except that a module called several times may stand for several modules called once each."""
    room = {name: reference.calls(name) for name in ours}
    left = {name: port.calls(name) for name in theirs}
    ranked = sorted(
        (_call_mismatch(reference, port, mine, other), reference.began(mine), port.began(other), mine, other)
        for mine in ours
        for other in theirs
    )
    pairs = []
    for mismatch, _, _, mine, other in ranked:
        if mismatch < 2.0 and left[other] and room[mine] >= left[other]:
            room[mine] -= left[other]
            left[other] = 0
            pairs.append(ModulePair(mine, other))
    return pairs


def _call_mismatch(reference: Side, port: Side, ours: str, theirs: str) -> float:
    """The smallest mismatch over the reference module's calls."""
    right = port.trace.calls[theirs][0]
    errors = [
        min((min(error, 1.0) for _, _, error in fits(left, right)), default=2.0) for left in reference.trace.calls[ours]
    ]
    return min(errors, default=2.0)
