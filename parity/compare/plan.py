"""What the check on the small config tells about one at full size: the blocks, the wires in each, and how it loads.

Wires carry over to every block of the same structure by the names inside it. Where one says which feature stands where,
that is found again at full width, because it counts features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from parity.compare.align import ModulePair
from parity.compare.blocks import Chain, chain, containers
from parity.compare.capture import LOGITS, Endpoint
from parity.compare.sides import parameters
from parity.compare.stages import Forward, Sides
from parity.compare.wires import Wire
from parity.names import template
from parity.pair import oracle, running
from parity.pair.pair import Pair
from parity.pair.port import quiet
from parity.pair.promote import precision
from parity.pair.streamed_port import Habits
from parity.pair.weights import Tensors

Structure = frozenset[tuple[str, str]]
Kind = tuple[Structure, Structure, bool]  # of the reference's and the port's block; whether it is the first


@dataclass(frozen=True)
class Inside:
    """What is compared in blocks of one structure; names begin at the block.

    wires: those that are compared. elsewhere: places where the two sides do not end at the same point. pairs: modules
    whose features stand in another order. fitted: the wires know that order at the width at hand.
    """

    wires: tuple[Wire, ...]
    elsewhere: frozenset[Endpoint]
    pairs: tuple[ModulePair, ...]
    fitted: bool = False


@dataclass(frozen=True)
class Plan:
    """How two models are compared block by block.

    chains: the reference's and the port's blocks. inside: by kind of block.
    outside: wires of modules that are in no block, and outside_elsewhere those that are not compared. resized: modules
    outside whose features stand in another order, which is known for one width alone.
    """

    chains: tuple[Chain, Chain]
    inside: Mapping[Kind, Inside]
    outside: tuple[Wire, ...]
    outside_elsewhere: frozenset[Endpoint]
    resized: tuple[ModulePair, ...]


def kind_of(models: tuple[nn.Module, nn.Module], index: int, names: tuple[str, str]) -> Kind:
    """The kind of a block of two models, which all that is known of one like it applies to.

    The first is of a kind of its own: nothing was handed on to it, not even a residual apart.
    """
    ours, theirs = (_structure(model.get_submodule(name)) for model, name in zip(models, names, strict=True))
    return ours, theirs, index == 0


def _structure(block: nn.Module) -> Structure:
    """What a block is made of, however many there are of each: the names in it and their classes."""
    return frozenset((template(name), type(module).__name__) for name, module in block.named_modules())


@torch.no_grad()
def plan(pair: Pair, sides: Sides, measured: Forward) -> Plan | None:
    """The plan for models like these of any size; None if they have no blocks that can be run alone."""
    models = sides.reference.model, sides.port.model
    found = containers(measured.pairs, models)
    if found is None:
        return None
    with precision(True), quiet():
        ours = chain(models[0], found[0], lambda: oracle.execute(models[0], pair.program))
        theirs = chain(models[1], found[1], lambda: running.execute(pair.port, models[1], pair.program))
    if ours is None or theirs is None:
        return None
    names = list(zip(ours.names(models[0]), theirs.names(models[1]), strict=True))
    inside: dict[Kind, Inside] = {}
    for index, (mine, other) in enumerate(names):
        kind = kind_of(models, index, (mine, other))
        seen = _inside(measured, mine, other)
        known = inside.setdefault(kind, seen)
        inside[kind] = replace(known, elsewhere=known.elsewhere | seen.elsewhere)
    within = ({mine for mine, _ in names}, {other for _, other in names})
    outside = tuple(
        wire
        for wire in measured.wires
        if not _within(wire.reference.module, within[0]) and not _within(wire.port.module, within[1])
    )
    resized = {wire.reference.module for wire in outside if wire.counts_features}
    return Plan(
        (ours, theirs),
        inside,
        tuple(wire for wire in outside if wire.reference.module not in resized),
        measured.isolated.elsewhere,
        tuple(each for each in measured.pairs if each.reference in resized),
    )


def _within(module: str, blocks: set[str]) -> bool:
    return any(f"{module}.".startswith(f"{block}.") for block in blocks)


def _inside(measured: Forward, ours: str, theirs: str) -> Inside:
    wires = tuple(
        replace(wire, reference=_inner(wire.reference, ours), port=_inner(wire.port, theirs))
        for wire in measured.wires
        if _within(wire.reference.module, {ours}) and _within(wire.port.module, {theirs})
    )
    elsewhere = frozenset(
        _inner(end, ours) for end in measured.isolated.elsewhere if end != LOGITS and _within(end.module, {ours})
    )
    ordered = {wire.reference.module for wire in wires if wire.counts_features}
    pairs = tuple(
        replace(pair, reference=pair.reference.removeprefix(ours), port=pair.port.removeprefix(theirs))
        for pair in measured.pairs
        if pair.reference.removeprefix(ours) in ordered and _within(pair.port, {theirs})
    )
    return Inside(wires, elsewhere, pairs)


def _inner(end: Endpoint, block: str) -> Endpoint:
    """An endpoint with its module's name inside a block."""
    return end._replace(module=end.module.removeprefix(block))


def habits(pair: Pair, sides: Sides) -> Habits:
    """How the port loads, by templates of names."""
    loading = sides.loading
    held: dict[str, set[str]] = {}
    for name, tensors in loading.held.items():
        held.setdefault(template(name), set()).update(map(template, tensors))
    lowered = {
        template(name): parameter.dtype
        for name, parameter in parameters(pair.port_model.model).items()
        if name in loading.held and parameter.dtype != pair.dtype  # buffers too: a router's correction is one
    }
    return Habits(
        untouched=frozenset(map(template, loading.untouched)),
        derived=frozenset(map(template, _derived(pair, sides))),
        held={name: tuple(sorted(tensors)) for name, tensors in held.items()},
        dtypes=lowered,
    )


def _derived(pair: Pair, sides: Sides) -> list[str]:
    """Parameters that hold numbers which are in none of the tensors they were made from."""
    stored = Tensors(pair.checkpoint, promoted=True)
    parameters = dict(sides.port.model.named_parameters())
    found = []
    for name, tensors in sides.loading.held.items():
        if name in parameters:
            padding = torch.zeros(1, dtype=torch.float64)
            numbers = torch.cat([padding, *(stored[tensor].flatten() for tensor in tensors)])
            if not bool(torch.isin(parameters[name].detach(), numbers).all()):
                found.append(name)
    return found


def reference_dtypes(pair: Pair) -> dict[str, torch.dtype]:
    """Of the reference's parameters in a run in low precision, those of another dtype than the run, by template."""
    return {
        template(name): tensor.dtype
        for name, tensor in pair.reference_model.state_dict().items()
        if tensor.is_floating_point() and tensor.dtype != pair.dtype
    }
