"""The JSON report, schema 1 (`schema-1.json` beside this file)."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from parity.records import Boundary, Finding, Report, Stage

SCHEMA = 1


def render(report: Report) -> str:
    """The report as JSON text."""
    return text_of(document(report))


def document(report: Report) -> dict[str, Any]:
    """The report as plain lists and dictionaries. A figure that is not finite is null; its verdict tells the rest."""
    return {
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
    }


def _finding(finding: Finding) -> dict[str, Any]:
    found = asdict(finding)
    for name in ("port_source", "reference_source"):
        if found[name] is not None:
            del found[name]["context"]
    return found


def _stage(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "verdict": stage.verdict, "reason": stage.reason, "seconds": round(stage.seconds, 3)}


def _boundary(boundary: Boundary) -> dict[str, Any]:
    return {
        "stage": boundary.stage,
        "name": boundary.name,
        "reference_module": boundary.reference_module,
        "port_module": boundary.port_module,
        "kind": boundary.kind,
        "max_abs": finite(boundary.max_abs),
        "mean_abs": finite(boundary.mean_abs),
        "relative": finite(boundary.relative),
        "verdict": boundary.verdict,
        "inherited": boundary.inherited,
    }


def text_of(document: Mapping[str, Any]) -> str:
    """A document as the text of a file."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def finite(value: float | None) -> float | None:
    """The value, or None if it is not a finite number, which JSON has no way to write."""
    return value if value is not None and math.isfinite(value) else None
