"""The JSON report, schema 1 (`schema-1.json` beside this file); `saved.py` reads it back."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from parity.records import Boundary, Finding, Report, Source, Stage

SCHEMA = 1


def render(report: Report) -> str:
    """The report as JSON text."""
    return text_of(document(report))


def document(report: Report) -> dict[str, Any]:
    """The report as plain lists and dictionaries. A figure that is not finite is null; its verdict tells the rest."""
    return without_infinities(
        {
            "schema": SCHEMA,
            "versions": asdict(report.versions),
            "port": report.port,
            "reference": report.reference,
            "weights": report.weights,
            "seed": report.seed,
            "verdict": report.verdict,
            "stages": [_stage(stage) for stage in report.stages],
            "boundaries": [_boundary(boundary) for boundary in report.boundaries],
            "findings": [_finding(finding) for finding in report.findings],
            "unmatched": asdict(report.unmatched),
            "coverage": None if report.coverage is None else asdict(report.coverage),
            "details": _details(report),
        }
    )


def _details(report: Report) -> dict[str, Any]:
    """What else it takes to tell the report again from what was saved."""
    return {
        "dtype": report.dtype or None,
        "revision": report.revision,
        "interrupted": report.interrupted,
        "notes": list(report.notes),
        "requested": [stage.name for stage in report.stages if stage.requested],
        "boundaries": [_judged(boundary) for boundary in report.boundaries],
        "findings": [
            {
                "port_context": _context(finding.port_source),
                "reference_context": _context(finding.reference_source),
            }
            for finding in report.findings
        ],
        "maps": [asdict(each) | {"values": [list(row) for row in each.values]} for each in report.maps],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    found = asdict(finding)
    for name in ("port_source", "reference_source"):
        if found[name] is not None:
            del found[name]["context"]
    return found


def _context(source: Source | None) -> list[list[Any]]:
    return [] if source is None else [[number, text] for number, text in source.context]


def _stage(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "verdict": stage.verdict, "reason": stage.reason, "seconds": round(stage.seconds, 3)}


def _boundary(boundary: Boundary) -> dict[str, Any]:
    return {
        "stage": boundary.stage,
        "name": boundary.name,
        "reference_module": boundary.reference_module,
        "port_module": boundary.port_module,
        "kind": boundary.kind,
        "max_abs": boundary.max_abs,
        "mean_abs": boundary.mean_abs,
        "relative": boundary.relative,
        "verdict": boundary.verdict,
        "inherited": boundary.inherited,
    }


def _judged(boundary: Boundary) -> dict[str, Any]:
    """What the verdict comes from."""
    return {
        "own": boundary.own,
        "total": boundary.total,
        "noise": boundary.noise,
        "ratio": boundary.ratio,
        "misplaced": boundary.misplaced,
        "note": boundary.note,
    }


def text_of(document: Mapping[str, Any]) -> str:
    """A document as the text of a file."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def finite(value: float | None) -> float | None:
    """The value, or None if it is not a finite number, which JSON has no way to write."""
    return value if value is not None and math.isfinite(value) else None


def without_infinities(document: dict[str, Any]) -> dict[str, Any]:
    """A document with null for each number that is not finite; `details.not_finite` says which, by pointer."""
    found: dict[str, str] = {}
    for pointer, holder, key in list(_figures(document, "")):
        found[pointer] = str(holder[key])
        holder[key] = None
    document["details"]["not_finite"] = found
    return document


def _figures(value: Any, pointer: str) -> Iterator[tuple[str, Any, Any]]:
    """Where numbers are that are not finite: (JSON pointer, the list or dictionary, the index or key in it)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        if isinstance(each, float):
            if not math.isfinite(each):
                yield f"{pointer}/{key}", value, key
        elif isinstance(each, dict | list | tuple):
            yield from _figures(each, f"{pointer}/{key}")
