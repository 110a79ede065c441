"""The wires in a block of a model at full size, made from those that the small config showed.

Names inside a block carry over; where there are more heads or experts than on the small config, so do the wires of one
to all. Which feature stands where is found again in a block's real weights, once for blocks of one structure.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from parity.compare.align import ModulePair
from parity.compare.capture import Endpoint, Trace
from parity.compare.lineage import Index
from parity.compare.measure import find_order, relative_error
from parity.compare.plan import Inside, Kind, Plan, kind_of
from parity.compare.sides import Side
from parity.compare.wires import Wire, connect
from parity.names import numbers, template
from parity.records import PROMOTED_NOISE

Ends = tuple[Endpoint, int, Endpoint, int]


class Wiring:
    """The wires of every block of two models."""

    def __init__(self, plan: Plan, models: tuple[nn.Module, nn.Module], blocks: Sequence[tuple[str, str]]):
        self._plan = plan
        self._models = models
        self._blocks = blocks
        self._made: dict[Kind, Inside] = {}
        self.unknown: list[int] = []  # blocks unlike any on the small config
        self._loose: dict[int, frozenset[Ends]] = {}  # in each block, what none of its values tells to be the same

    def inside(self, index: int) -> tuple[list[Wire], frozenset[Endpoint]]:
        """The wires in a block, and which of its boundaries are elsewhere."""
        mine, other = self._blocks[index]
        made = self._of_kind(index)
        turns = _in_turn(made.wires)
        loose = self._loose.get(index, frozenset(_ends(wire) for wire in made.wires if _varies(wire, turns)))
        wires = [
            replace(wire, reference=_outer(wire.reference, mine), port=_outer(wire.port, other))
            for wire in made.wires
            if _ends(wire) not in loose
        ]
        return wires, frozenset(_outer(end, mine) for end in made.elsewhere)

    def fit(self, index: int, traces: tuple[Trace, Trace]) -> bool:
        """Find out which feature stands where, given a run of a block by each side; its weights must be lifted.

        What is read from weights is read once. What is read from values is read in each block: an expert may be given
        its tokens in any order, and is given others in each, or none. Where they do not tell, nothing is compared or
        handed on. Returns whether that was not known before.
        """
        made = self._of_kind(index)
        turns = _in_turn(made.wires)
        if not (made.pairs or turns or any(wire.counts_features for wire in made.wires)):
            return False
        if made.fitted and not turns and all(wire.layout.order is None for wire in made.wires):
            return False
        mine, other = self._blocks[index]
        pairs = [replace(pair, reference=mine + pair.reference, port=other + pair.port) for pair in made.pairs]
        connected = [
            replace(wire, reference=_inner(wire.reference, mine), port=_inner(wire.port, other))
            for wire in ([] if made.fitted else _connected(pairs, self._models, traces))
        ]
        if made.fitted:
            connected = [wire for wire in made.wires if _by_weight(wire)]
        wanted = {(wire.reference.module, wire.reference.kind) for wire in made.wires if _by_weight(wire)}
        ordered = {
            _ends(wire): _reordered(wire, traces, (mine, other), _varies(wire, turns))
            for wire in made.wires
            if not _by_weight(wire)
        }
        self._loose[index] = frozenset(ends for ends, wire in ordered.items() if wire is None)
        fitted = (
            *(ordered[_ends(wire)] or wire for wire in made.wires if not _by_weight(wire)),
            *(wire for wire in connected if (wire.reference.module, wire.reference.kind) in wanted),
        )
        self._made[self._kind(index)] = replace(made, wires=fitted, fitted=True)
        return True

    def _ends_alone(self) -> Inside:
        """What is compared in any block, whatever is in it: its input and its output."""
        found = {wire: None for each in self._plan.inside.values() for wire in each.wires if not wire.counts_features}
        ends = tuple(wire for wire in found if not wire.reference.module and not wire.port.module)
        return Inside(ends, frozenset(), ())

    def _kind(self, index: int) -> Kind:
        return kind_of(self._models, index, self._blocks[index])

    def _of_kind(self, index: int) -> Inside:
        """What is compared in a block, of as many heads and experts as it has."""
        kind = self._kind(index)
        if kind not in self._made:
            known = self._plan.inside.get(kind) or self._plan.inside.get((*kind[:2], not kind[2]))
            if known is None:
                known = self._ends_alone()
                self.unknown.append(index)
            names = tuple(
                [inner and f".{inner}" for inner, _ in model.get_submodule(name).named_modules()]
                for model, name in zip(self._models, self._blocks[index], strict=True)
            )
            turns = _in_turn(known.wires)
            self._made[kind] = Inside(
                tuple(dict.fromkeys(wire for each in known.wires for wire in _spread(each, names, turns))),
                known.elsewhere,
                tuple(dict.fromkeys(pair for each in known.pairs for pair in _spread_pair(each, names[0], names[1]))),
            )
        return self._made[kind]


def _outer(end: Endpoint, block: str) -> Endpoint:
    return end._replace(module=block + end.module)


def _inner(end: Endpoint, block: str) -> Endpoint:
    return end._replace(module=end.module.removeprefix(block))


def _by_weight(wire: Wire) -> bool:
    """Whether the features of a wire are read from weights, rather than from values."""
    return wire.reference_features is not None or wire.port_features is not None


def _spread(wire: Wire, names: Sequence[Sequence[str]], turns: Collection[str]) -> Iterable[Wire]:
    """A wire for each of the numbered modules that there are, where both sides count them alike, or run one in turn."""
    alike = numbers(wire.reference.module) == numbers(wire.port.module)
    if not (alike or _varies(wire, turns)) and wire.reference.module in names[0] and wire.port.module in names[1]:
        yield wire
        return
    for mine, other in _matching(wire.reference.module, wire.port.module, names[0], names[1]):
        yield replace(wire, reference=wire.reference._replace(module=mine), port=wire.port._replace(module=other))


def _spread_pair(pair: ModulePair, ours: Sequence[str], theirs: Sequence[str]) -> Iterable[ModulePair]:
    for mine, other in _matching(pair.reference, pair.port, ours, theirs):
        yield replace(pair, reference=mine, port=other)


def _matching(mine: str, other: str, ours: Sequence[str], theirs: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Names like two that correspond: of the same numbers, or any numbers if only one side has some."""
    alike = numbers(mine) == numbers(other)
    for first in (name for name in ours if template(name) == template(mine)):
        for second in (name for name in theirs if template(name) == template(other)):
            if numbers(first) == numbers(second) if alike else not (numbers(mine) and numbers(other)):
                yield first, second


