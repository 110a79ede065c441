"""A finding in plain lines, for formats that hold text: where, why, the lines of both sides, what speaks for it."""

from parity.records import Finding, Report
from parity.report import words
from parity.report.code import numbered

_LABEL = 11


def finding(told: Finding) -> list[str]:
    """All that is known of a finding but its title."""
    sources = []
    for label, source in (("port line", told.port_source), ("reference", told.reference_source)):
        if source is not None:
            sources.append(_row((label, f"{source.file}:{source.line}")))
            sources += [" " * _LABEL + line for line in numbered(source)]
    return [*map(_row, words.details(told)), *sources, *map(_row, words.evidence(told))]


def missing(report: Report) -> list[str]:
    """Why a report is neither a pass nor a fail, as far as it says: what was asked for and did not run."""
    told = [
        f"stage {stage.name} was asked for and did not run: {stage.reason}"
        for stage in report.stages
        if stage.requested and stage.verdict == "not_run"
    ]
    told += ["it was interrupted"] if report.interrupted else []
    return told or ["nothing was compared"]


def _row(row: words.Row) -> str:
    label, value = row
    return f"{label:<{_LABEL}}{value}"
