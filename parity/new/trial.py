"""What a port makes of a config that it was not written for: which fields it asks for, and what to hand it in place of
those that it refuses.

Found out by trying: the port is made from the config and run. Whatever stops it is blamed on the fields that it asked
for last, and each of these is handed over otherwise until the port gets further.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from parity.errors import ParityError
from parity.new.handed import Handed, alike, carried, closest, otherwise, renamed
from parity.new.nearest import Side
from parity.pair import reference as references
from parity.pair import running
from parity.pair.port import PORT_FAILS, Port, quiet, said
from parity.pair.promote import precision
from parity.pair.reference import Reference

_TOKENS = 9
_MOST = 12  # fields to hand over otherwise, before another port is the better start
_LARGER, _SMALL = 10, 10**6  # a port with so many times as many parameters, and these, is a start for something else
_RUNS = 3  # how far a port got: its config, its model, a forward


class Asked(Mapping[str, Any]):
    """A config that remembers which of its fields were asked for, inner ones after dots."""

    def __init__(self, values: Mapping[str, Any], log: dict[str, None], prefix: str = ""):
        self._values, self._log, self._prefix = values, log, prefix

    def __getitem__(self, name: str) -> Any:
        full = f"{self._prefix}{name}"
        self._log[full] = None
        value = self._values[name]
        return Asked(value, self._log, f"{full}.") if isinstance(value, Mapping) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Outcome:
    """How far a port got with a config, the fields that it had asked for by then, and what stopped it, if anything."""

    reached: int
    asked: tuple[str, ...]
    problem: str
    model: nn.Module | None = None

    @property
    def works(self) -> bool:
        """Whether it gave logits."""
        return self.reached == _RUNS


def tried(port: Port, config: Mapping[str, Any], runs: bool = True) -> Outcome:
    """Make the port from a config, and run it on a few tokens; runs: False stops at what `Config.from_hf` returns."""
    log: dict[str, None] = {}
    reached = 0
    try:
        # A size that is tried may be none at all.
        with precision(False), quiet(), torch.no_grad(), warnings.catch_warnings(action="ignore"):
            own = port.make_config(Asked(config, log))
            if not runs:
                return Outcome(_RUNS, tuple(log), "")
            reached = 1
            model = port.make_model(own).eval()
            reached = 2
            ids = torch.arange(_TOKENS)[None] % max(1, int(config.get("vocab_size") or _TOKENS))
            logits = running.call(port, model, ids)
            if logits.shape[:2] != ids.shape:
                return Outcome(reached, tuple(log), f"its logits are {list(logits.shape)}")
    except PORT_FAILS as error:
        problem = error.problem.partition(": ")[2] if isinstance(error, ParityError) else said(error)
        return Outcome(reached, tuple(log), problem)
    return Outcome(_RUNS, tuple(log), "", model)


def fitted(
    port: Port, own: Mapping[str, Any], whole: Mapping[str, Any], small: Mapping[str, Any]
) -> tuple[tuple[Handed, ...], Outcome]:
    """Fields to hand over otherwise, as few as a search finds, so that the port runs on the small config.

    Args:
        port: which one.
        own: its small config, which it takes.
        whole: the config that it is to take, at full size, which `Config.from_hf` has to take as well.
        small: the same at small size.

    Raises:
        ParityError: nothing was found that the port runs on.
    """
    handed: tuple[Handed, ...] = ()
    now = _both(port, whole, small, handed)
    while not now.works and len(handed) < _MOST:
        better = _better(port, own, whole, small, handed, now)
        if better is None:
            break
        handed, now = better
    if not now.works:
        raise ParityError(f"{port.name} does not run on this config: {now.problem}", "Start from another: --from PORT.")
    return handed, now


def closer(
    port: Port,
    whole: Mapping[str, Any],
    small: Mapping[str, Any],
    handed: tuple[Handed, ...],
    now: Outcome,
    loaded: Callable[[nn.Module], int],
) -> tuple[tuple[Handed, ...], Outcome]:
    """Fields that the config leaves out and the port asks for, as they are by convention, where more tensors fit then.

    Args:
        port: which one.
        whole: the config at full size.
        small: the same at small size.
        handed: what is handed over otherwise already.
        now: how far the port gets with that, a model.
        loaded: how many tensors of the checkpoint have a place in a model of the port's.
    """
    for name in now.asked:
        if "." in name or name in small or any(each.name == name for each in handed) or now.model is None:
            continue
        for other in (*renamed(name, small), *alike(name, small)):
            more = (*handed, Handed(name, *other, "not in config.json: by convention", default=True))
            found = _both(port, whole, small, more)
            if found.model is not None and loaded(found.model) > loaded(now.model):
                handed, now = more, found
                break
    return handed, now


def leaner(
    port: Port, own: Mapping[str, Any], new: Side, handed: tuple[Handed, ...], now: Outcome
) -> tuple[tuple[Handed, ...], Outcome]:
    """Without parts that the port has where a config says nothing of them, and that its own config turns off.

    Args:
        port: which one.
        own: its small config.
        new: the architecture that it is to take.
        handed: what is handed over otherwise already.
        now: how far the port gets with that, a model.

    Raises:
        ParityError: the port is far larger than the reference even so.
    """
    for name in now.asked:
        if name in new.small or name not in own or own[name] or any(each.name == name for each in handed):
            continue
        value = own[name]
        off = Handed(name, repr(value), lambda _, value=value: value, "not in config.json", default=True)  # type: ignore[misc]
        found = _both(port, new.reference.config, new.small, (*handed, off))
        if found.works and 2 * _size(found) < _size(now):
            handed, now = (*handed, off), found
    structure = new.gathered.structure
    if structure is not None and _size(now) > _LARGER * structure.total + _SMALL:
        raise ParityError(f"{port.name} has {_size(now):,} parameters on the small config", "Start from another port.")
    return handed, now


def _size(outcome: Outcome) -> int:
    return 0 if outcome.model is None else sum(each.numel() for each in outcome.model.parameters())


def with_defaults(
    port: Port, new: Side, old: Side, handed: tuple[Handed, ...], now: Outcome
) -> tuple[tuple[Handed, ...], Outcome]:
    """What the new class has where config.json leaves a field out, and the port's own has otherwise."""
    theirs = _defaults(old.reference)
    settings = references.on(new.reference, new.small).settings
    for name in now.asked:
        value = new.reference.settings.get(name)
        if name in new.reference.config or value is None or isinstance(value, list | Mapping):
            continue
        if value != settings.get(name) or value == theirs.get(name) or any(each.name == name for each in handed):
            continue
        default = Handed(
            name,
            f'hf.get("{name}", {value!r})',
            lambda hf, name=name, value=value: hf.get(name, value),  # type: ignore[misc]
            "not in config.json: the reference's default",
            default=True,
        )
        found = _both(port, new.reference.config, new.small, (*handed, default))
        if found.works:
            handed, now = (*handed, default), found
    return handed, now


