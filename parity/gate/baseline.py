"""The baseline: what the gate covered when it was frozen, as a file, and what of it a later run has lost."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parity.errors import ParityError
from parity.gate_records import Case, Lost
from parity.names import shown, template
from parity.records import Report

SCHEMA = 1
NAME = "parity-baseline.json"
_NUMBERS = re.compile(r"\d+")
_Counts = Mapping[str, Mapping[str, int]]
_FREEZE = "Write it anew: parity gate --update-baseline."


@dataclass(frozen=True)
class Cover:
    """What one case covered.

    made: versions, and the machine that exactness holds for. compared, exact: per stage and kind of boundary, in how
    many places. blind: what an audit found that the check cannot see, None if there was none.
    """

    made: Mapping[str, str]
    stages: tuple[str, ...]
    compared: Mapping[str, Mapping[str, int]]
    exact: Mapping[str, Mapping[str, int]]
    blind: Mapping[str, tuple[str, ...]] | None


@dataclass(frozen=True)
class Baseline:
    """Covers by the case's name."""

    cases: Mapping[str, Cover]


def cover(report: Report, machine: str) -> Cover:
    """What a report covers."""
    compared, exact = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for boundary in report.boundaries:
        if boundary.kind != "tap" and boundary.verdict != "not_compared":
            compared[boundary.stage, _kind(boundary.name)] += 1
            exact[boundary.stage, _kind(boundary.name)] += boundary.verdict == "exact"
    found = report.coverage
    return Cover(
        {**asdict(report.versions), "machine": machine},
        tuple(stage.name for stage in report.stages if stage.verdict != "not_run"),
        _by_stage(compared),
        _by_stage(exact),
        None if found is None else {"fields": found.fields.blind, "mutations": found.mutations.missed},
    )


def _kind(name: str) -> str:
    """A boundary's name with `{}` for its layer, whatever stands before and after the name of the module."""
    return " ".join(template(word) if "." in word else word for word in name.split(" "))


