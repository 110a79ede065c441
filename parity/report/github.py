"""Workflow commands of GitHub: an error on each guilty line, the first finding first; a notice for a pass."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from parity.records import Finding, Report, Source
from parity.report import plain, words

SHOWN = 10  # errors of one step; GitHub drops those after them
_REWRITTEN = re.compile(r" \([^()]*\)$")  # a port that is another one's text, changed while it is loaded
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def render(report: Report) -> str:
    """The report as commands, a line each."""
    return "".join(f"{line}\n" for line in commands(report))


def commands(report: Report, prefix: str = "") -> Iterator[str]:
    """The commands of a report; `prefix`, before each title, tells it from other reports."""
    for finding in report.findings[:SHOWN]:
        told = "\n".join(plain.finding(finding))
        yield command("error", prefix + finding.title, told, _place(finding, report))
    more = len(report.findings) - SHOWN
    if more > 0:
        yield command("notice", f"{prefix}Parity", f"{more} more findings, after the first {SHOWN}", {})
    headline = words.headline(report)
    if report.verdict == "incomplete":
        told = "\n".join([headline, *plain.missing(report)])
        yield command("error", f"{prefix}Parity could not compare", told, _file(report))
    elif report.verdict == "pass":
        yield command("notice", f"{prefix}Parity: pass", "\n".join([headline, *report.notes]), {})
    elif not report.findings:
        wrong = [f"{each.name}: {words.figures(each)}" for each in report.boundaries if words.own(each)]
        yield command("error", f"{prefix}Parity: fail", "\n".join([headline, *wrong]), _file(report))


def command(kind: str, title: str, message: str, place: Mapping[str, str]) -> str:
    """One command: `error`, `warning` or `notice`; place: its properties `file` and `line`, where they are known."""
    properties = {**place, "title": " ".join(title.split())}
    told = ",".join(f"{name}={_escaped(value, _PROPERTY)}" for name, value in properties.items())
    return f"::{kind} {told}::{_escaped(message, _DATA)}"


def _escaped(text: str, table: Mapping[str, str]) -> str:
    return "".join(table.get(letter, letter) for letter in text)


def _place(finding: Finding, report: Report) -> dict[str, str]:
    """The port's line if it is where the finding says, else its file, else nothing."""
    source = finding.port_source
    path = None if source is None else Path(_REWRITTEN.sub("", source.file))
    shown = None if path is None else _within(path)
    if source is None or path is None or shown is None:
        return _file(report)
    return {"file": shown, "line": str(source.line)} if _holds(path, source) else {"file": shown}


def _file(report: Report) -> dict[str, str]:
    """The file that a port was named by."""
    name = re.sub(r"(\.py):[^/\\]*$", r"\1", report.port)
    module = name.replace(".", "/")
    for each in (name, f"{module}.py", f"{module}/__init__.py"):
        shown = _within(Path(each)) if each.endswith(".py") else None
        if shown is not None:
            return {"file": shown}
    return {}


def _within(path: Path) -> str | None:
    """A file as GitHub names it: from the top of the repository; None if it is not in there."""
    top = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    whole = path.resolve()
    return whole.relative_to(top).as_posix() if whole.is_file() and whole.is_relative_to(top) else None


def _holds(path: Path, source: Source) -> bool:
    """Whether the line is what it was when the report was made."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return source.line <= len(lines) and lines[source.line - 1].strip() == source.text