def _defaults(reference: Reference) -> Mapping[str, Any]:
    """What a class has where a config.json says nothing."""
    try:
        return references.describe({"model_type": reference.model_type}).settings
    except ParityError:
        return {}


def _both(port: Port, whole: Mapping[str, Any], small: Mapping[str, Any], handed: tuple[Handed, ...]) -> Outcome:
    found = tried(port, carried(small, handed))
    if not found.works:
        return found
    large = tried(port, carried(whole, handed), runs=False)
    return found if large.works else Outcome(0, large.asked, large.problem)


def _better(
    port: Port,
    own: Mapping[str, Any],
    whole: Mapping[str, Any],
    small: Mapping[str, Any],
    handed: tuple[Handed, ...],
    now: Outcome,
) -> tuple[tuple[Handed, ...], Outcome] | None:
    """One more field handed over otherwise, so that the port gets further: the one asked for last comes first."""
    best = None
    done = {each.name for each in handed}
    for name in dict.fromkeys(full.partition(".")[0] for full in reversed(now.asked)):
        if name in done:
            continue
        for other in closest(name, own, whole, small):
            more = (*handed, otherwise(name, *other, now.problem, small))
            found = _both(port, whole, small, more)
            if found.works:
                return more, found
            if _score(found) > _score(now) and (best is None or _score(found) > _score(best[1])):
                best = more, found
        if best is not None and now.reached == 0:
            return best
    return best


def _score(outcome: Outcome) -> tuple[int, int]:
    return outcome.reached, len(outcome.asked)
