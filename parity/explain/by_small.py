"""Why a block of a real checkpoint is wrong, told by the small config: there every operation can be followed.

A fault that the small config shows at the corresponding module is carried over, line, cause and all. One that it does
not show may be tied to a layer that it has not: then the same is tried with all layers, still narrow.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS
from parity.compare.places import Place
from parity.compare.small import Small
from parity.errors import ParityError
from parity.explain import findings, load_findings
from parity.explain.explanation import explain
from parity.explain.finish import finish
from parity.names import numbers, template
from parity.records import Finding

_BESIDE = 100  # rank of a module beside another, after all that are in it or around it
_SMALL = ("the cause was found on the small config: sizes in its words are those of that one",)
_MEASURED = ("relative error ", "also ", "tokens before position ", "it is ")  # evidence that holds for one run alone


@dataclass(frozen=True)
class Failing:
    """A boundary that is wrong by itself, and the index of the block it is in, None outside of blocks."""

    place: Place
    block: int | None

    @property
    def module(self) -> str:
        """The reference's module."""
        return self.place.reference.module


@dataclass(frozen=True)
class Told:
    """The small config's findings, and the reference's and the port's blocks there."""

    small: Small
    blocks: Sequence[tuple[str, str]]
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> set[tuple[str, str]]:
        """The kinds of boundaries that are wrong by themselves there."""
        ends = isolation.failing(self.small.measured.isolated)
        return {(template(end.module), end.kind) for end in ends}


def told_by(small: Small, blocks: Sequence[tuple[str, str]]) -> Told:
    """All that the small config has to say."""
    sides, measured = small.sides, small.measured
    misloaded = load_findings.weights(sides, measured)
    settled = [each.finding for each in misloaded]
    located = (*misloaded, *findings.forward(sides, measured, settled))
    explained = explain(small.pair, sides, measured, located)
    return Told(small, blocks, finish(small.pair, sides, measured, located, explained.findings))


def explained_by_small(
    failing: Sequence[Failing],
    blocks: Sequence[tuple[str, str]],
    told: Told | None,
    deep: Callable[[], Told],
) -> tuple[Finding, ...]:
    """Findings for boundaries of a real checkpoint that are wrong.

    Args:
        failing: the boundaries, in the order data flows.
        blocks: the reference's and the port's blocks of the real models.
        told: by the small config, None if there is none.
        deep: makes and asks the small config of full depth; called only if something is left unexplained.
    """
    if told and not blocks and failing:  # the logits alone were compared: whatever the small config shows is in them
        return tuple(
            replace(each, evidence=(_measured(failing[0]), *each.evidence)) for each in told.findings
        ) or tuple(finding for finding, _ in _unknown(failing))
    found, left = _carried(failing, blocks, told) if told else ([], failing)
    if told and any(each.block is not None for each in left) and len(told.blocks) < len(blocks):
        try:
            more, left = _carried(left, blocks, deep())
        except ParityError:  # it runs on fewer layers, so this says nothing of the port
            more = []
        found += more
    known = {finding.title for finding, _ in found}
    misloaded = [each for each in told.findings if each.stage == "weights" and each.title not in known] if told else []
    found += [(each, failing[:1]) for each in misloaded]
    order = {id(each): at for at, each in enumerate(failing)}
    found += _unknown(left)
    found.sort(key=lambda each: (each[0].stage != "weights", min((order[id(one)] for one in each[1]), default=0)))
    return tuple(finding for finding, _ in found)


_Found = list[tuple[Finding, Sequence["Failing"]]]  # with the boundaries that a finding speaks of


def _carried(
    failing: Sequence[Failing], blocks: Sequence[tuple[str, str]], told: Told
) -> tuple[_Found, Sequence[Failing]]:
    """Findings that fit boundaries, carried over; and the boundaries that none fits."""
    groups: dict[int, list[Failing]] = {}
    left = []
    for each in failing:
        ranked = [
            (rank, at) for at, finding in enumerate(told.findings) if (rank := _fit(finding, each, told)) is not None
        ]
        if ranked:
            groups.setdefault(min(ranked)[1], []).append(each)
        else:
            left.append(each)
    return [(_moved(told.findings[at], group, blocks, told), group) for at, group in groups.items()], left


