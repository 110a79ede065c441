"""A stand-in: an architecture that transformers has, where it has none of a port's model type.

A port may say that another architecture computes the same function, on which config, and what the tensors of its own
are called and made of there. The other one is then the reference, on checkpoints with the names of the port's own.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from parity.errors import ParityError
from parity.names import fold, pattern

_DOCS = "See docs/writing-a-port.md#stand-ins."
_OTHER = "another value"
_SHOWN = 3  # names in an error

Place = tuple[str, slice | None]  # a tensor on disk, and which of its rows, None for all


@dataclass(frozen=True)
class StandIn:
    """What stands in for one model type.

    stands_for: the model type. translate: its config.json, parsed -> that of the stand-in. names: template of a tensor
    on disk -> templates of the stand-in's tensors that lie in it, one after another along dimension 0.
    """

    stands_for: str
    translate: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    names: Mapping[str, tuple[str, ...]]

    def config(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The stand-in's config.

        Raises:
            ParityError: the port's function raised, or gives no config with a model_type.
        """
        try:
            made = self.translate(dict(hf))
        except (Exception, SystemExit) as error:
            raise self.wrong(f"raised {type(error).__name__}: {error}") from error
        if not isinstance(made, Mapping) or not isinstance(made.get("model_type"), str):
            raise self.wrong("gives no config with a model_type")
        return dict(made)

    def told(self, hf: Mapping[str, Any]) -> str:
        """All that it says of a config, to tell whether it still says the same."""
        return repr((self.config(hf), self.names))

    def reads(self, hf: Mapping[str, Any], field: str) -> bool:
        """Whether it makes a difference to the stand-in's config if a field is given in this one."""
        try:
            return self.config({**hf, field: _OTHER}) != self.config(hf)
        except ParityError:  # it computed with what is no number
            return True

    def on_disk(self, names: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Every tensor on disk, with the stand-in's tensors that it is made of, in order.

        Args:
            names: all of the stand-in's tensors.

        Raises:
            ParityError: one of them is in no tensor on disk, or in two, or alone where others should lie beside it.
        """
        found: dict[str, tuple[str, ...]] = {}
        for template, parts in self.names.items():
            for name in names:
                match = pattern(parts[0]).fullmatch(name)
                if match is not None:
                    found[template.format(*match.groups())] = tuple(part.format(*match.groups()) for part in parts)
        named = Counter(part for parts in found.values() for part in parts)
        self.refuse("names no tensor on disk for", [name for name in names if name not in named])
        self.refuse("names more than one tensor on disk for", [name for name, times in named.items() if times > 1])
        self.refuse("speaks of tensors that are not there:", [name for name in named if name not in names])
        return found

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors on disk, made of all of the stand-in's."""
        made = {name: [tensors[part] for part in parts] for name, parts in self.on_disk(list(tensors)).items()}
        return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in made.items()}

    def apart(self, shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, torch.Size]) -> dict[str, Place]:
        """Where the stand-in's tensors lie on disk. Tensors there that nothing is said of keep their names.

        Args:
            shapes: of the tensors on disk.
            sizes: shapes of the stand-in's tensors, of those at least that share one on disk.

        Raises:
            ParityError: a tensor has other rows than should lie in it, or a name that only the stand-in gives.
        """
        found: dict[str, Place] = {}
        for name, shape in shapes.items():
            parts = self._parts(name)
            if len(parts) > 1:
                found |= _rows(name, shape, {part: sizes[part][0] if part in sizes else 0 for part in parts})
            elif parts:
                found[parts[0]] = name, None
            elif any(pattern(each).fullmatch(name) for each in _all_parts(self.names.values())):
                raise self.wrong(f"does not say where tensor {name!r} of the checkpoint goes")
            else:
                found[name] = name, None
        return found

    def name_on_disk(self, part: str) -> str:
        """What the tensor on disk is called that one of the stand-in's lies in; the same if nothing is said of it."""
        for template, parts in self.names.items():
            match = next(filter(None, (pattern(each).fullmatch(part) for each in parts)), None)
            if match is not None:
                return template.format(*match.groups())
        return part

    def _parts(self, name: str) -> tuple[str, ...]:
        """The stand-in's tensors in a tensor on disk; none if nothing is said of it."""
        for template, parts in self.names.items():
            match = pattern(template).fullmatch(name)
            if match is not None:
                return tuple(part.format(*match.groups()) for part in parts)
        return ()

    def refuse(self, what: str, names: Iterable[str]) -> None:
        """Raise that something is wrong with tensors or templates, if there are any."""
        every = list(names)
        folded = every if any("{}" in name for name in every) else fold(every)
        if folded:
            more = f" and {len(folded) - _SHOWN} more kinds" if len(folded) > _SHOWN else ""
            raise self.wrong(f"{what} {', '.join(folded[:_SHOWN])}{more}")

    def wrong(self, what: str) -> ParityError:
        """The error for a stand-in that is not what it should be."""
        return ParityError(f"STAND_INS[{self.stands_for!r}] {what}", _DOCS)


class Apart(Mapping[str, Tensor]):
    """A checkpoint's tensors under a stand-in's names, parts of them as views without a copy."""

    def __init__(self, tensors: Mapping[str, Tensor], places: Mapping[str, Place]):
        self._tensors = tensors
        self._places = places

    def __getitem__(self, name: str) -> Tensor:
        stored, rows = self._places[name]
        tensor = self._tensors[stored]
        if rows is None:
            return tensor
        with torch._C.DisableTorchFunction():  # taking a part is nothing to promote
            return tensor[rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


def declared(port: str, given: object) -> dict[str, StandIn]:
    """What a port declares: model type -> (function from config to config, names).

    Raises:
        ParityError: it is of another form, or templates do not fit together.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ParityError(f"{port}: STAND_INS is a {type(given).__name__}, not a dictionary by model type", _DOCS)
    return {str(model_type): _one(str(model_type), each) for model_type, each in given.items()}


def _one(model_type: str, given: object) -> StandIn:
    function, names = given if isinstance(given, tuple) and len(given) == 2 else (None, None)
    if not callable(function) or not isinstance(names, Mapping):
        raise StandIn(model_type, dict, {}).wrong("is not a function of the config and a dictionary of names")
    made: dict[str, tuple[str, ...]] = {
        name: (parts,) if isinstance(parts, str) else tuple(parts) for name, parts in names.items()
    }
    stand_in = StandIn(model_type, function, made)
    uneven = [name for name, parts in made.items() if not parts or any(_count(part) != _count(name) for part in parts)]
    stand_in.refuse("gives other numbers of {} on its two sides for", uneven)
    times = Counter(_all_parts(made.values()))
    stand_in.refuse("names more than one tensor on disk for", [part for part, count in times.items() if count > 1])
    return stand_in


def _all_parts(found: Iterable[tuple[str, ...]]) -> Iterator[str]:
    return (part for parts in found for part in parts)


def _count(template: str) -> int:
    return template.count("{}")


def _rows(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> dict[str, Place]:
    """The parts of one tensor on disk, one after another."""
    if not shape or sum(sizes.values()) != shape[0] or 0 in sizes.values():
        needed = " + ".join(map(str, sizes.values()))
        raise ParityError(
            f"tensor {name!r} has shape {list(shape)}, and {needed} rows should lie in it",
            "Check config.json against the weights.",
        )
    ends = accumulate(sizes.values())
    return {part: (name, slice(end - sizes[part], end)) for part, end in zip(sizes, ends, strict=True)}
