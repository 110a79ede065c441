"""The first thing to mend, in a few lines: what a test that fails has to say."""

from collections.abc import Iterable, Sequence

from rich.text import Text

from parity.generation_records import Generation
from parity.records import Finding, Report, Stage
from parity.report import code, words
from parity.report.generation_words import faults

_INDENT = "  "
_SET_IN = 7  # columns of the lines of code in a report, under a numbered title


def of_report(report: Report, stage: str | None, command: str) -> list[Text]:
    """Why a check failed.

    Args:
        report: of a check that failed.
        stage: the one whose failure is told, by its own first finding if it has one; None for the first of all.
        command: shows the whole report; empty if there is none.
    """
    own = [finding for finding in report.findings if finding.stage == stage]
    chosen = [*own, *report.findings][:1]
    told = _finding(chosen[0]) if chosen else _boundaries(report, stage)
    others = len(report.findings) - len(chosen)
    rest = [("also", f"{others} more finding{'s' * (others > 1)}")] if others else []
    return [*told, *_rows([*rest, *_whole(command)])]


def of_gap(report: Report, stages: Sequence[Stage], command: str) -> list[Text]:
    """Why a check has neither passed nor failed.

    Args:
        report: of the check.
        stages: that were asked for and could not run; none if nothing was compared at all.
        command: shows the whole report; empty if there is none.
    """
    reasons = [f"stage {stage.name} was asked for and did not run: {stage.reason}" for stage in stages]
    title, *others = reasons or [f"nothing was compared in {report.port}"]
    return [_title(title), *_rows([*(("also", reason) for reason in others), *_whole(command)])]


def of_generation(generation: Generation, command: str) -> list[Text]:
    """Why greedy text failed.

    Args:
        generation: one that failed.
        command: shows it whole; empty if there is none.
    """
    (title, rows), *others = faults(generation)
    rest = [("also", f"{len(others)} more difference{'s' * (len(others) > 1)}")] if others else []
    return [_title(title), *_rows([*rows, *rest, *_whole(command)])]


def _finding(finding: Finding) -> list[Text]:
    lines = [Text.assemble(_INDENT, line[_SET_IN:]) for line in code.lines(finding, None)]
    return [_title(finding.title), *_rows(words.details(finding)), *lines, *_rows(words.evidence(finding))]


def _boundaries(report: Report, stage: str | None) -> list[Text]:
    """A failure that no finding words: the first boundary that differs, by itself if there is one."""
    wrong = [each for each in report.boundaries if each.verdict == "diff" and stage in (None, each.stage)]
    if not wrong:
        return [_title(f"{report.port} fails" + (f" in stage {stage}" if stage else ""))]
    first = next(filter(words.own, wrong), wrong[0])
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return [_title(f"stage {first.stage}: {first.name} differs{more}"), *_rows([("apart", words.figures(first))])]


def _whole(command: str) -> list[tuple[str, str]]:
    return [("see all", command)] if command else []


def _rows(rows: Iterable[tuple[str, str]]) -> list[Text]:
    return [Text.assemble(_INDENT, (f"{label:<11}", "dim"), text) for label, text in rows]


def _title(text: str) -> Text:
    return Text(text, "bold")
