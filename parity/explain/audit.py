"""The audit: the changes to the reference that a check of it would fail to notice.

Every change of the catalogue, to the code as it runs, to the config and to what is loaded, is made to the reference,
and the changed reference is compared with the unchanged one as a port is: free, in promoted float64, at the logits. A
port whose logits are right passes, so a change that does not reach the logits is not noticed, whatever it does inside.

A change that goes unnoticed is either none, because it computes the same on any input, or a blind spot of this probe.
Which of the two is found by trying it on other grounds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from parity import __version__
from parity.errors import ParityError
from parity.explain import config_mutations as configs
from parity.explain.causes import CAUSES, Cause, words
from parity.explain.config_mutations import OTHER_SHAPES, OTHER_TENSORS, ConfigMutation
from parity.explain.ground import Ground, Key, other_grounds, own_ground
from parity.explain.trace import TooLarge
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.records import (
    PROMOTED_NOISE,
    Audit,
    AuditedCause,
    AuditedField,
    MutationVerdict,
    TriedMutation,
    Versions,
)

Progress = Callable[[str], object]
Measure = Callable[[Ground], float | None]

NO_EFFECT = "no effect in the reference"
SILENT = "says nothing about the function"
ROUNDING = "says how to round, not what to compute: stage precision"
_EACH = 50  # mutations from one word of progress to the next


@dataclass(frozen=True)
class _Value:
    """What came of another value for a field; without a verdict it did not run, and reason says why."""

    mutation: ConfigMutation
    verdict: MutationVerdict | None
    reason: str

    @property
    def structural(self) -> bool:
        """Whether a port with this value could not even take the checkpoint."""
        return self.reason in (OTHER_SHAPES, OTHER_TENSORS)


class _Grounds:
    """The check's own ground, and others that are made when a change does not show there."""

    def __init__(self, pair: Pair, full: Mapping[str, Any]):
        self.own = own_ground(pair)
        self._others: list[Ground] = []
        self._rest = other_grounds(pair, full)

    @property
    def others(self) -> Iterator[Ground]:
        """The other grounds, each made once."""
        yield from self._others
        while (ground := self._next()) is not None:
            self._others.append(ground)
            yield ground

    def _next(self) -> Ground | None:
        try:
            return next(self._rest, None)
        except TooLarge:
            return None

    def verdict(self, moved: float, again: Measure) -> tuple[MutationVerdict, str]:
        """Whether a change is noticed, given how far it moves the logits on the check's own ground."""
        if not moved <= PROMOTED_NOISE:  # a NaN is a difference
            return "caught", ""
        for ground in self.others:
            there = again(ground)
            if there is not None and not there <= PROMOTED_NOISE:
                return "missed", ground.sees
        return "equivalent", NO_EFFECT


@torch.no_grad()
def audit(pair: Pair, full: Mapping[str, Any] | None = None, progress: Progress = lambda _: None) -> Audit:
    """Find out what a check of `pair` is able to notice. The port itself is not asked.

    Args:
        pair: what a check would compare.
        full: every field of the config as it was before it was shrunk, if it was.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: a run of the reference is too large to be recorded.
    """
    progress("recording the reference")
    try:
        grounds = _Grounds(pair, full or {})
    except TooLarge as error:
        problem = f"{pair.reference.class_name} is too large to be run a thousand times, each time with a change"
        raise ParityError(problem, "Use --small-config.") from error
    values = list(_values(grounds, progress))
    mutations = (*_of_config(values), *_of_code(grounds, progress))
    return Audit(
        versions=Versions(__version__, torch.__version__, references.VERSION),
        port=pair.port.name,
        reference=pair.reference.title,
        seed=pair.seed,
        rows=pair.input_ids.shape[0],
        tokens=pair.input_ids.shape[1],
        fields=tuple(_field(name, values) for name in configs.fields(pair.reference.settings)),
        causes=tuple(_causes(grounds.own, mutations, {value.mutation.cause for value in values if value.structural})),
        mutations=mutations,
        notes=pair.notes,
    )


@torch.no_grad()
def audited_fields(
    pair: Pair, full: Mapping[str, Any], progress: Progress = lambda _: None
) -> tuple[AuditedField, ...]:
    """The fields alone, in a fraction of the time; arguments and errors are those of `audit`."""
    values = list(_values(_Grounds(pair, full), progress))
    return tuple(_field(name, values) for name in configs.fields(pair.reference.settings))


