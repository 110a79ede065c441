"""The JSON of a check back into records, as exactly as it was saved; what was not saved, so that verdicts stay."""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from parity.records import (
    PROMOTED_NOISE,
    Boundary,
    Coverage,
    ErrorMap,
    Explanation,
    FieldCoverage,
    Finding,
    MutationCoverage,
    Report,
    Source,
    Stage,
    Unmatched,
    Versions,
)
from parity.report.json import finite

_UNKNOWN = "the saved report does not say why"
_BARE = "saved without `details`: neither its notes are known nor why something was not compared"
Document = Mapping[str, Any]


class Doubtful(Exception):
    """A saved report of which one part contradicts another."""


def report(document: Document) -> Report:
    """A report that is valid by `schema-1.json`, with or without `details`.

    Raises:
        Doubtful: a verdict does not follow from what it comes from.
    """
    details = document.get("details", {})
    found = Report(
        versions=Versions(**document["versions"]),
        port=document["port"],
        reference=document["reference"],
        weights=document["weights"],
        seed=document["seed"],
        stages=tuple(Stage(**each, requested=each["name"] in _requested(document)) for each in document["stages"]),
        boundaries=_boundaries(document["boundaries"], details.get("boundaries")),
        findings=_findings(document["findings"], details.get("findings")),
        unmatched=Unmatched(**{side: tuple(names) for side, names in document["unmatched"].items()}),
        coverage=_coverage(document["coverage"]),
        notes=tuple(details.get("notes", () if details else (_BARE,))),
        dtype=details.get("dtype") or "",
        revision=details.get("revision"),
        interrupted=details.get("interrupted", False),
        maps=tuple(_map(each) for each in details.get("maps", ())),
    )
    if "interrupted" not in details and document["verdict"] == "incomplete" != found.verdict:
        found = replace(found, interrupted=True)
    _hold(found, document["verdict"])
    return found


def _requested(document: Document) -> Iterable[str]:
    """The stages asked for; where nobody says, those without which an incomplete report would be none."""
    requested: list[str] | None = document.get("details", {}).get("requested")
    if requested is not None:
        return requested
    missing = document["verdict"] == "incomplete" and all(each["verdict"] != "fail" for each in document["stages"])
    return [each["name"] for each in document["stages"] if missing and each["verdict"] == "not_run"]


def _boundaries(saved: list[Document], details: list[Document] | None) -> tuple[Boundary, ...]:
    if details is not None and len(details) != len(saved):
        raise Doubtful(f"it has {len(saved)} boundaries, and details of {len(details)}")
    judged = map(_rest, saved) if details is None else map(dict, details)
    return tuple(_boundary(each, rest) for each, rest in zip(saved, judged, strict=True))


def _boundary(saved: Document, judged: dict[str, Any]) -> Boundary:
    names = ("stage", "name", "reference_module", "port_module", "kind", "max_abs", "mean_abs")
    known = ("own", "total", "noise", "ratio", "misplaced", "note")
    if judged["noise"] is None:
        raise Doubtful(f"{saved['name']} has no noise to be judged by")
    found = Boundary(**{name: saved[name] for name in names}, **{name: judged[name] for name in known})
    for name in ("verdict", "inherited", "relative"):
        said, derived = saved[name], getattr(found, name)
        if name == "relative":
            said, derived = finite(said), finite(derived)
        if said != derived:
            raise Doubtful(f"{name} of {found.name} is {said}, its figures say {derived}")
    return found


def _rest(saved: Document) -> dict[str, Any]:
    """Errors that give a boundary the verdict and the figure that were saved, where those are all that is known."""
    relative, verdict = saved["relative"], saved["verdict"]
    error = math.nan if relative is None else relative
    found = {"own": error, "total": error, "noise": PROMOTED_NOISE, "ratio": None, "misplaced": False, "note": ""}
    if verdict == "not_compared":
        return found | {"own": None, "total": relative, "note": _UNKNOWN}
    if verdict == "exact":
        return found | {"own": 0.0, "total": 0.0}
    if verdict == "ok":
        most = math.inf if relative is None else error
        return found | {"own": most or sys.float_info.min, "total": most, "noise": max(most, PROMOTED_NOISE)}
    below = PROMOTED_NOISE if math.isnan(error) else min(error / 2, PROMOTED_NOISE)
    return found | {"own": 0.0 if saved["inherited"] else error, "noise": below}


def _findings(saved: list[Document], details: list[Document] | None) -> tuple[Finding, ...]:
    around: list[Document] = [{}] * len(saved) if details is None else details
    if len(around) != len(saved):
        raise Doubtful(f"it has {len(saved)} findings, and details of {len(around)}")
    return tuple(
        Finding(
            stage=each["stage"],
            cause=each["cause"],
            title=each["title"],
            reference_module=each["reference_module"],
            port_module=each["port_module"],
            port_source=_source(each["port_source"], lines.get("port_context", ())),
            reference_source=_source(each["reference_source"], lines.get("reference_context", ())),
            explanations=tuple(Explanation(**explanation) for explanation in each["explanations"]),
            evidence=tuple(each["evidence"]),
        )
        for each, lines in zip(saved, around, strict=True)
    )


def _source(saved: Document | None, lines: Iterable[tuple[int, str]]) -> Source | None:
    return None if saved is None else Source(**saved, context=tuple((number, text) for number, text in lines))


def _coverage(saved: Document | None) -> Coverage | None:
    if saved is None:
        return None
    fields, mutations = saved["fields"], saved["mutations"]
    return Coverage(
        FieldCoverage(tuple(fields["seen"]), tuple(fields["blind"])),
        MutationCoverage(mutations["caught"], mutations["applicable"], tuple(mutations["missed"])),
    )


def _map(saved: Document) -> ErrorMap:
    return ErrorMap(
        stage=saved["stage"],
        name=saved["name"],
        columns=saved["columns"],
        row_labels=tuple(saved["row_labels"]),
        column_labels=tuple(saved["column_labels"]),
        values=tuple(tuple(row) for row in saved["values"]),
    )


def _hold(found: Report, verdict: str) -> None:
    """Hold the verdicts of the stages to what was found in them, and that of the report to the stages'."""
    if found.verdict != verdict:
        raise Doubtful(f"its verdict is {verdict}, its stages say {found.verdict}")
    passed = {stage.name for stage in found.stages if stage.verdict == "pass"}
    told = [finding.stage for finding in found.findings]
    differ = [each.stage for each in found.boundaries if each.verdict == "diff" and not _detail(each)]
    for stage in (*told, *differ):
        if stage in passed:
            raise Doubtful(f"stage {stage} is said to pass, with {'a finding' if stage in told else 'a difference'}")


def _detail(boundary: Boundary) -> bool:
    """Values inside modules of the full forward settle nothing."""
    return boundary.kind == "tap" and boundary.stage == "forward"
