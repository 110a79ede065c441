"""The HTML report of a check: one file that needs no other and no network."""

from typing import Any

from parity.records import Explanation, Finding, Report, Stage
from parity.report import words
from parity.report.html_details import details
from parity.report.html_model import COLD, HOT, MARKS, Group, column, others, shown
from parity.report.html_page import listing, page

ASKS = {
    "weights": "Does every parameter hold its tensor of the checkpoint?",
    "forward": "Is every boundary of one full forward equal, in promoted float64?",
    "precision": "Is the port as accurate as the reference, in low precision?",
    "cache": "Does decoding give what one full forward gives?",
    "batch": "Does a padded row give what it gives alone?",
    "gradient": "Do parameters and values get the reference\N{RIGHT SINGLE QUOTATION MARK}s gradients?",
}
_STAGE_MARKS = {"pass": "\N{CHECK MARK}", "fail": "\N{MULTIPLICATION X}", "not_run": "\N{EN DASH}"}
_STAGE_WORDS = {"pass": "pass", "fail": "fail", "not_run": "not run"}


def render(report: Report) -> str:
    """The report as the text of an HTML file."""
    model = column(report)
    rest = others(report, sum(len(group.rows) for group in model))
    kept = details(report, (*model, *rest))
    return page(
        "report.html",
        "script.js",
        title=f"{words.VERDICTS[report.verdict]}: {report.port} against {report.reference}",
        report=report,
        verdict=words.VERDICTS[report.verdict],
        summary=words.headline(report).removeprefix(f"{report.port} against {report.reference}: "),
        facts=_facts(report),
        stages=[_stage(stage) for stage in report.stages],
        findings=[_finding(number, each, kept) for number, each in enumerate(report.findings, 1)],
        model=model,
        others=rest,
        marks=MARKS,
        first=_first(model, rest, kept),
        noise=max((each.noise for each in report.boundaries if each.stage == "forward"), default=0.0),
        colour=_colour(report),
        colours=[f"cold{step}" for step in range(COLD)] + [f"hot{step}" for step in range(HOT)],
        coverage=words.coverage(report),
        gaps=list(words.gaps(report)),
        details=kept,
    )


def _colour(report: Report) -> str:
    """What the colours of the column stand for, and the second figure."""
    stage = shown(report)
    if stage == "precision":
        return "difference from the reference in low precision, relative; the verdict follows the error against float64"
    if stage == "gradient":
        return "own error of gradients, relative, in promoted float64; the second figure counts what came in as well"
    handed = "with the reference\N{RIGHT SINGLE QUOTATION MARK}s values handed on before it"
    free = "the second figure is that of the port\N{RIGHT SINGLE QUOTATION MARK}s free run"
    return f"own error, relative, {handed} ({words.precision(report)}); {free}"


def _facts(report: Report) -> list[tuple[str, str]]:
    """What was run, as labels and values."""
    versions = report.versions
    weights = report.weights + (f", revision {report.revision[:12]}" if report.revision else "")
    return [
        ("weights", weights),
        ("dtype", report.dtype),
        ("seed", str(report.seed)),
        ("transformers", versions.transformers),
        ("torch", versions.torch),
        ("parity", versions.parity),
    ]


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "verdict": stage.verdict,
        "mark": _STAGE_MARKS[stage.verdict],
        "word": _STAGE_WORDS[stage.verdict],
        "asks": ASKS.get(stage.name, ""),
        "seconds": "" if stage.verdict == "not_run" else f"{stage.seconds:.2f} s",
        "reason": stage.reason,
    }


def _finding(number: int, finding: Finding, kept: dict[str, Any]) -> dict[str, Any]:
    why, *more = finding.explanations or (None,)
    port, reference = (listing(each, whole=False) for each in (finding.port_source, finding.reference_source))
    return {
        "number": number,
        "title": finding.title,
        "stage": finding.stage,
        "cause": finding.cause,
        "port_module": finding.port_module or "no module of its own",
        "reference_module": finding.reference_module or "no counterpart",
        "why": why.text if why else "",
        "more": [_also_fits(each) for each in more if each],
        "port": port,
        "reference": reference,
        "longer": any(each and each["longer"] for each in (port, reference)),
        "whole": [listing(each) for each in (finding.port_source, finding.reference_source)],
        "evidence": [text for label, text in words.evidence(finding) if label == "evidence"],
        "also": [text for label, text in words.evidence(finding) if label == "also in"],
        "row": _row_of(number - 1, kept),
    }


def _also_fits(explanation: Explanation) -> str:
    return f"{explanation.text} ({explanation.cause}, residual {words.figure(explanation.residual)})"


def _row_of(finding: int, kept: dict[str, Any]) -> int | None:
    """The first row of the column that a finding speaks of, of those that differ if there are any."""
    rows = [
        (number, [kept["boundaries"][place] for place in places])
        for number, places in enumerate(kept["rows"])
        if any(kept["boundaries"][place].get("finding") == finding for place in places)
    ]
    wrong = [number for number, places in rows if any(each["state"] == "diff" for each in places)]
    return next(iter([*wrong, *(number for number, _ in rows)]), None)


def _first(model: tuple[Group, ...], rest: tuple[Group, ...], kept: dict[str, Any]) -> int | None:
    """The row to begin with: of the first finding, else the first that differs, else the last of the model."""
    row = _row_of(0, kept) if kept["findings"] else None
    rows = [each for group in (*model, *rest) for each in group.rows]
    differing = [each.number for each in rows if each.state == "diff"]
    last = [group.rows[-1].number for group in model[-1:]]
    return row if row is not None else next(iter([*differing, *last]), None)