def _in_turn(wires: Iterable[Wire]) -> frozenset[str]:
    """Modules that do in turn what the other side has a module each for: experts, of which some get no token."""
    unlike = [wire for wire in wires if numbers(wire.reference.module) != numbers(wire.port.module)]
    return frozenset(end.module for wire in unlike for end in (wire.reference, wire.port) if end.number > 0)


def _varies(wire: Wire, turns: Collection[str]) -> bool:
    """Whether which call is which depends on the tokens."""
    return wire.reference.module in turns or wire.port.module in turns


def _ends(wire: Wire) -> Ends:
    return wire.reference, wire.reference_part, wire.port, wire.port_part


def _reordered(wire: Wire, traces: tuple[Trace, Trace], blocks: tuple[str, str], varies: bool) -> Wire | None:
    """A wire with the order that the values have here; None if they have none in common."""
    if wire.layout.order is None and not varies:
        return wire
    plain = replace(wire, layout=replace(wire.layout, order=None))
    outer = replace(plain, reference=_outer(wire.reference, blocks[0]), port=_outer(wire.port, blocks[1]))
    values = outer.compared(traces[1], traces[0])
    if values is None or not values[0].is_floating_point():
        return None
    if varies and relative_error(*values) <= PROMOTED_NOISE:
        return plain
    order = find_order(*values)
    return None if order is None else replace(plain, layout=replace(plain.layout, order=order))


def _connected(
    pairs: Sequence[ModulePair], models: tuple[nn.Module, nn.Module], traces: tuple[Trace, Trace]
) -> tuple[Wire, ...]:
    if not pairs:
        return ()
    ours = _weights(models[0], [pair.reference for pair in pairs])
    theirs = _weights(models[1], [pair.port for pair in pairs])
    index = Index(ours)
    sides = [
        Side(model, trace, {name: index.find(value) for name, value in values.items()})
        for model, trace, values in zip(models, traces, (ours, theirs), strict=True)
    ]
    return connect(sides[0], sides[1], pairs, doubting=False).wires


def _weights(model: nn.Module, modules: Sequence[str]) -> dict[str, Tensor]:
    """The parameters that modules keep themselves."""
    return {
        f"{module}.{name}": parameter.detach()
        for module in dict.fromkeys(modules)
        for name, parameter in model.get_submodule(module).named_parameters(recurse=False)
    }
