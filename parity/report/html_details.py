"""What the page holds beyond what it shows at once: figures, maps and code of each module, written as JSON into it."""

from collections.abc import Sequence
from typing import Any

from parity.names import block
from parity.records import Boundary, ErrorMap, Finding, Report
from parity.report import words
from parity.report.html_model import MARKS, Group, State, colour_of, state_of
from parity.report.html_page import listing

_DIGITS = 3
_SAID: dict[State, str] = {
    "exact": "Equal to the reference, bit by bit.",
    "ok": "Equal to the reference up to rounding.",
    "diff": "Wrong by itself: it differs even with the reference\N{RIGHT SINGLE QUOTATION MARK}s own values before it.",
    "inherited": "Right by itself: the error came in from upstream.",
    "not_compared": "Not compared.",
}
_WORSE = "In low precision, less accurate than the reference on its own inputs."


def details(report: Report, groups: Sequence[Group]) -> dict[str, Any]:
    """Everything that the panel shows, as plain lists and dictionaries; `rows` by the numbers of the column's rows."""
    maps = {(each.stage, each.name): number for number, each in enumerate(report.maps)}
    modules: dict[str, list[int]] = {}
    for number, each in enumerate(report.boundaries):
        modules.setdefault(each.reference_module, []).append(number)
    return {
        "rows": [list(row.places) for group in groups for row in group.rows],
        "modules": modules,
        "boundaries": [_boundary(report, each, maps) for each in report.boundaries],
        "maps": [_map(report, each) for each in report.maps],
        "findings": [_finding(number, each) for number, each in enumerate(report.findings, 1)],
        "states": {state: {"mark": mark, "word": word, "said": _SAID[state]} for state, (mark, word) in MARKS.items()},
        "worse": _WORSE,
        "dropped": report.weights == "pretrained",
    }


def _boundary(report: Report, boundary: Boundary, maps: dict[tuple[str, str], int]) -> dict[str, Any]:
    state = state_of(boundary)
    found = {
        "stage": boundary.stage,
        "name": boundary.name,
        "module": boundary.reference_module,
        "port": boundary.port_module,
        "kind": boundary.kind,
        "state": state,
        "colour": colour_of(boundary),
        "figures": [
            *map(words.figure, (boundary.max_abs, boundary.mean_abs, boundary.own, boundary.total)),
            "" if boundary.ratio is None else f"{boundary.ratio:.2f}",
        ],
    }
    note = boundary.note or ("no value on one side" if state == "not_compared" else "")
    more = {"map": maps.get((boundary.stage, boundary.name)), "finding": _finding_of(report, boundary)}
    return found | {name: value for name, value in {**more, "note": note or None}.items() if value is not None}


def _finding_of(report: Report, boundary: Boundary) -> int | None:
    """The finding that speaks of a boundary: of its module or the nearest around it, else of its block."""
    wrong = words.own(boundary)
    module = boundary.reference_module
    ranked = []
    for number, finding in enumerate(report.findings):
        if finding.stage not in (boundary.stage, "weights"):
            continue
        places = [name for name in (finding.reference_module, *words.also(finding)) if name]
        around = [name for name in places if name == module or (wrong and f"{module}.".startswith(f"{name}."))]
        near = [name for name in places if wrong and block(name) == block(module)]
        ranked += [(-len(max(around, key=len)), number)] if around else [(1, number)] if near else []
    stage = [number for number, finding in enumerate(report.findings) if wrong and finding.stage == boundary.stage]
    if not ranked and len(stage) == 1:  # the only thing known to be wrong there
        return stage[0]
    return min(ranked)[1] if ranked else None


def _map(report: Report, found: ErrorMap) -> dict[str, Any]:
    noise = max((each.noise for each in report.boundaries if each.stage == found.stage), default=0.0)
    return {
        "stage": found.stage,
        "name": found.name,
        "columns": found.columns,
        "rows": list(found.row_labels),
        "across": list(found.column_labels),
        "noise": 0.0 if found.stage == "precision" else noise,
        "values": [[_short(value) for value in row] for row in found.values],
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _finding(number: int, finding: Finding) -> dict[str, Any]:
    return {
        "number": number,
        "title": finding.title,
        "cause": finding.cause,
        "why": finding.explanations[0].text if finding.explanations else "",
        "evidence": [text for label, text in words.evidence(finding) if label == "evidence"],
        "port": listing(finding.port_source),
        "reference": listing(finding.reference_source),
    }
