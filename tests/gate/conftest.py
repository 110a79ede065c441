"""What the tests of the gate share: the command line in this process, a project of ports, and reports made by hand."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.records import Boundary, Coverage, FieldCoverage, Finding, Report, Source, Stage, Unmatched, Versions
from tests.cli.conftest import interrupted, run  # noqa: F401 (fixtures)

Write = Callable[..., Path]

# What stands in front of a port of a project: GPT-2, the smallest that there is.
BASE = "from parity_models import gpt2\nfrom parity_models.gpt2 import MODEL_TYPES, WEIGHTS, Config, Model\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def port(project: Path) -> Write:
    """Write a port into the project: GPT-2, and code after it."""

    def write(name: str, code: str = "") -> Path:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BASE + textwrap.dedent(code))
        return path

    return write


def report(
    *boundaries: Boundary,
    stages: tuple[Stage, ...] | None = None,
    findings: tuple[Finding, ...] = (),
    port: str = "p.py",
) -> Report:
    """A report of the stages weights and forward."""
    wrong = any(each.verdict == "diff" for each in boundaries) or bool(findings)
    return Report(
        versions=Versions("0.1.0", "2.13.0+cpu", "5.23.0"),
        port=port,
        reference="Reference",
        weights="random",
        seed=0,
        stages=stages or (Stage("weights", "pass"), Stage("forward", "fail" if wrong else "pass", seconds=1.5)),
        boundaries=boundaries,
        findings=findings,
        unmatched=Unmatched(),
        coverage=Coverage(FieldCoverage(("a",), ("b",))),
    )


def place(name: str, error: float | None = 0.0, stage: str = "forward") -> Boundary:
    """A boundary with an error of its own."""
    return Boundary(stage, name, name.partition(" ")[0], name.partition(" ")[0], "output", own=error, total=error)


def finding(title: str = "the norm is wrong", file: str = "p.py", line: int = 2) -> Finding:
    """A finding of the forward stage, on a line."""
    source = Source(file, line, "x = 1", ((line, "x = 1"),))
    return Finding("forward", "norm-eps", title, "model.norm", "norm", port_source=source)
