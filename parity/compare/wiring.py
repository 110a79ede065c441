"""The wires in a block of a model at full size, made from those that the small config showed.

Names inside a block carry over; where there are more heads or experts than on the small config, so do the wires of one
to all. Which feature stands where is found again in a block's real weights, once for blocks of one structure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from parity.compare.align import ModulePair
from parity.compare.capture import Endpoint, Trace
from parity.compare.lineage import Index
from parity.compare.measure import find_order
from parity.compare.plan import Inside, Kind, Plan, kind_of
from parity.compare.sides import Side
from parity.compare.wires import Wire, connect
from parity.names import numbers, template


class Wiring:
    """The wires of every block of two models."""

    def __init__(self, plan: Plan, models: tuple[nn.Module, nn.Module], blocks: Sequence[tuple[str, str]]):
        self._plan = plan
        self._models = models
        self._blocks = blocks
        self._made: dict[Kind, Inside] = {}
        self.unknown: list[int] = []  # blocks unlike any on the small config

    def inside(self, index: int) -> tuple[list[Wire], frozenset[Endpoint]]:
        """The wires in a block, and which of its boundaries are elsewhere."""
        mine, other = self._blocks[index]
        made = self._of_kind(index)
        wires = [
            replace(wire, reference=_outer(wire.reference, mine), port=_outer(wire.port, other)) for wire in made.wires
        ]
        return wires, frozenset(_outer(end, mine) for end in made.elsewhere)

    def fit(self, index: int, traces: tuple[Trace, Trace]) -> bool:
        """Find out which feature stands where, given a run of a block by each side; its weights must be lifted.

        What is read from weights is read once. What is read from values is read in each block: an expert may be given
        its tokens in any order, and is given others in each. Returns whether that was not known before.
        """
        made = self._of_kind(index)
        if not (made.pairs or any(wire.counts_features for wire in made.wires)):
            return False
        if made.fitted and all(wire.layout.order is None for wire in made.wires):
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
        fitted = (
            *(_reordered(wire, traces, mine, other) for wire in made.wires if not _by_weight(wire)),
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
            self._made[kind] = Inside(
                tuple(dict.fromkeys(wire for each in known.wires for wire in _spread(each, names[0], names[1]))),
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


def _spread(wire: Wire, ours: Sequence[str], theirs: Sequence[str]) -> Iterable[Wire]:
    """A wire for each of the numbered modules that there are, where both sides count them alike."""
    for mine, other in _matching(wire.reference.module, wire.port.module, ours, theirs):
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


def _reordered(wire: Wire, traces: tuple[Trace, Trace], mine: str, other: str) -> Wire:
    """A wire with the order that the values have here, or the one that it has if they have none."""
    if wire.layout.order is None:
        return wire
    plain = replace(wire, layout=replace(wire.layout, order=None))
    outer = replace(plain, reference=_outer(wire.reference, mine), port=_outer(wire.port, other))
    values = outer.compared(traces[1], traces[0])
    order = None if values is None or not values[0].is_floating_point() else find_order(*values)
    return wire if order is None else replace(plain, layout=replace(plain.layout, order=order))


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