def _fit(finding: Finding, failing: Failing, told: Told) -> tuple[int, bool] | None:
    """How well a finding of the small config speaks of a boundary: 0 best; None if not at all.

    It speaks of its own module, of those in it and around it. Of one beside it, only if that is wrong on the small
    config too: what a port leaves out shows where it is missed.
    """
    end = failing.place.reference
    module = _head(told) if end == LOGITS else end.module
    alike = (template(end.module), end.kind) in told.wrong
    ranks = []
    for name in (finding.reference_module, *_also(finding)):
        inner, outer = f"{template(name)}.", f"{template(module)}."
        other = numbers(name)[:1] != numbers(module)[:1]
        if inner.startswith(outer) or outer.startswith(inner):
            distance = abs(inner.count(".") - outer.count("."))
            ranks.append((2 * distance + (len(inner) > len(outer)), other))
        elif alike and template(name).rpartition(".")[0] == template(module).rpartition(".")[0]:
            ranks.append((_BESIDE, other))
    return min(ranks, default=None)


def _head(told: Told) -> str:
    """The module that makes the logits."""
    return [name for name in told.small.sides.reference.modules if "." not in name][-1]


def _also(finding: Finding) -> list[str]:
    return [line.removeprefix("also ") for line in finding.evidence if line.startswith("also ")]


def _moved(finding: Finding, group: Sequence[Failing], blocks: Sequence[tuple[str, str]], told: Told) -> Finding:
    """A finding in the names of the real models, at the first boundary that it speaks of."""
    names = {failing.block: _renamed(finding.reference_module, finding, failing, blocks, told) for failing in group}
    first = group[0]
    kept = [line for line in finding.evidence if not line.startswith(_MEASURED)]
    others = [name for name in dict.fromkeys(names.values()) if name != names[first.block]]
    return replace(
        finding,
        title=_renamed(finding.title, finding, first, blocks, told),
        reference_module=names[first.block],
        port_module=_renamed(finding.port_module, finding, first, blocks, told),
        evidence=(_measured(first), *kept, *_SMALL[: len(finding.explanations)], *(f"also {name}" for name in others)),
    )


def _measured(failing: Failing) -> str:
    own = failing.place.own
    error = "not finite" if own is None or own != own else f"{own:.1e}"  # noqa: PLR0124 (NaN)
    return (
        f"relative error {error} at {failing.place.name} of the checkpoint, with the reference's own values before it"
    )


def _renamed(text: str, finding: Finding, failing: Failing, blocks: Sequence[tuple[str, str]], told: Told) -> str:
    """Words about a block of the small config as words about a block of the real models."""
    if failing.block is None:
        return text
    ours, theirs = blocks[failing.block]
    place = next((both for both in told.blocks if _within(finding, both)), None)
    if place is None:
        return text
    new = dict(zip(place, (ours, theirs), strict=True))
    either = "|".join(re.escape(name) for name in sorted(new, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])({either})(?!\w)", lambda match: new[match[0]], text)


def _within(finding: Finding, block: tuple[str, str]) -> bool:
    """Whether a finding speaks of a block, on either side."""
    ours, theirs = block
    return f"{finding.reference_module}.".startswith(f"{ours}.") or f"{finding.port_module}.".startswith(f"{theirs}.")


def _unknown(left: Sequence[Failing]) -> _Found:
    """Findings for boundaries that nothing on the small config explains."""
    groups: dict[tuple[str, str], list[Failing]] = {}
    for each in left:
        groups.setdefault((template(each.module), each.place.reference.kind), []).append(each)
    return [(_nowhere(group), group) for group in groups.values()]


def _nowhere(group: Sequence[Failing]) -> Finding:
    first = group[0]
    end, port = first.place.reference, first.place.port
    if end == LOGITS:
        title = "the returned logits go wrong after the last module"
    elif end.kind == "input":
        title = f"the port goes wrong before {port or end.module}"
    else:
        title = f"{port} gives another result than {end.module} on the same input"
    also = [f"also {each.module}" for each in group[1:]]
    evidence = (_measured(first), "the same port on the small config, random weights, shows no such fault", *also)
    return Finding("forward", "unknown", title, end.module, port, evidence=evidence)
