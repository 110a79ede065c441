"""From what tells two architectures apart to places in the port's file, each with what to read in the reference."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from parity.card.diff import LISTS, OF_FACTS, SAME, SIZES, modules
from parity.card.fields import NAMES
from parity.explain.config_mutations import cause_of
from parity.names import template
from parity.new.code import Code, Spot
from parity.new.handed import Handed
from parity.new.nearest import Candidate, Side
from parity.new.reading import Reading
from parity.new.trial import Outcome
from parity.new.weights import Places, parts_of
from parity.new.write import CARRIED, MAP
from parity.new_records import Origin, Ranked, Read
from parity.records import Finding

_ROTATED = r"rot|cos"
_QK_NORM = r"\b(q|query)_\w*norm"

# Where a port has what a cause is about: the role of a module, and words of the line in its forward; reference's words.
_PLACES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "qknorm-missing-or-width": ("attention", (_QK_NORM, _ROTATED, "q_proj|query")),
    "qknorm-order": ("attention", (_QK_NORM, _ROTATED, "q_proj|query")),
    "nope-and-temperature": ("attention", (_ROTATED,)),
    "rope-pairing": ("attention", (_ROTATED,)),
    "partial-rotary": ("attention", (_ROTATED,)),
    "rope-layer-type": ("attention", (_ROTATED,)),
    "rope-scaling-dropped": ("rotation of positions", ("inv_freq", "theta")),
    "rope-scaling-details": ("rotation of positions", ("inv_freq", "theta")),
    "rope-theta-config": ("rotation of positions", ("inv_freq", "theta")),
    "mla-yarn-mscale": ("attention", ("scal", "q_proj|query")),
    "softmax-scale": ("attention", ("scal", "softmax")),
    "softcap": ("attention", ("softmax", "scores")),
    "window-pattern": ("attention", ("mask", "visible")),
    "window-off-by-one": ("attention", ("mask", "visible")),
    "attention-mask": ("attention", ("mask", "visible")),
    "split-layout": ("attention", ("proj",)),
    "bias-dropped": ("attention", ("proj",)),
    "activation": ("feed-forward", ("act|gelu|silu|relu", "gate")),
    "gate-up-order": ("feed-forward", ("gate|up",)),
    "router-selection": ("feed-forward", ("topk", "expert")),
    "router-norm-topk": ("feed-forward", ("sum", "topk", "expert")),
    "moe-combine": ("feed-forward", ("expert", "down")),
    "norm-offset": ("norm before the head", ("weight",)),
    "norm-eps": ("norm before the head", ("eps",)),
    "embed-scale": ("embedding", ("scale", "embed")),
    "residual-topology": ("block", (r"\+", "norm")),
    "scalar-multipliers": ("block", (r"\+",)),
    "layer-wiring": ("block", (r"\+",)),
    "tied-head": ("head", ("head",)),
    "ssm-delta-math": ("block", (r"\+",)),
}
_ROLES: Mapping[str, tuple[str, ...]] = {
    "norm of queries": ("qknorm-missing-or-width", "qknorm-order"),
    "norm of keys": ("qknorm-missing-or-width", "qknorm-order"),
    "norm before": ("residual-topology",),
    "norm after": ("residual-topology",),
}
_NAMES: Mapping[str, tuple[str, ...]] = {
    r"experts?$": ("moe-combine",),
    r"(router|mlp\.gate|mixer\.gate)$": ("router-selection", "router-norm-topk"),
}
_OFF = ("false", "null", "[]")  # what a port that does not know a field does


@dataclass(frozen=True)
class Difference:
    """Something that tells the reference from the file, and the statement of the file that has to do with it.

    names: tensors of the checkpoint and parameters of the port that it is about. also: another line that goes when it
    is mended.
    """

    what: str
    spot: Spot
    reads: tuple[Read, ...]
    causes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    origin: Origin = "card"
    also: Spot | None = None


class Marker:
    """Puts differences to places."""

    def __init__(self, code: Code, model: nn.Module, new: Side, old: Candidate, places: Places, reading: Reading):
        self._code, self._model, self._new, self._old = code, model, new, old
        self._places, self._reading = places, reading
        self._kinds = {template(name): type(module).__name__ for name, module in model.named_modules()}
        self._ours = modules(new.gathered)
        self._theirs = modules(old.side.gathered)
        self._roles = {name: role for role, name in reversed(self._ours.items())}
        self._parts = {**parts_of(old.port.weights or {}), **places.parts}

    def over(self, code: Code) -> "Marker":
        """The same for the file with other lines."""
        return Marker(code, self._model, self._new, self._old, self._places, self._reading)

    def differences(self, ranked: Ranked, handed: Sequence[Handed], outcome: Outcome) -> tuple[Difference, ...]:
        """All that the cards know, those of one place and cause as one."""
        found = [*self._handed(handed), *self._tensors()]
        causal = [*self._missing(ranked), *self._spare(ranked)]
        causal += self._facts(ranked, handed, outcome, causal)
        causal += self._fields(handed, outcome, causal)
        causal += self._own_fields(handed, outcome, causal)
        return tuple(_merged([*found, *causal]))

    def of_finding(self, finding: Finding) -> Spot | None:
        """The statement that a finding is about: that of its line, else the forward of its module's class."""
        if finding.port_source is not None:
            return self._code.at(finding.port_source.line)
        return self.of_module(finding)

    def of_module(self, finding: Finding) -> Spot | None:
        """Where the forward begins of the class of the port's module that a finding names."""
        return self._spot(template(finding.port_module), ())

    def unmarked(self, finding: Finding, spot: Spot) -> Difference:
        """A mark for what the check alone knows."""
        source = finding.reference_source
        read = None if source is None else Read("", source.file, source.line)
        read = read or self._reading.line(template(finding.reference_module))
        read = read or self._reading.use(template(finding.reference_module))
        causes = () if finding.cause == "unknown" else (finding.cause,)
        return Difference(_plain(finding.title), spot, (read,) if read else (), causes, (), "check")

    # -- what the cards say ------------------------------------------------------------------------------------------

    def _handed(self, handed: Sequence[Handed]) -> Iterator[Difference]:
        """Fields that the port cannot take: at the line where it has what they are about, if that is known."""
        for each in handed:
            spot = self._code.of(CARRIED, rf'"{each.name}"')
            if spot is None or each.default:
                continue
            how = "left out" if each.expression is None else "given otherwise"
            what = f"{each.name} is {how} in {CARRIED}: {_problem(each.why)}"
            cause = cause_of(each.name)
            if cause in _PLACES:
                yield from (replace(found, also=spot) for found in self._caused(what, (cause,)))
            else:
                read = self._reading.field(each.name)
                yield Difference(what, spot, (read,) if read else ())

    def _tensors(self) -> Iterator[Difference]:
        """Tensors without a place, and parameters that get none, at the map of weights."""
        spot = self._code.named(MAP)
        every = list(self._model.named_parameters(remove_duplicate=False))
        shared = {id(each) for name, each in every if name in self._places.filled}
        empty = dict.fromkeys(template(name) for name, each in every if id(each) not in shared)
        without = self._places.without
        if spot is None or not (without or empty):
            return
        told = []
        if without:
            told.append(f"no place yet for {_few(without)}")
        if empty:
            told.append(f"no tensor for {_few(tuple(empty))}")
        reads = [self._reading.use(name.rpartition(".")[0]) for name in without]
        yield Difference("; ".join(told), spot, _distinct(reads)[:2], (), (*without, *empty))

    def _missing(self, ranked: Ranked) -> Iterator[Difference]:
        yield from self._grouped(ranked.missing, self._absent)

    def _spare(self, ranked: Ranked) -> Iterator[Difference]:
        there = [each for each in ranked.spare if self._parts.get(_name(each)) in self._kinds]
        yield from self._grouped(there, self._too_many)
        if any(_role(each) == "rotation of positions" for each in ranked.spare):
            yield from self._caused("positions are rotated here, and not in the reference", ("rope-pairing",))

    def _grouped(
        self, named: Sequence[str], told: Callable[[str, list[str]], Difference | None]
    ) -> Iterator[Difference]:
        groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for each in named:
            groups.setdefault((_name(each).rpartition(".")[0], _causes_of(each)), []).append(each)
        for (parent, _), own in groups.items():
            found = told(parent, own)
            if found is not None:
                yield found

    def _absent(self, parent: str, own: list[str]) -> Difference | None:
        causes = _causes_of(own[0])
        words = _PLACES[causes[0]][1] if causes else ()
        spot = self._inside(parent, words)
        reads = _distinct([self._reading.use(_name(each)) for each in own])
        names = ", ".join(f"{_name(each)} ({_role(each)})" if _role(each) else _name(each) for each in own)
        return None if spot is None else Difference(f"{names}: not here yet", spot, reads[:3], causes)

    def _too_many(self, parent: str, own: list[str]) -> Difference | None:
        attributes = [self._parts[_name(each)].rpartition(".")[2] for each in own]
        words = tuple(rf"self\.{re.escape(each)}\b" for each in attributes)
        spot = self._inside(parent, words)
        reads = _distinct([self._reading.line(parent) if self._reading.has(parent) else None])
        told = f"{', '.join(attributes)} {'is' if len(own) == 1 else 'are'} not in the reference"
        return None if spot is None else Difference(told, spot, reads, _causes_of(own[0]))

    def _facts(
        self, ranked: Ranked, handed: Sequence[Handed], outcome: Outcome, known: Sequence[Difference]
    ) -> Iterator[Difference]:
        """Facts that differ, unless fields carry them that the port reads and takes."""
        done = {cause for each in known for cause in each.causes}
        ours, theirs = self._new.gathered.card, self._old.side.gathered.card
        for name in ranked.facts:
            causes = OF_FACTS.get(name, ())
            if not causes or causes[0] in done or self._carried(causes, handed, outcome):
                continue
            mine, other = ours.fact(name) or "none", theirs.fact(name) or "none"
            if not (name == "norm" and ("1 + weight" in mine) == ("1 + weight" in other)):
                small = " (small configs)" if re.search(r"\d", f"{mine} {other}".replace("1 + weight", "")) else ""
                yield from self._caused(f"{name}: {mine}; here: {other}{small}", causes)

    def _carried(self, causes: Sequence[str], handed: Sequence[Handed], outcome: Outcome) -> bool:
        """Whether fields speak of a cause, and the port reads all of them as they are."""
        otherwise = {each.name for each in handed if not each.default}
        fields = [each.name for each in self._new.gathered.card.fields if each.effect == "acts"]
        own = [name for name in fields if cause_of(name) in causes]
        return bool(own) and all(self._asked(name, handed, outcome) and name not in otherwise for name in own)

    def _asked(self, name: str, handed: Sequence[Handed], outcome: Outcome) -> bool:
        """Whether the port asked for a field, or for its inner name in any table, and got it.

        By another name counts if the config has that, or if it is handed over so.
        """
        leaf = name.rpartition(".")[2]
        names = next((each for each in NAMES.values() if leaf in each), (leaf,))
        asked = {each.rpartition(".")[2] for each in outcome.asked}
        got = {*self._new.small, *(each.name for each in handed)}
        return leaf in asked or any(each in asked and each in got for each in names)

    def _fields(self, handed: Sequence[Handed], outcome: Outcome, known: Sequence[Difference]) -> Iterator[Difference]:
        """Fields that act, that the port never asks for, and that do not stand the same in its own config."""
        done = {cause for each in known for cause in each.causes}
        theirs = {SAME.get(each.name, each.name): each.value for each in self._old.side.gathered.card.fields}
        otherwise = {each.name for each in handed}
        groups: dict[str, list[str]] = {}
        for each in self._new.gathered.card.fields:
            top = each.name.partition(".")[0]
            if each.effect != "acts" or LISTS.search(each.name) or top in otherwise or each.value in _OFF:
                continue
            if self._asked(each.name, handed, outcome):
                continue
            leaf = each.name.rpartition(".")[2]
            if top in outcome.asked and not {top, leaf} & set(self._new.small):  # the port does what it does without
                continue
            cause = cause_of(each.name)
            if cause not in (*SIZES, *done) and theirs.get(SAME.get(each.name, each.name)) != each.value:
                groups.setdefault(cause, []).append(f"{each.name} {each.value}")
        for cause, fields in groups.items():
            names = [each.partition(" ")[0] for each in fields]
            reads = _distinct([self._reading.field(name) for name in names])[:3]
            verb = "is" if len(fields) == 1 else "are"
            yield from self._caused(f"{', '.join(fields)} {verb} not read", (cause,), reads)

    def _own_fields(
        self, handed: Sequence[Handed], outcome: Outcome, known: Sequence[Difference]
    ) -> Iterator[Difference]:
        """Fields that act in the port's own reference, that it asks for, and that the new one knows nothing of."""
        done = {cause for each in known for cause in each.causes}
        there = {*self._new.reference.config, *self._new.reference.settings, *(each.name for each in handed)}
        same = {each for names in NAMES.values() if there & set(names) for each in names}
        groups: dict[str, list[str]] = {}
        for each in self._old.side.gathered.card.fields:
            cause = cause_of(each.name)
            acts = each.effect == "acts" and each.value not in _OFF and "." not in each.name
            if acts and each.name in outcome.asked and each.name not in there | same and cause not in (*SIZES, *done):
                groups.setdefault(cause, []).append(each.name)
        for cause, fields in groups.items():
            verb = "is" if len(fields) == 1 else "are"
            yield from self._caused(f"{', '.join(fields)} {verb} read here, and no field of the reference", (cause,))

    def _caused(self, what: str, causes: tuple[str, ...], reads: tuple[Read, ...] = ()) -> Iterator[Difference]:
        role, words = _PLACES.get(causes[0], ("", ()))
        module = self._ours.get(role, "")
        spot = self._spot(self._counterpart(module), words) if role != "rotation of positions" else None
        spot = spot or self._rotation(role, words) or self._code.of("Config.from_hf", r"\bcls\(")
        if not reads:
            acting = [each.name for each in self._new.gathered.card.fields if cause_of(each.name) in causes]
            own = self._reading.line(module, *words) or self._reading.use(module)
            reads = _distinct([*(self._reading.field(name) for name in acting), own])[:2]
        if spot is not None:
            yield Difference(what, spot, reads, causes)

    # -- where that is in the port ------------------------------------------------------------------------------------

    def _inside(self, module: str, words: tuple[str, ...]) -> Spot | None:
        """In the port's counterpart of a module of the reference, or of the nearest one around it."""
        while module and not self._counterpart(module):
            module = module.rpartition(".")[0]
        return self._spot(self._counterpart(module), words)

    def _counterpart(self, module: str) -> str:
        """The port's module that holds the same tensors, else the one that does the same in its own reference."""
        role = self._roles.get(module, "")
        found = (self._parts.get(each, "") for each in (module, self._theirs.get(role, "")))
        return next((each for each in found if each in self._kinds and each), "")

    def _spot(self, path: str, words: tuple[str, ...]) -> Spot | None:
        """In the forward of a module of the port's; of the one around it, where the module is not of its own making."""
        kind = self._kinds.get(path)
        if kind is None and path:
            return self._spot(path.rpartition(".")[0], words)
        found = self._code.of(f"{kind}.forward", *words)
        if found is None and path:
            parent, _, attribute = path.rpartition(".")
            attribute = parent.rpartition(".")[2] if attribute == "{}" else attribute
            return self._spot(parent, (rf"self\.{re.escape(attribute)}\b", *words))
        return found

    def _rotation(self, role: str, words: tuple[str, ...]) -> Spot | None:
        if role != "rotation of positions":
            return None
        for kind in dict.fromkeys(self._kinds.values()):
            if "rot" in kind.lower():
                for function in ("__init__", "forward"):
                    if any(self._code.has(f"{kind}.{function}", word) for word in words):
                        return self._code.of(f"{kind}.{function}", *words)
        return self._code.of("Model.forward", _ROTATED)


