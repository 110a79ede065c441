"""`parity gate` as it is used: processes, verdicts, exit codes, what a port can do to the others."""

import io
import json
import multiprocessing
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from parity.gate_records import Case, Wanted
from tests.gate.conftest import Write

Run = Callable[..., tuple[int, str, str]]

INEXACT = """
    from torch import nn

    class Embedding(nn.Embedding):
        def forward(self, input_ids):
            return super().forward(input_ids) / 7 * 7

    class Model(gpt2.Model):
        def __init__(self, config):
            super().__init__(config)
            self.embed_tokens.__class__ = Embedding
"""
SCALED = """
    class Model(gpt2.Model):
        def forward(self, input_ids):
            return super().forward(input_ids) * 1.5
"""


def test_a_port_hurts_nobody_but_itself(project: Path, port: Write, run: Run) -> None:
    """One that crashes, is killed, leaves, or takes too much memory; others report, and a divergence gives 1."""
    port("good.py")
    port("wrong.py", SCALED)
    port("crashes.py", "import ctypes\nctypes.string_at(0)\n")
    port("killed.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    port("leaves.py", "import os\nprint('port speaking')\nos._exit(0)\n")
    port("raises.py", "raise ValueError('no such thing')\n")
    port("hungry.py", "import time\nheld = bytearray(b'x') * 2**31\ntime.sleep(600)\n")
    names = ("good", "wrong", "crashes", "killed", "leaves", "raises", "hungry")
    ports = [f"{name}.py" for name in names]
    code, out, err = run("gate", *ports, "--stage", "forward", "--memory", 1900, "--format", "json")
    cases = {case["port"].removesuffix(".py"): case for case in json.loads(out)["cases"]}
    assert {name: case["verdict"] for name, case in cases.items()} == {
        "good": "pass",
        "wrong": "fail",
        **dict.fromkeys(("crashes", "killed", "leaves", "raises", "hungry"), "incomplete"),
    }
    assert code == 1
    told = {name: case["problem"] for name, case in cases.items()}
    assert told["crashes"].startswith("its process crashed (SIGSEGV), in crashes.py, line 4, <module>. ")
    assert told["killed"].startswith("its process was killed (SIGKILL), as a system does that is short of memory; ")
    assert told["leaves"].startswith("its process ended with exit code 0 before the check was over. ")
    assert told["raises"].startswith("raises.py does not import: ValueError: no such thing (raises.py, line 3: ")
    assert told["hungry"].startswith("it took more than 1,900 MiB of memory, and was ended. ")
    assert cases["wrong"]["report"]["findings"]
    assert "port speaking" not in out + err
    assert len(err.splitlines()) == len(ports)


def test_a_port_that_hangs_is_ended_with_its_children(project: Path, port: Write, run: Run) -> None:
    """It says where it hung; the port after it is told as ever, and nothing diverged, so the code is 2."""
    code = """
        import subprocess, time
        child = subprocess.Popen(["sleep", "600"])
        open("child", "w").write(str(child.pid))
        time.sleep(600)
    """
    port("hangs.py", code)
    port("raises.py", "raise ValueError('no such thing')\n")
    code, out, _ = run("gate", "hangs.py", "raises.py", "--timeout", 6, "--jobs", 1)
    assert code == 2
    assert "\n  it was not over after 6 s, and was ended, in hangs.py, line 7, <module>. Mend what hangs" in out
    assert "\n  raises.py does not import: ValueError: no such thing (" in out
    child = int((project / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_interrupted(project: Path, port: Write, interrupted: Run, tmp_path: Path) -> None:
    """Everything is ended, what was there is told, and the exit code is that of an interruption."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    hangs = "import os, time\nfrom pathlib import Path\nPath('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    port("hangs.py", hangs)
    code, out, err = interrupted("gate", "hangs.py", marker=project / "pid", temporary=temporary)
    assert (code, err) == (130, "parity: interrupted\n")
    assert out.startswith("INCOMPLETE  1 case: 1 could not be compared; interrupted\n")
    assert "it was interrupted before it was over" in out
    held = int((project / "pid").read_text() or 0)
    assert not held or not psutil.pid_exists(held)
    assert list(temporary.glob("parity-*")) == []


def test_nothing_outlives_a_gate_that_is_killed(project: Path, port: Write) -> None:
    """It can end nothing any more; what it started ends by itself."""
    port("hangs.py", "import os, time\nopen('pid', 'w').write(f'{os.getpid()} ')\ntime.sleep(600)\n")
    gate = subprocess.Popen([sys.executable, "-m", "parity", "gate", "hangs.py"], stderr=subprocess.DEVNULL)
    while not (project / "pid").exists() or not (project / "pid").read_text().endswith(" "):
        assert gate.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int((project / "pid").read_text()))
    gate.kill()
    gate.wait()
    child.wait(60)


def test_cover_that_shrinks_fails(project: Path, port: Write, run: Run) -> None:
    """A capability that vanished, an output that is exact no more, a case that is gone; a new case is a note."""
    (project / "pyproject.toml").write_text(
        '[tool.parity.gate]\nports = ["ports/*.py"]\nstages = ["weights", "forward"]\nbaseline = "frozen.json"\n'
    )
    path = port("ports/own.py")
    assert run("gate")[0] == 2  # the settings name a baseline that is not there
    code, out, _ = run("gate", "--update-baseline")
    assert (code, "frozen.json holds what 1 case covers now" in out) == (0, True)
    frozen = (project / "frozen.json").read_text()
    assert run("gate")[0] == 0

    port("ports/own.py", INEXACT)
    port("ports/second.py")
    code, out, _ = run("gate", "--jobs", 2)
    assert code == 1
    assert "forward: transformer.wte was exact in 1 place, now nowhere; the rest is merely ok" in out
    assert "not in the baseline yet: ports/second.py" in out
    code, out, _ = run("gate", "ports/own.py", "--stage", "weights")
    assert (code, "stage forward is not covered any more: not asked for" in out) == (1, True)

    path.rename(project / "elsewhere.py")
    code, out, _ = run("gate")
    assert (code, "ports/own.py is in the baseline, and is not checked any more" in out) == (1, True)
    assert (project / "frozen.json").read_text() == frozen


def test_a_baseline_is_made_of_cases_that_pass(project: Path, port: Write, run: Run) -> None:
    """A port that diverges leaves no file behind, and its exit code is its own."""
    port("wrong.py", SCALED)
    code, out, _ = run("gate", "wrong.py", "--stage", "forward", "--update-baseline")
    assert (code, "parity-baseline.json is left as it was" in out) == (1, True)
    assert not (project / "parity-baseline.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("none*.py",), "no port matches 'none*.py'. "),
        (
            ("gpt2", "--baseline", "none.json"),
            "there is no baseline none.json. Make one: parity gate --update-baseline.",
        ),
        (("gpt2", "--changed-since", "HEAD"), " is in no git repository. "),
        (("gpt2", "--format", "json=a", "--format", "junit=a"), "two formats go to a. "),
        (("gpt2", "--format", "yaml"), "there is no format 'yaml' of a gate. "),
        (("gpt2", "--format", "json=none/a"), "cannot write none/a. "),
        (("gpt2", "--stage", "speed"), "there is no stage 'speed'. "),
        (("gpt2", "--baseline", "none/b.json", "--update-baseline"), "cannot write "),
    ],
)
def test_bad_input(project: Path, run: Run, arguments: tuple[str, ...], told: str) -> None:
    """One line on stderr before anything runs, and the exit code is 2."""
    code, out, err = run("gate", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.startswith("parity: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("gate = 3", "[tool.parity] gate is 3. It must be a table: [tool.parity.gate]."),
        ("[tool.parity.gate]\nport = []", "[tool.parity.gate] has no setting 'port'. It has "),
        ("[tool.parity.gate]\nports = 'gpt2'", "[tool.parity.gate] ports is 'gpt2'. It must be a list."),
        ("[tool.parity.gate]\nports = [2]", "[tool.parity.gate] ports is [2]. It must be a list of strings."),
        ("[tool.parity.gate]\njobs = true", "[tool.parity.gate] jobs is True. It must be a whole number."),
        ("[tool.parity.gate]\njobs = 0", "Invalid value for "),
        ("[tool.parity.gate]\ntimeout = 'long'", "timeout is 'long'. It must be a whole number or a number."),
        ("[tool.parity.gate]\nbaseline = 'none.json'\nports = ['gpt2']", "there is no baseline none.json. "),
    ],
)
def test_bad_settings(project: Path, run: Run, settings: str, told: str) -> None:
    """Those of a table are held to their types, as the others are."""
    head = "" if settings.startswith("[") else "[tool.parity]\n"
    (project / "pyproject.toml").write_text(head + settings)
    code, out, err = run("gate")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_settings_are_as_seen_from_their_file_and_flags_override_them(
    project: Path, port: Write, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started from another folder, a port has the same name; a flag takes the place of a setting."""
    (project / "pyproject.toml").write_text(
        '[tool.parity.gate]\nports = ["ports/*.py"]\nstages = ["precision"]\nformat = "json"\n'
    )
    port("ports/own.py")
    (project / "deep").mkdir()
    monkeypatch.chdir(project / "deep")
    code, out, _ = run("gate", "--stage", "weights")
    cases = json.loads(out)["cases"]
    assert (code, [case["port"] for case in cases]) == (0, ["ports/own.py"])
    assert [each["name"] for each in cases[0]["report"]["stages"] if each["verdict"] != "not_run"] == ["weights"]


def test_nothing_changed_is_said_and_passes(project: Path, port: Write, run: Run) -> None:
    """No process is started; a report in a file is written all the same."""
    port("good.py")
    identity = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run(["git", *identity, *command], cwd=project, check=True)
    code, out, err = run("gate", "good.py", "--changed-since", "HEAD", "--format", "text", "--format", "junit=j.xml")
    assert (code, err) == (0, "")
    assert out == "PASS  nothing to check: nothing that the case is made of changed since HEAD\n"
    assert "<testcase" not in (project / "j.xml").read_text()
    port("good.py", "x = 1\n")
    code, out, err = run("gate", "good.py", "gpt2", "--changed-since", "HEAD", "--stage", "weights")
    assert (code, out.splitlines()[0]) == (0, "PASS  1 case: 1 passes; 1 left out, unchanged since HEAD")


class Light(pickle.Unpickler):
    """Refuses what is of another package."""

    def find_class(self, module: str, name: str) -> object:
        """A class by its name."""
        assert module.partition(".")[0] == "parity", module
        return super().find_class(module, name)


def test_what_a_process_sends_back_is_light() -> None:
    """The gate itself stays free of torch, which is seconds and memory."""
    from parity.gate.child import Checked, Job, _done

    sender, _receiver = multiprocessing.Pipe()
    sent = pickle.dumps(_done(Job(Case("gpt2"), Wanted(("forward",)), Path.cwd(), 1), sender))
    found = Light(io.BytesIO(sent)).load()
    assert isinstance(found, Checked)
    assert found.report.verdict == "pass"


def test_own_ports_are_gated_by_a_baseline_that_holds(root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in the repository can be read, and has the ports that the settings name."""
    from parity.gate.baseline import read
    from parity.gate.cases import make
    from parity.settings import from_table

    kinds = {"ports": list, "gradient": bool, "baseline": str}
    settings = from_table(root, "gate", kinds)
    names = {case.name for case in make(settings["ports"], (), (), root, root)}
    assert set(read(root / settings["baseline"]).cases) == names


def test_where_a_system_cannot_fork(project: Path, port: Write, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are made anew then, and say the same."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    port("good.py")
    port("wrong.py", SCALED)
    port("crashes.py", "import ctypes\nctypes.string_at(0)\n")
    code, out, _ = run("gate", "good.py", "wrong.py", "crashes.py", "--stage", "forward", "--format", "json")
    found = {case["port"]: (case["verdict"], case["problem"].split(",")[0]) for case in json.loads(out)["cases"]}
    assert (code, found) == (
        1,
        {
            "good.py": ("pass", ""),
            "wrong.py": ("fail", ""),
            "crashes.py": ("incomplete", "its process crashed (SIGSEGV)"),
        },
    )