def _values(grounds: _Grounds, progress: Progress) -> Iterator[_Value]:
    """Other values for every field, one after the other."""
    for mutation in grounds.own.values.values():
        progress(f"another value for {mutation.field}")
        moved, reason = grounds.own.configured(mutation.name)
        if moved is None:
            yield _Value(mutation, None, reason)
        else:
            yield _Value(mutation, *grounds.verdict(moved, _configured(mutation)))


def _configured(mutation: ConfigMutation) -> Measure:
    return lambda ground: ground.configured(mutation.name)[0]


def _of_config(values: Sequence[_Value]) -> Iterator[TriedMutation]:
    for value in values:
        if value.verdict is not None:
            yield TriedMutation(value.mutation.name, value.mutation.cause, value.verdict, value.reason)


def _of_code(grounds: _Grounds, progress: Progress) -> Iterator[TriedMutation]:
    """Changes of the code and of what is loaded; one that does not run is none, a port with it would not run either."""
    mutations = grounds.own.mutations
    for number, (key, mutation) in enumerate(mutations.items()):
        if number % _EACH == 0:
            progress(f"changing the reference, {number:,} of {len(mutations):,}")
        moved = grounds.own.played(mutation)
        if moved is not None:
            verdict, reason = grounds.verdict(moved, _played(key))
            yield TriedMutation(grounds.own.name(key, mutation), mutation.cause, verdict, reason)


def _played(key: Key) -> Measure:
    def measure(ground: Ground) -> float | None:
        mutation = ground.mutations.get(key)
        return None if mutation is None else ground.played(mutation)

    return measure


def _field(name: str, values: Sequence[_Value]) -> AuditedField:
    """What the check can see of a field, from all values that were tried for it or for the table that it is in."""
    if configs.silent(name):
        return AuditedField(name, "silent", ROUNDING if configs.rounds(name) else SILENT)
    own = [value for value in values if value.mutation.field == name]
    own = own or [value for value in values if name.startswith(f"{value.mutation.field}.")]
    missed = [value for value in own if value.verdict == "missed"]
    if missed:
        which = ", ".join(configs.written(value.mutation.value) for value in missed)
        whole = len(missed) == sum(value.verdict in ("caught", "missed") for value in own)
        return AuditedField(name, "blind", missed[0].reason if whole else f"for {which}: {missed[0].reason}")
    structural = [value for value in own if value.structural]
    if any(value.verdict == "caught" for value in own):
        return AuditedField(name, "seen")
    if structural:
        return AuditedField(name, "seen", structural[0].reason)
    if any(value.verdict == "equivalent" for value in own):
        return AuditedField(name, "no_effect", NO_EFFECT)
    return AuditedField(name, "untried", f"not accepted: {own[0].reason}" if own else "no other value known for it")


def _causes(ground: Ground, mutations: Sequence[TriedMutation], structural: set[str]) -> Iterator[AuditedCause]:
    shapes = {name: tuple(tensor.shape) for name, tensor in ground.state.items()}
    known = words(configs.fields(ground.reference.settings), ground.context.classes.values(), shapes)
    for cause in CAUSES:
        own = [each for each in mutations if each.cause == cause.code]
        found = _cause(cause, known, own)
        if found.verdict == "untried" and cause.code in structural:
            found = AuditedCause(cause.code, "seen", reason=OTHER_SHAPES)
        yield found


def _cause(cause: Cause, known: frozenset[str], own: Sequence[TriedMutation]) -> AuditedCause:
    if cause.elsewhere:
        return AuditedCause(cause.code, "elsewhere", reason=cause.elsewhere)
    caught = sum(each.verdict == "caught" for each in own)
    missed = [each for each in own if each.verdict == "missed"]
    if missed:
        reason = f"{missed[0].name}: {missed[0].reason}"
        return AuditedCause(cause.code, "blind", caught, caught + len(missed), reason)
    if caught:
        partly = f"not what shows {cause.partly}" if cause.partly else ""
        return AuditedCause(cause.code, "seen", caught, caught, partly)
    if not cause.fits(known):
        return AuditedCause(cause.code, "not_applicable", reason="this reference has nothing of the kind")
    reason = "its mutations have no effect here" if own else "no mutation of this reference stands for it"
    return AuditedCause(cause.code, "untried", reason=reason)