def _merged(found: Sequence[Difference]) -> Iterator[Difference]:
    """Differences at one statement that share a cause as one."""
    kept: list[Difference] = []
    for each in found:
        at = next(
            (number for number, other in enumerate(kept)
             if other.spot == each.spot and _families(other.causes) & _families(each.causes)),
            None,
        )  # fmt: skip
        if at is None:
            kept.append(each)
        else:
            other = kept[at]
            reads = _distinct([*other.reads, *each.reads])
            kept[at] = replace(
                other,
                what=f"{other.what}; {each.what}",
                reads=reads,
                causes=tuple(dict.fromkeys((*other.causes, *each.causes))),
                also=other.also or each.also,
            )
    yield from kept


def _families(causes: Sequence[str]) -> set[str]:
    return {cause.partition("-")[0] for cause in causes}


def _distinct(reads: Sequence[Read | None]) -> tuple[Read, ...]:
    return tuple(dict.fromkeys(each for each in reads if each is not None))


def _role(told: str) -> str:
    return told.partition(": ")[0] if ": " in told else ""


def _name(told: str) -> str:
    return told.rpartition(": ")[2]


def _causes_of(told: str) -> tuple[str, ...]:
    by_role = next((causes for role, causes in _ROLES.items() if told.startswith(role)), ())
    return by_role or next((causes for name, causes in _NAMES.items() if re.search(name, told)), ())


def _problem(why: str) -> str:
    """What stopped a port, without the line of it: that is another file's."""
    return re.sub(r"^ValueError: |\s*\([^()]*, line \d+: .*\)$", "", why, flags=re.DOTALL)


def _few(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _plain(title: str) -> str:
    return " ".join(title.split())