def _by_stage(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (stage, kind), count in counts.items():
        if count:
            found.setdefault(stage, {})[kind] = count
    return found


def lost(frozen: Cover, report: Report, machine: str) -> tuple[Lost, ...]:
    """What a report that passes covers less than the baseline; one that fails has more to say than that."""
    if report.verdict == "fail":
        return ()
    now = cover(report, machine)
    return (*_stages(frozen, now, report), *_places(frozen, now), *_inexact(frozen, now), *_blinded(frozen, now))


def _stages(frozen: Cover, now: Cover, report: Report) -> Iterator[Lost]:
    reasons = {stage.name: stage.reason for stage in report.stages}
    for stage in frozen.stages:
        if stage not in now.stages:
            why = reasons.get(stage) or "it was not run"
            yield Lost("stage", f"stage {stage} is not covered any more: {why}")


def _places(frozen: Cover, now: Cover) -> Iterator[Lost]:
    for stage, kind, before, after in _fewer(frozen.compared, now.compared, now):
        less = f"now in {after}" if after else "and is not any more"
        yield Lost("boundary", f"{stage}: {kind} was compared in {_many(before)}, {less}")


def _inexact(frozen: Cover, now: Cover) -> Iterator[Lost]:
    """Asked only where both were made alike: another processor or another torch rounds in another order."""
    if incomparable(frozen, now):
        return
    for stage, kind, before, after in _fewer(frozen.exact, now.exact, now):
        places = now.compared.get(stage, {}).get(kind, 0)
        if places > after:
            less = f"now in {after} of {places}" if after else "now nowhere"
            yield Lost("exact", f"{stage}: {kind} was exact in {_many(before)}, {less}; the rest is merely ok")


def _fewer(before: _Counts, after: _Counts, now: Cover) -> Iterator[tuple[str, str, int, int]]:
    """In the order in which data flows now; what is not there any more comes last."""
    for stage in now.stages:  # one that is not run has been told as a whole
        was, found = before.get(stage, {}), after.get(stage, {})
        for kind in dict.fromkeys((*now.compared.get(stage, ()), *was)):
            if found.get(kind, 0) < was.get(kind, 0):
                yield stage, kind, was[kind], found.get(kind, 0)


def _many(count: int) -> str:
    return "1 place" if count == 1 else f"{count} places"


def _blinded(frozen: Cover, now: Cover) -> Iterator[Lost]:
    if frozen.blind is None or now.blind is None:
        return
    words = {"fields": "the config field", "mutations": "the mutation"}
    for what, names in now.blind.items():
        for name in sorted(set(names) - set(frozen.blind.get(what, ()))):
            yield Lost("blind", f"blind to {words[what]} {name}, which it saw before")


def incomparable(frozen: Cover, now: Cover) -> tuple[str, ...]:
    """What differs that exactness hangs on, in words: versions and machine."""
    names = [name for name in frozen.made if name != "parity"]
    return tuple(f"{_of(name, frozen)} then, {now.made.get(name)} now" for name in names if _differs(name, frozen, now))


def _of(name: str, frozen: Cover) -> str:
    return frozen.made[name] if name == "machine" else f"{name} {frozen.made[name]}"


def _differs(name: str, frozen: Cover, now: Cover) -> bool:
    return frozen.made[name] != now.made.get(name)


def unknown_now(frozen: Cover, now: Cover) -> bool:
    """Whether blind spots were frozen that this run knows nothing of."""
    return frozen.blind is not None and now.blind is None


def other_versions(baseline: Baseline, installed: Mapping[str, str]) -> tuple[str, ...]:
    """In words, the libraries that are installed in other versions than the baseline was made with; builds aside."""
    told: dict[str, None] = {}
    for each in baseline.cases.values():
        for name, version in installed.items():
            before = each.made.get(name, "")
            if before.partition("+")[0] != version.partition("+")[0]:
                told[f"{name} {before} then, {version} now"] = None
    return tuple(told)


def read(path: Path) -> Baseline:
    """A baseline from its file.

    Raises:
        ParityError: no such file, not a baseline, of another schema, or edited by hand.
    """
    name = shown(str(path))
    if not path.is_file():
        raise ParityError(f"there is no baseline {name}", "Make one: parity gate --update-baseline.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParityError(f"baseline {name} cannot be read: {error}", _FREEZE) from error
    if not isinstance(found, dict) or found.get("kind") != "baseline":
        raise ParityError(f"{name} is not a baseline of a gate", "Give the file that --update-baseline wrote.")
    if found.get("schema") != SCHEMA:
        stale = f"it is of schema {found.get('schema')}, this Parity reads {SCHEMA}"
        raise ParityError(f"baseline {name} is stale: {stale}", _FREEZE)
    if found.get("checksum") != _checksum(found):
        edited = "its checksum does not fit what is in it"
        raise ParityError(f"baseline {name} was edited by hand: {edited}", "Restore it, or write it anew.")
    return Baseline({name: _cover(each) for name, each in found["cases"].items()})


def text(baseline: Baseline) -> str:
    """A baseline as the text of its file: sorted, so that a change is as small as what changed."""
    document: dict[str, Any] = {
        "kind": "baseline",
        "schema": SCHEMA,
        "cases": {name: _written(each) for name, each in baseline.cases.items()},
    }
    document["checksum"] = _checksum(document)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def merged(old: Baseline | None, new: Mapping[Case, Cover], kept: Collection[str] | None) -> Baseline:
    """A baseline with some of its cases frozen anew; of the others, those named `kept` stay, or all if that is None."""
    before = {} if old is None else old.cases
    stay = {name: each for name, each in before.items() if kept is None or name in kept}
    return Baseline({**stay, **{case.name: each for case, each in new.items()}})


def _checksum(document: Mapping[str, Any]) -> str:
    content = {name: value for name, value in document.items() if name != "checksum"}
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _written(each: Cover) -> dict[str, Any]:
    """A line for each kind of boundary: in how many places it is compared, and in how many of these it is exact."""
    return {
        "made": dict(each.made),
        "stages": list(each.stages),
        "boundaries": {
            stage: {kind: _counts(count, each.exact.get(stage, {}).get(kind, 0)) for kind, count in kinds.items()}
            for stage, kinds in each.compared.items()
        },
        "blind": None if each.blind is None else {name: list(names) for name, names in each.blind.items()},
    }


def _counts(compared: int, exact: int) -> str:
    return f"{compared} compared, {exact} exact"


def _cover(found: Mapping[str, Any]) -> Cover:
    counted = {
        stage: {kind: [int(number) for number in _NUMBERS.findall(told)] for kind, told in kinds.items()}
        for stage, kinds in found["boundaries"].items()
    }
    blind = found["blind"]
    return Cover(
        found["made"],
        tuple(found["stages"]),
        {stage: {kind: each[0] for kind, each in kinds.items()} for stage, kinds in counted.items()},
        {stage: {kind: each[1] for kind, each in kinds.items()} for stage, kinds in counted.items()},
        None if blind is None else {name: tuple(names) for name, names in blind.items()},
    )
