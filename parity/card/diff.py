"""`parity diff`: two architectures beside each other, facts, fields, modules, causes and lines of their ports."""

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from parity.card.card import Gathered, gather
from parity.card.fields import NAMES
from parity.card.module_roles import roles
from parity.card_records import Card, CauseBetween, Difference, Fact, Lines, Side
from parity.explain.causes import CAUSES, SQUARE, words
from parity.explain.config_mutations import cause_of, fields
from parity.pair.port import module_of

Progress = Callable[[str], object]

# Causes that a fact speaks of: a port of one side has them if it is taken for the other.
OF_FACTS: Mapping[str, tuple[str, ...]] = {
    "q/k norm": ("qknorm-missing-or-width",),
    "norm": ("norm-offset",),
    "placement": ("residual-topology",),
    "eps": ("norm-eps",),
    "activation": ("activation",),
    "without rope": ("nope-and-temperature",),
    "softcaps": ("softcap",),
    "embedding scale": ("embed-scale",),
    "head": ("tied-head",),
    "biases": ("bias-dropped",),
    "window": ("window-pattern",),
    "latent": ("split-layout",),
    "sparse": ("attention-mask",),
    "experts": ("router-selection",),
    "shared expert": ("moe-combine",),
}
SIZES = ("head-dim-config", "layer-wiring", "unknown", "position-ids")  # other sizes alone are no mistake
LISTS = re.compile(r"layer_types$|layers_block_type$")  # as long as there are layers; facts say what is in them
_OFFSET = "1 + weight"
SAME = {name: names[0] for names in NAMES.values() for name in names}


def diff(left: str | Path, right: str | Path, *, progress: Progress = lambda _: None) -> Difference:
    """Hold two architectures against each other.

    Args:
        left: as for a card: a config.json, a directory, a Hub id, a port, or a config that comes with Parity.
        right: the other one.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: bad input; says what to do next.
    """
    one, other = gather(left, progress=progress), gather(right, progress=progress)
    shared, different = _facts(one.card, other.card)
    ours, theirs = modules(one), modules(other)
    notes = [f"{each.card.name}: {note}" for each in (one, other) for note in each.card.notes]
    lines, missing = _lines(one.card, other.card)
    return Difference(
        left=one.card,
        right=other.card,
        shared=shared,
        different=different,
        fields=tuple(_fields(one.card, other.card)),
        modules_left=tuple(alone(ours, theirs)),
        modules_right=tuple(alone(theirs, ours)),
        causes=tuple(_causes(one, other, different)),
        lines=lines,
        notes=(*notes, *missing),
    )


def _facts(one: Card, other: Card) -> tuple[tuple[Fact, ...], tuple[Side, ...]]:
    """Facts that are the same, and those that are not, in the order of the left card."""
    left, right = ({fact.name: fact for fact in card.facts} for card in (one, other))
    shared, different = [], []
    for name in dict.fromkeys([*left, *right]):
        fact = left.get(name) or right[name]
        mine, theirs = (each[name].value if name in each else "none" for each in (left, right))
        if name in left and name in right and mine is not None and mine == theirs:
            shared.append(fact)
        else:
            different.append(Side(name, mine, theirs, fact.group))
    return tuple(shared), tuple(different)


def _fields(one: Card, other: Card) -> Iterator[Side]:
    left, right = ({SAME.get(field.name, field.name): field for field in card.fields} for card in (one, other))
    for name in dict.fromkeys([*left, *right]):
        found = [each[name] for each in (left, right) if name in each]
        mine, theirs = (each[name].value if name in each else None for each in (left, right))
        if any(field.effect == "acts" for field in found) and mine != theirs:
            yield Side(" / ".join(dict.fromkeys(field.name for field in found)), mine, theirs)


def modules(side: Gathered) -> dict[str, str]:
    """What each kind of module of a side does, or its own name where that is not known -> the module's name."""
    return roles(side.card.modules, () if side.structure is None else side.structure.norms)


def alone(own: Mapping[str, str], others: Mapping[str, str]) -> Iterator[str]:
    """What is on one side only; parts of a module that is itself on one side only are left to it."""
    missing = {role: name for role, name in own.items() if role not in others}
    for role, name in missing.items():
        if not any(name.startswith(f"{each}.") for each in missing.values()):
            yield role if role == name else f"{role}: {name}"


def _causes(one: Gathered, other: Gathered, different: tuple[Side, ...]) -> Iterator[CauseBetween]:
    """Causes by what speaks for them: facts, fields, and what only one side has of what can go wrong."""
    found: dict[str, dict[str, None]] = {}
    for side in different:
        if side.left is None or side.right is None:
            continue
        if side.name == "norm" and (_OFFSET in side.left) == (_OFFSET in side.right):
            continue
        for code in OF_FACTS.get(side.name, ()):
            found.setdefault(code, {})[f"{side.name}: {side.left} / {side.right}"] = None
    for each in _fields(one.card, other.card):
        code = cause_of(each.name)
        if code not in SIZES and not LISTS.search(each.name) and None not in (each.left, each.right):
            if any(why.startswith(f"{name}: ") for name in OF_FACTS for why in found.get(code, ())):
                continue  # a fact has said it
            found.setdefault(code, {})[f"{each.name}: {each.left} / {each.right}"] = None
    for code, name in _alone(one, other):
        found.setdefault(code, {})[f"only {name} has what it is about"] = None
    order = {cause.code: number for number, cause in enumerate(CAUSES)}
    for code in sorted(found, key=lambda each: order.get(each, len(order))):
        yield CauseBetween(code, tuple(found[code]))


def _alone(one: Gathered, other: Gathered) -> Iterator[tuple[str, str]]:
    """Causes that can occur on one side only, with that side's name; only where both sides are known."""
    traits = [_words(side) for side in (one, other)]
    if traits[0] is None or traits[1] is None:
        return
    for cause in CAUSES:
        if cause.trait == SQUARE:  # two sizes of one architecture differ in that
            continue
        fits = [cause.fits(each or ()) for each in traits]
        if fits[0] != fits[1]:
            yield cause.code, (one if fits[0] else other).card.name


def _words(side: Gathered) -> frozenset[str] | None:
    if side.reference is None or side.structure is None:
        return None
    shapes = {each.name: each.shape for each in side.structure.parameters}
    return words(fields(side.reference.settings), side.structure.modules.values(), shapes)


def _lines(one: Card, other: Card) -> tuple[Lines | None, tuple[str, ...]]:
    """What differs in the two ports, or why nothing does."""
    if one.port is None or other.port is None:
        without = " and ".join(card.name for card in (one, other) if card.port is None)
        return None, (f"no port of {without} comes with Parity: no lines are compared",)
    left, right = source_of(one.port), source_of(other.port)
    if left == right:
        return None, (f"{one.port} is the port of both: what differs is in the config alone",)
    ours, theirs = (path.read_text(encoding="utf-8").splitlines() for path in (left, right))
    told = list(difflib.unified_diff(ours, theirs, left.name, right.name, lineterm="", n=1))
    counts = [sum(line.startswith(sign) for line in told[2:]) for sign in "-+"]
    return Lines(left.name, right.name, tuple(told), *counts), ()


def source_of(port: str) -> Path:
    """The file that a port is written in."""
    named = module_of(port)
    spec = None if named is None else importlib.util.find_spec(named)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).resolve()
    return Path(port.partition(".py:")[0] + ".py" if ".py:" in port else port).resolve()
