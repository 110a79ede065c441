"""The GitHub Action and the workflow: valid, safe by zizmor, and what they run does what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gate.conftest import Write

BIN = Path(sys.executable).parent
SCALED = """
    class Model(gpt2.Model):
        def forward(self, input_ids):
            return super().forward(input_ids) * 1.5
"""


@pytest.mark.parametrize(
    ("file", "schema"),
    [("action.yml", "vendor.github-actions"), (".github/workflows/parity.yml", "vendor.github-workflows")],
)
def test_it_follows_the_schema(root: Path, file: str, schema: str) -> None:
    """That of its kind, which the validator brings along."""
    command = [BIN / "check-jsonschema", "--builtin-schema", schema, root / file]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_zizmor_finds_nothing_that_could_be_misused(root: Path) -> None:
    """No template in a shell, no action by a name that can be moved, no rights that are not needed."""
    if not (BIN / "zizmor").exists():
        pytest.skip("zizmor is not installed; make test installs it where there is a wheel for the platform")
    command = [BIN / "zizmor", "--offline", "--no-progress", root / "action.yml", root / ".github/workflows/parity.yml"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def action(root: Path) -> dict[str, Any]:
    """The parsed action."""
    found: dict[str, Any] = yaml.safe_load((root / "action.yml").read_text())
    return found


def test_the_workflow_gives_the_action_inputs_that_it_has(root: Path) -> None:
    """GitHub only warns of another one, and goes on without it."""
    workflow = yaml.safe_load((root / ".github/workflows/parity.yml").read_text())
    steps = [step for step in workflow["jobs"]["gate"]["steps"] if step["uses"] == "./"]
    assert steps
    for step in steps:
        assert set(step["with"]) <= set(action(root)["inputs"])


@pytest.fixture
def ran(root: Path, project: Path, port: Write) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The action's own script, run as GitHub runs it, on a project with a port that is wrong."""
    port("ports/good.py")
    port("ports/wrong one.py", SCALED)
    (project / "pyproject.toml").write_text('[tool.parity.gate]\nports = ["ports/*.py"]\n')
    temporary = project.parent / "temporary"
    temporary.mkdir()
    step = next(each for each in action(root)["runs"]["steps"] if each.get("id") == "gate")
    given = {"PORTS": "", "ARGS": "--stage forward", "SINCE": "", "HTML": "true", "OUT": str(temporary / "parity-gate")}
    assert set(given) == set(step["env"])
    environment = {
        **os.environ,
        **given,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_WORKSPACE": str(project),
        "GITHUB_OUTPUT": str(temporary / "output"),
        "GITHUB_STEP_SUMMARY": str(temporary / "summary"),
    }
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False), temporary


def test_a_pull_request_with_a_wrong_port(ran: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """Exit code, annotation on the guilty line, job summary, and the files that are uploaded."""
    process, temporary = ran
    assert process.returncode == 1, process.stderr
    assert (temporary / "output").read_text() == "exit-code=1\n"
    errors = [line for line in process.stdout.splitlines() if line.startswith("::error ")]
    assert len(errors) == 1
    assert errors[0].startswith("::error file=ports/wrong one.py,line=6,title=ports/wrong one.py%3A ")
    assert "\nFAIL  2 cases: 1 passes, 1 fails\n" in process.stdout
    assert (temporary / "summary").read_text().lstrip().startswith("## FAIL: 2 cases: 1 passes, 1 fails\n")
    made = {path.suffix: path for path in (temporary / "parity-gate").iterdir()}
    assert set(made) == {".txt", ".json", ".xml", ".md", ".html"}
    assert json.loads(made[".json"].read_text())["verdict"] == "fail"
