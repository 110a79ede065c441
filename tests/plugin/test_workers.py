"""The plugin in a scratch project, with real checks, in two processes of xdist."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BAD = """
from parity_fixtures.rewrite import rewrite

rewrite(globals(), "gemma3", ('nn.GELU(approximate="tanh")', "nn.SiLU()"))
"""
COUNTED = """
import os
from pathlib import Path

with Path(__file__).with_name("processes").open("a") as file:
    file.write(f"{os.getpid()}\\n")
"""
TESTS = """
def test_again(parity):
    parity.check("bad.py")

def test_text(parity):
    assert parity.generate(max_new_tokens=2).verdict == "pass"

def test_other_text(parity):
    parity.generate("text.py", max_new_tokens=2)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The project after `pytest --parity -n 2`, and what that printed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text('[tool.parity.gate]\nports = ["bad.py", "gemma3"]\n')
    (folder / "bad.py").write_text(BAD + COUNTED)
    (folder / "text.py").write_text(BAD)
    (folder / "test_own.py").write_text(TESTS)
    (folder / "tmp").mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--parity", "-n", "2", "--color=yes", "--junitxml=report.xml"],
        cwd=folder,
        env={**own, "TMPDIR": str(folder / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return folder, ran.stdout


def outcomes(folder: Path) -> dict[str, str]:
    """Tests that did not pass, and how their message begins."""
    cases = ElementTree.parse(folder / "report.xml").getroot().iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}": str(case[0].get("message")) for case in cases if len(case)}


def test_what_is_wrong_fails_and_nothing_else(project: tuple[Path, str]) -> None:
    """The stage, the test that asked for the check, the text; of the built-in port nothing."""
    folder, printed = project
    title = "layers.0.mlp.activation gives another result than model.layers.0.mlp.act_fn on the same input"
    assert outcomes(folder) == {
        "parity.bad.py::forward": title,
        "test_own::test_again": title,
        "test_own::test_other_text": "from new token 1 on, logits differ by more than rounding explains",
    }
    assert "10 passed" in printed


def test_the_check_of_a_port_is_made_by_one_process(project: tuple[Path, str]) -> None:
    """Whichever process its tests ran in, the port was imported in one."""
    folder, _ = project
    assert len(set((folder / "processes").read_text().split())) == 1


def test_messages_keep_their_colours(project: tuple[Path, str]) -> None:
    """Handed on as text, they get them back."""
    _, printed = project
    assert "\x1b[2mcause      \x1b[0mactivation" in printed
    assert "\x1b[1;31m" in printed


def test_nothing_is_left_behind(project: tuple[Path, str]) -> None:
    """What the processes shared is gone."""
    folder, _ = project
    assert not [path.name for path in (folder / "tmp").iterdir() if path.name.startswith("parity-")]
