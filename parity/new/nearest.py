"""Which port is the nearest: cards of small configs beside each other, so that structure is compared and not size."""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from parity.card.card import Gathered, of
from parity.card.diff import Progress, alone, modules, source_of
from parity.card.target import Target
from parity.errors import ParityError
from parity.new_records import Ranked
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.port import Port
from parity.pair.reference import Reference

_WRITTEN, _REMOVED = 2, 1  # what a module counts that has to be written, and one that has to go
_COUNTS = re.compile(r"\d[\d,.]*%?")
_LEFT_OUT = ("KV cache",)
_SIZES = ("parameters", "active per token", "layers", "layer mix", "width", "vocabulary", "context")
_WIDTHS = ("q/k norm",)  # over a head or over all of them: no field says so, and heads are as wide in all small configs
_NEEDED = {"Config", "Model"}


@dataclass(frozen=True)
class Side:
    """One architecture on its small config: config.json and all fields, whole and small, and the card of the small."""

    reference: Reference
    small: Mapping[str, Any]
    gathered: Gathered


@dataclass(frozen=True)
class Candidate:
    """A port that could be started from, with the file that it is written in."""

    port: Port
    file: Path
    side: Side


def side(name: str, config: Mapping[str, Any]) -> Side:
    """The card of a config's small config.

    Raises:
        ParityError: there is no class for it, or fields contradict each other.
    """
    reference = references.describe(references.text_part(config))
    small = pairs.shrunk(reference).config
    return Side(reference, small, of(lambda: Target(name, name, small, None)))


def candidates(without: Collection[str], progress: Progress) -> tuple[list[Candidate], list[Ranked]]:
    """Ports that one could start from, and those that one could not, with the reason.

    Args:
        without: names of ports to leave out of the choice.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: there is no port of a name in `without`.
    """
    known = ports.built_in_names()
    for name in without:
        if name not in known:
            raise ParityError(f"there is no port {name!r} to leave out", f"Those are {', '.join(known)}.")
    found, left = [], []
    for name in known:
        if name in without:
            left.append(Ranked(name, None, why_not="left out: --without"))
            continue
        progress(f"reading the card of {name}")
        try:
            found.append(_built_in(name))
        except ParityError as error:
            left.append(Ranked(name, None, why_not=error.problem))
    return found, left


@cache
def _built_in(name: str) -> Candidate:
    """One that does not change while this runs."""
    return candidate(name)


def candidate(name: str) -> Candidate:
    """A port to start from.

    Raises:
        ParityError: there is none, or it cannot be adapted: no config or class of its own, no map of weights, not one
            file.
    """
    port = ports.resolve(name)
    if port.weights is None:
        raise ParityError(f"{name} loads by a function, which cannot be adapted", "Start from a port with WEIGHTS.")
    file = source_of(name)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise ParityError(f"{file} cannot be read: {error}", "Start from another port.") from error
    missing = _NEEDED - {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    if missing:
        raise ParityError(f"{file.name} does not hold {' and '.join(sorted(missing))}", "Start from another port.")
    source, config = pairs.config_of_port(port)
    return Candidate(port, file, side(source, config))


def ranked(new: Side, others: Collection[Candidate]) -> list[Ranked]:
    """The candidates, the nearest first.

    A fact that differs counts one, numbers in it aside, since a config's field carries those; a module that has to be
    written two, one that has to go one. Where that is the same, fields that differ decide.
    """
    found = [(_apart(new, other), other) for other in others]
    return [told for told, _ in sorted(found, key=lambda each: (each[0].distance, _fields(new, each[1]), each[0].name))]


def _apart(new: Side, other: Candidate) -> Ranked:
    facts = tuple(different(new, other.side))
    ours, theirs = modules(new.gathered), modules(other.side.gathered)
    missing, spare = tuple(alone(ours, theirs)), tuple(alone(theirs, ours))
    distance = len(facts) + _WRITTEN * _parts(missing) + _REMOVED * _parts(spare)
    return Ranked(other.port.name, distance, facts, missing, spare)


def _parts(names: Collection[str]) -> int:
    """Modules, those of a role in one part as one: gate, way up and way down are a feed-forward."""
    return len({re.sub(r"^.* of the |^norm of (queries|keys).*", "", name.partition(":")[0]) for name in names})


def different(one: Side, other: Side) -> Iterator[str]:
    """Names of facts that differ in more than their numbers, in the order of the first card's."""
    left, right = _facts(one), _facts(other)
    yield from (name for name in {**left, **right} if left.get(name) != right.get(name))


def shared(one: Side, other: Side) -> Iterator[str]:
    """Facts that are the same but for numbers: their values where these have none, which are the small config's."""
    ours, theirs = _facts(one), _facts(other)
    for fact in one.gathered.card.facts:
        if fact.value is not None and fact.name in ours and ours[fact.name] == theirs.get(fact.name):
            yield fact.name if re.search(r"\d", fact.value) else f"{fact.name}: {fact.value}"


def _facts(of_side: Side) -> dict[str, str]:
    return {
        fact.name: (fact.value or "") if fact.name in _WIDTHS else _COUNTS.sub("#", fact.value or "")
        for fact in of_side.gathered.card.facts
        if fact.group not in _LEFT_OUT and fact.name not in _SIZES
    }


def _fields(new: Side, other: Candidate) -> int:
    ours, theirs = ({each.name for each in one.gathered.card.fields} for one in (new, other.side))
    return len(ours ^ theirs)
