"""The load audit: whether every port parameter holds the tensor that it should, and every tensor is used.

Names of the port are never compared with names of the checkpoint. What stands out is found by content: parameters
still at their initial value, tensors that went nowhere, and in a numbered container (a layer, an expert) a tensor
with a number that its neighbours do not have.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.compare.lineage import Holding
from parity.compare.sides import parents
from parity.names import numbers, template

_ENOUGH_NEIGHBOURS = 3


@dataclass(frozen=True)
class Loading:
    """What the load did.

    held: parameter -> tensors in it, by content or, for `derived` ones, by effect. untouched: still at their initial
    value. misplaced: parameter -> (tensor it holds, tensor its neighbours call for). moved: layer ->
    (number of the tensors in it, number that its turn calls for). waiting: untouched
    parameter -> tensors found nowhere that would fit it. unused: tensors found nowhere;
    partly: tensors of which a part is found nowhere; dropped: left out on purpose.
    """

    held: Mapping[str, tuple[str, ...]]
    untouched: tuple[str, ...]
    derived: tuple[str, ...]
    misplaced: Mapping[str, tuple[str, str]]
    moved: Mapping[str, tuple[int, int]]
    waiting: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]
    partly: tuple[str, ...]
    dropped: tuple[str, ...]


def audit(
    holdings: Mapping[str, tuple[Holding, ...]],
    now: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    dropped: Iterable[str],
    read: Collection[str],
    affected: Callable[[str], set[str]],
    began: Callable[[str], int],
) -> Loading:
    """Audit one load.

    Args:
        holdings: per port parameter, what its content shows.
        now, initial: the port's parameters after and before loading.
        shapes: the checkpoint's tensors.
        dropped: tensors that the port leaves out on purpose.
        read: tensors that the loader asked for.
        affected: given a tensor's name, the parameters (and "" for the logits) that change if the tensor does; costs a
            load and a run, so it is asked only about tensors that were read and whose content was found nowhere.
        began: when a port module, or one inside it, was first called.
    """
    held = {name: tuple(holding.tensor for holding in found) for name, found in holdings.items() if found}
    missing = [name for name in now if name in initial and name not in held]
    untouched = tuple(name for name in missing if _same(now[name], initial[name]))
    mysteries = set(missing) - set(untouched)
    dropped = tuple(sorted(dropped))
    nowhere = [name for name in shapes if not any(name in found for found in held.values()) and name not in dropped]

    effects = {tensor: affected(tensor) for tensor in nowhere if tensor in read}
    derived: dict[str, list[str]] = {}
    for tensor, changed in effects.items():
        for parameter in changed & mysteries:
            derived.setdefault(parameter, []).append(tensor)
    unused = tuple(name for name in nowhere if not effects.get(name))
    partly = tuple(_partly(holdings, shapes))
    moved = _moved(held, began)
    return Loading(
        held={**held, **{name: tuple(found) for name, found in derived.items()}},
        untouched=untouched,
        derived=tuple(sorted(derived)),
        misplaced=_misplaced(held, shapes, moved),
        moved=moved,
        unused=unused,
        partly=partly,
        waiting={
            name: tuple(
                tensor for tensor in (*unused, *partly, *dropped) if sorted(shapes[tensor]) == sorted(now[name].shape)
            )
            for name in untouched
        },
        dropped=dropped,
    )


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(torch.equal(first.double(), second.double()))


def _usual(held: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[int, ...]]:
    """Per numbered container, the numbers of most tensors in it, as many as it has itself; none without a majority."""
    votes: dict[str, Counter[tuple[int, ...]]] = {}
    for parameter, tensors in held.items():
        for container in _numbered(parameter):
            depth = len(numbers(container))
            votes.setdefault(container, Counter()).update(numbers(tensor)[:depth] for tensor in set(tensors))
    usual = {}
    for container, found in votes.items():
        most, count = found.most_common(1)[0]
        if found.total() >= _ENOUGH_NEIGHBOURS and 2 * count > found.total():
            usual[container] = most
    return usual


def _moved(held: Mapping[str, tuple[str, ...]], began: Callable[[str], int]) -> dict[str, tuple[int, int]]:
    """Layers that hold another layer's tensors: told by the order in which they run, not by their own numbers."""
    families: dict[str, list[tuple[int, str, int]]] = {}
    for container, found in _usual(held).items():
        if len(found) == 1:
            families.setdefault(template(container), []).append((began(container), container, found[0]))
    moved: dict[str, tuple[int, int]] = {}
    for family in families.values():
        in_turn = sorted(family)
        wanted = sorted(number for _, _, number in family)
        if len(set(wanted)) == len(wanted) and len({when for when, _, _ in family}) == len(family):
            pairs = zip(in_turn, wanted, strict=True)
            moved |= {container: (number, right) for (_, container, number), right in pairs if number != right}
    return moved


def _misplaced(
    held: Mapping[str, tuple[str, ...]], shapes: Mapping[str, torch.Size], moved: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[str, str]]:
    """Parameters whose tensor has another number than the tensors around it, or lies in a layer that has moved."""
    usual = {**_usual(held), **{container: (right,) for container, (_, right) in moved.items()}}
    found = {}
    for parameter, tensors in held.items():
        container = next((name for name in _numbered(parameter) if name in usual), None)
        for tensor in tensors if container is not None else ():
            wanted = usual[container] if container is not None else ()
            expected = _renumbered(tensor, wanted)
            if expected != tensor and shapes.get(expected) == shapes[tensor]:
                found[parameter] = (tensor, expected)
    return found


def _numbered(parameter: str) -> list[str]:
    return [name for name in parents(parameter) if name.rpartition(".")[2].isdigit()]


def _renumbered(tensor: str, usual: tuple[int, ...]) -> str:
    wanted = list(usual)
    parts = [str(wanted.pop(0)) if part.isdigit() and wanted else part for part in tensor.split(".")]
    return ".".join(parts)


def _partly(holdings: Mapping[str, tuple[Holding, ...]], shapes: Mapping[str, torch.Size]) -> list[str]:
    """Tensors of which some rows or columns were found and others were not."""
    entries: dict[tuple[str, int], set[int]] = {}
    complete = set()
    for found in holdings.values():
        for holding in found:
            if holding.complete:
                complete.add(holding.tensor)
            entries.setdefault((holding.tensor, holding.matched_axis), set()).update(holding.entries.tolist())
    for (tensor, axis), seen in entries.items():
        squeezed = [size for size in shapes[tensor] if size > 1] or [1]
        merged = squeezed if len(squeezed) <= 2 else [int(torch.tensor(squeezed[:-1]).prod()), squeezed[-1]]
        if len(seen) == merged[axis]:
            complete.add(tensor)
    return sorted({tensor for tensor, _ in entries} - complete)
