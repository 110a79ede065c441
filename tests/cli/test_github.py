"""What GitHub is told: annotations on the port's own lines, and the job summary."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from parity import Report
from parity.records import Boundary, Finding, Source, Stage, Unmatched, Versions
from parity.report import github
from parity.report import json as report_json

Run = Callable[..., tuple[int, str, str]]
Checked = Callable[[str], Report]

COMMAND = re.compile(r"::(error|warning|notice) ((?:[a-z]+=[^,:\r\n]*,?)*)::([^\r\n]*)\n")
SMALL = Report(
    Versions("1", "2", "3"), "ports/mine.py", "Reference", "random", 0,
    (Stage("weights", "pass"), Stage("forward", "fail")), (), (), Unmatched(),
)  # fmt: skip
FINDING = Finding("forward", "silu", "wrong", "model.norm", "norm", Source("ports/mine.py", 2, "y = 2"))


def commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Each command as the runner reads it: its kind, its properties and its message."""
    assert "".join(match[0] for match in COMMAND.finditer(text)) == text
    return [
        (kind, dict(each.split("=", 1) for each in properties.split(",")), message)
        for kind, properties, message in COMMAND.findall(text)
    ]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a port in it, worked on from the top."""
    (tmp_path / "ports").mkdir()
    (tmp_path / "ports" / "mine.py").write_text("x = 1\ny = 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


def test_a_real_fault_is_annotated(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own line, under its title, with the cause and both lines."""
    report = checked("failing")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(Path(report.findings[0].port_source.file).parent))
    [(kind, properties, message)] = commands(github.render(report))
    source = report.findings[0].port_source
    assert kind == "error"
    assert properties["file"] == "own_port.py"
    assert properties["line"] == str(source.line)
    assert Path(source.file).read_text().splitlines()[source.line - 1].strip() == source.text
    assert properties["title"] == report.findings[0].title.replace(",", "%2C")
    assert "why        behaves as if `sliding_window` were 8 (config: 7)%0A" in message


def test_paths_begin_at_the_top_of_the_repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command is run; a file outside of it is not named, nor a line that has moved since."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(workspace))
    monkeypatch.chdir(workspace / "ports")
    here = replace(FINDING, port_source=replace(FINDING.port_source, file="mine.py"))

    def place(finding: Finding, port: str = "gemma3") -> dict[str, str]:
        [(_, properties, _)] = commands(github.render(replace(SMALL, port=port, findings=(finding,))))
        return {name: value for name, value in properties.items() if name != "title"}

    assert place(here) == {"file": "ports/mine.py", "line": "2"}
    assert place(replace(here, port_source=replace(here.port_source, line=1))) == {"file": "ports/mine.py"}
    assert place(replace(here, port_source=replace(here.port_source, line=9))) == {"file": "ports/mine.py"}
    rewritten = replace(here.port_source, file="mine.py (gemma3)", line=300)
    assert place(replace(here, port_source=rewritten)) == {"file": "ports/mine.py"}
    assert place(replace(here, port_source=replace(here.port_source, file=__file__))) == {}
    none = replace(here, port_source=None)
    assert place(none) == {}
    assert place(none, "mine.py") == place(none, "mine.py:Port") == {"file": "ports/mine.py"}
    monkeypatch.chdir(workspace)
    assert place(none, "ports.mine") == {"file": "ports/mine.py"}


def test_what_would_end_a_command_is_escaped(workspace: Path) -> None:
    """Per cent, line ends, colons and commas: a title cannot become a property, nor a message a command."""
    title = "100%,line=9::x\r\n::error::y"
    finding = replace(FINDING, title=title, evidence=("50%\n::warning::z",))
    [(_, properties, message)] = commands(github.render(replace(SMALL, findings=(finding,))))
    assert properties["title"] == "100%25%2Cline=9%3A%3Ax %3A%3Aerror%3A%3Ay"
    assert properties["line"] == "2"
    assert "50%25%0A::warning::z" in message


def test_the_first_findings_come_first(workspace: Path) -> None:
    """GitHub shows ten errors of a step; how many more there are is said."""
    many = tuple(replace(FINDING, title=f"fault {number}") for number in range(13))
    found = commands(github.render(replace(SMALL, findings=many)))
    assert [properties["title"] for _, properties, _ in found[:10]] == [f"fault {number}" for number in range(10)]
    assert [(kind, message) for kind, _, message in found[10:]] == [("notice", "3 more findings, after the first 10")]


def test_without_a_finding(workspace: Path) -> None:
    """A pass is a notice; a failure and what could not be compared are errors at the port's file."""
    passed = replace(SMALL, stages=(Stage("weights", "pass"),))
    [(kind, properties, message)] = commands(github.render(passed))
    assert (kind, properties, message) == (
        "notice", {"title": "Parity%3A pass"}, "ports/mine.py against Reference: nothing wrong in weights"
    )  # fmt: skip
    place = Boundary("forward", "model.norm", "model.norm", "norm", "output", own=1.0, total=1.0)
    [(kind, properties, message)] = commands(github.render(replace(SMALL, boundaries=(place,))))
    assert (kind, properties["file"]) == ("error", "ports/mine.py")
    assert "model.norm: max=-, mean=-, rel=1.0e+00" in message
    missing = Stage("cache", "not_run", "there is no `new_cache`", requested=True)
    [(kind, properties, message)] = commands(github.render(replace(passed, stages=(missing,))))
    assert (kind, properties["title"]) == ("error", "Parity could not compare")
    assert "stage cache was asked for and did not run: there is no `new_cache`" in message


def test_the_job_summary(workspace: Path, checked: Checked, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended to what is there where GitHub names a file, with the format github alone."""
    report = checked("failing")
    saved, summary = workspace / "report.json", workspace / "summary.md"
    saved.write_text(report_json.render(report))
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run("report", saved)
    assert summary.read_text() == "before\n"
    code, out, err = run("report", saved, "--format", "github")
    assert (code, err) == (1, "")
    assert commands(out)[0][0] == "error"
    told = summary.read_text()
    assert told.startswith("before\n\n## FAIL: ")
    assert report.findings[0].title in told
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(workspace / "none" / "summary.md"))
    code, out, err = run("report", saved, "--format", "github")
    assert (code, out) == (2, "")
    assert "cannot write" in err


def test_the_job_summary_fits(workspace: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MiB with what is in it already, in whole sections; GitHub drops a larger one."""
    findings = tuple(
        replace(FINDING, title=f"fault {n}", evidence=("\N{GREEK SMALL LETTER ALPHA}" * 50_000,)) for n in range(20)
    )
    saved, summary = workspace / "report.json", workspace / "summary.md"
    saved.write_text(report_json.render(replace(SMALL, findings=findings)))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    summary.write_text("x" * 260_000 + "\n")
    run("report", saved, "--format", "github")
    text = summary.read_text()
    assert 900_000 < len(text.encode()) <= 1024 * 1024
    whole = text.count("\N{GREEK SMALL LETTER ALPHA}" * 50_000 + "\n")
    assert whole == len(re.findall(r"\d\. fault \d", text)) == 7
    assert text.endswith("writes all of it.\n")
    summary.write_text("x" * 1024 * 1024)
    run("report", saved, "--format", "github")
    assert len(summary.read_text()) == 1024 * 1024
