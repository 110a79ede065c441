"""Which tensors of a reference's checkpoint have a place in a port, by its WEIGHTS and by shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from parity.card.diff import modules
from parity.names import template
from parity.new.nearest import Side
from parity.pair.port import Port, placed


@dataclass(frozen=True)
class Places:
    """Templates of tensors: kept as WEIGHTS has them, added with their place, removed as they do not fit, with why, and
    those without a place.

    parts: modules of the reference that have a counterpart, with it. filled: parameters of the port that get a tensor.
    tensors: how many there are.
    """

    added: Mapping[str, str]
    removed: Mapping[str, str]
    without: tuple[str, ...]
    parts: Mapping[str, str]
    filled: frozenset[str]
    tensors: int

    @property
    def loaded(self) -> int:
        """How many tensors have a place."""
        return len(self.filled)


def places(port: Port, model: nn.Module, shapes: Mapping[str, tuple[int, ...]], new: Side, old: Side) -> Places:
    """Find them.

    Args:
        port: whose WEIGHTS it is.
        model: made by it from the new config.
        shapes: those of the checkpoint's tensors.
        new: the architecture that the checkpoint is of.
        old: the port's own.
    """
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    fits: dict[str, str] = {}
    removed: dict[str, str] = {}
    for name, place in placed(port, shapes):
        if place is None:
            continue
        if place not in own:
            removed[template(name)] = f"there is no {place}"
        elif tuple(own[place].shape) != shapes[name]:
            removed[template(name)] = f"{place} has shape {list(own[place].shape)}, the tensor {list(shapes[name])}"
        else:
            fits[name] = place
    fits = {name: place for name, place in fits.items() if template(name) not in removed}
    added: dict[str, str] = {}
    for name, place in _by_role(port, shapes, new, old):
        free = name not in fits and place not in fits.values() and template(name) not in removed
        if free and place in own and tuple(own[place].shape) == shapes[name]:
            added[template(name)] = template(place)
            fits[name] = place
    without = tuple(dict.fromkeys(template(name) for name in shapes if name not in fits))
    parts = parts_of({template(name): template(place) for name, place in fits.items()})
    return Places(added, removed, without, parts, frozenset(fits.values()), len(shapes))


def _by_role(port: Port, shapes: Mapping[str, tuple[int, ...]], new: Side, old: Side) -> Iterator[tuple[str, str]]:
    """Tensors by what their module does: the place that a tensor of the port's own reference has that does the same."""
    theirs = modules(old.gathered)
    ours = {name: role for role, name in modules(new.gathered).items()}
    known = {each: place for each, place in (port.weights or {}).items() if place is not None}
    for name in shapes:
        module, _, leaf = template(name).rpartition(".")
        place = known.get(f"{theirs.get(ours.get(module, ''), '')}.{leaf}")
        if place is not None:
            parts = [part for part in name.split(".") if part.isdigit()]
            if place.count("{}") == len(parts):
                yield name, place.format(*parts)


def parts_of(fits: Mapping[str, str | None]) -> dict[str, str]:
    """Modules of the reference, by tensors in them that have a place: the module of the port that holds these."""
    votes: dict[str, dict[str, int]] = {}
    for name, place in fits.items():
        if place is None:
            continue
        left, right = name.split("."), place.split(".")
        while len(left) > 1 and len(right) > 1:
            left, right = left[:-1], right[:-1]
            if left[-1] != "{}" or right[-1] == "{}":
                own = votes.setdefault(".".join(left), {})
                own[".".join(right)] = own.get(".".join(right), 0) + 1
    return {name: max(found, key=lambda each: found[each]) for name, found in votes.items()}
