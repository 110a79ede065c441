"""`pytest --parity`, the fixture and the marker, in projects of their own; what a check finds is given here."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from parity import pytest_checks
from parity.errors import ParityError
from parity.pytest_checks import Checks, Wanted
from parity.records import STAGES, Boundary, Explanation, Finding, Report, Source, Stage, Unmatched, Versions
from parity.report import first

PASSING = Report(
    versions=Versions("0", "0", "0"),
    port="port.py",
    reference="Reference",
    weights="random",
    seed=0,
    stages=tuple(
        Stage(name, "not_run", "there is no `new_cache`") if name == "cache" else Stage(name, "pass") for name in STAGES
    ),
    boundaries=(),
    findings=(),
    unmatched=Unmatched(),
)
FINDING = Finding(
    stage="forward",
    cause="activation",
    title="mlp.act gives another result than model.mlp.act_fn on the same input",
    reference_module="model.mlp.act_fn",
    port_module="mlp.act",
    port_source=Source("bad.py", 7, "self.act = nn.SiLU()"),
    reference_source=Source("transformers/activations.py", 51, "return self.act(input)"),
    explanations=(Explanation("activation", "silu", 0.0, "behaves as if the activation were silu"),),
    evidence=("relative error 1.5e-01",),
)
FAILING = replace(
    PASSING,
    stages=tuple(replace(stage, verdict="fail") if stage.name == "forward" else stage for stage in PASSING.stages),
    findings=(FINDING, replace(FINDING, title="the other one")),
)
MESSAGE = [
    "mlp.act gives another result than model.mlp.act_fn on the same input",
    "  port       mlp.act",
    "  reference  model.mlp.act_fn",
    "  cause      activation",
    "  why        behaves as if the activation were silu",
    "  port line  bad.py:7",
    "             > 7  self.act = nn.SiLU()",
    "  reference  transformers/activations.py:51",
    "             > 51  return self.act(input)",
    "  evidence   relative error 1.5e-01",
    "  also       1 more finding",
    "  see all    parity check bad.py --small-config",
]


@dataclass
class Found:
    """What checks find, by the port's name, and which were made."""

    reports: dict[str, Report] = field(default_factory=lambda: {"good.py": PASSING, "bad.py": FAILING})
    made: list[Wanted] = field(default_factory=list)

    def __call__(self, call: Wanted) -> Report | ParityError:
        """In place of a check."""
        self.made.append(call)
        name = Path(str(call.port)).name
        if name not in self.reports:
            return ParityError(f"there is no file {call.port}", "Check the path.")
        asked = tuple(call.options.get("stage", ()))
        report = self.reports[name]
        stages = (replace(stage, requested=True) if stage.name in asked else stage for stage in report.stages)
        return replace(report, stages=tuple(stages))

    def options(self) -> list[tuple[str, dict[str, Any]]]:
        """Ports and options of the checks that were made."""
        return [(str(call.port), dict(call.options)) for call in self.made]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """Checks that take no time."""
    answers = Found()
    monkeypatch.setattr(pytest_checks, "_run", answers)
    return answers


@pytest.fixture(scope="module")
def loaded() -> None:
    """All modules that a run needs; pytester takes out again what a run brings in, rich and typer in halves."""
    import_module("parity.cli.gate")
    import_module("parity.gate.cases")
    pytest_checks.NotParity(first.of_report(FAILING, None, ""))


@pytest.fixture
def project(pytester: pytest.Pytester, found: Found, loaded: None, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a port that passes and one that does not."""
    monkeypatch.setenv("CI", "true")  # pytest cuts its summary's lines at the terminal's width, but not there
    pytester.makepyfile(good="", bad="")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Call pytest in this process."""
    return project.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def lines(result: pytest.RunResult, start: str) -> list[str]:
    """The lines of the output that begin with something."""
    return [line for line in result.outlines if line.startswith(start)]


BOTH = ("--parity-port", "good.py", "--parity-port", "bad.py")


def test_each_stage_of_a_port_is_a_test(project: pytest.Pytester, found: Found) -> None:
    """A stage passes, fails or is skipped by itself, of one check."""
    result = run(project, *BOTH, "-v", "-rs")
    result.assert_outcomes(passed=7, failed=1, skipped=2)
    assert [line.rpartition(" [")[0].rstrip() for line in lines(result, "parity::")] == [
        *(f"parity::good.py::{name} PASSED" for name in ("weights", "forward", "precision")),
        "parity::good.py::cache SKIPPED (there is no `new_cache`)",
        "parity::good.py::batch PASSED",
        "parity::bad.py::weights PASSED",
        "parity::bad.py::forward FAILED",
        "parity::bad.py::precision PASSED",
        "parity::bad.py::cache SKIPPED (there is no `new_cache`)",
        "parity::bad.py::batch PASSED",
    ]
    assert lines(result, "SKIPPED") == [
        "SKIPPED [1] good.py:1: there is no `new_cache`",
        "SKIPPED [1] bad.py:1: there is no `new_cache`",
    ]
    assert found.options() == [("good.py", {"small_config": True}), ("bad.py", {"small_config": True})]


def test_a_failure_shows_the_first_finding_and_nothing_else(project: pytest.Pytester) -> None:
    """No traceback: the message stands under the port and its stage."""
    result = run(project, *BOTH)
    start = next(at for at, line in enumerate(result.outlines) if "_ bad.py, stage forward _" in line)
    assert result.outlines[start + 1 : start + 1 + len(MESSAGE)] == MESSAGE
    assert result.outlines[start + 1 + len(MESSAGE)].startswith("=====")
    assert lines(result, "FAILED")[0].startswith("FAILED parity::bad.py::forward - mlp.act gives another result")


def test_the_summary_of_tb_line_is_a_line(project: pytest.Pytester) -> None:
    """`--tb=line` leaves the title, `--tb=no` nothing."""
    assert MESSAGE[0] in run(project, *BOTH, "--tb=line").outlines
    assert "  cause      activation" not in run(project, *BOTH, "--tb=line").outlines
    assert MESSAGE[0] not in run(project, *BOTH, "--tb=no").outlines


def test_colours_are_pytests(project: pytest.Pytester) -> None:
    """On where pytest's are, off where they are not."""
    assert "\x1b[1m" + MESSAGE[0] + "\x1b[0m" in run(project, *BOTH, "--color=yes").outlines
    assert "\x1b" not in str(run(project, *BOTH, "--color=no").stdout)


def test_collecting_makes_no_check(project: pytest.Pytester, found: Found) -> None:
    """`--collect-only` names the tests."""
    result = run(project, *BOTH, "--collect-only", "-q")
    assert len(lines(result, "parity::")) == 10
    assert "10 tests collected" in str(result.stdout)
    assert found.made == []


def test_chosen_tests_need_their_stages_alone(project: pytest.Pytester, found: Found) -> None:
    """By word or by mark; the check leaves out what nobody looks at."""
    run(project, *BOTH, "-k", "bad and (cache or forward)").assert_outcomes(failed=1, skipped=1)
    assert found.options() == [
        ("bad.py", {"small_config": True, "gradient": False, "stage": ("forward", "cache")}),
    ]
    project.makepyfile(test_own="def test_own(): pass")
    run(project, *BOTH, "-m", "parity").assert_outcomes(passed=7, failed=1, skipped=2, deselected=1)
    run(project, *BOTH, "-m", "not parity").assert_outcomes(passed=1, deselected=10)


def test_last_failed(project: pytest.Pytester) -> None:
    """`--lf` runs the stage that failed again."""
    project.runpytest_inprocess(*BOTH)
    result = project.runpytest_inprocess(*BOTH, "--lf")
    result.assert_outcomes(failed=1, deselected=9)


def test_an_id_can_be_given_back(project: pytest.Pytester, found: Found) -> None:
    """What the summary prints can be run again, of any port; other paths are pytest's as ever."""
    project.makepyfile(test_own="def test_own(): pass")
    run(project, "parity::bad.py::forward", "parity::bad.py::forward").assert_outcomes(failed=1)
    run(project, "parity::good.py", "parity::good.py::forward").assert_outcomes(passed=4, skipped=1)
    run(project, "test_own.py", "parity::good.py").assert_outcomes(passed=5, skipped=1)
    result = run(project, "parity::bad.py::sideways")
    assert "parity::bad.py::sideways: there is no stage 'sideways'. Stages are" in str(result.stdout)
    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("settings", "ports"),
    [
        ('[tool.pytest.ini_options]\nparity_ports = ["good.py"]', ["good.py"]),
        ('[tool.parity.gate]\nports = ["good.py", "bad.py"]', ["good.py", "bad.py"]),
        ('[tool.pytest.ini_options]\nparity_ports = "good.py"\n[tool.parity.gate]\nports = ["bad.py"]', ["good.py"]),
        ('[tool.parity.gate]\nports = ["ports/*.py"]', ["ports/a.py", "ports/b.py"]),
    ],
)
def test_ports_come_from_settings(project: pytest.Pytester, settings: str, ports: Sequence[str]) -> None:
    """Those of pytest before those of the gate; a pattern stands for the files that match it."""
    project.makepyprojecttoml(settings)
    project.mkdir("ports")
    for name in ("b", "a", "__init__"):
        Path("ports", f"{name}.py").touch()
    named = [line.split("::")[1] for line in lines(run(project, "--parity", "--collect-only", "-q"), "parity::")]
    assert list(dict.fromkeys(named)) == ports
    result = run(project, "--parity-port", "bad.py", "--collect-only", "-q")
    assert {line.split("::")[1] for line in lines(result, "parity::")} == {"bad.py"}


def test_settings_of_a_check_hold(project: pytest.Pytester, found: Found) -> None:
    """`[tool.parity]` says what `parity check` does, and a stage asked for by name that cannot run is a failure."""
    project.makepyprojecttoml('[tool.parity]\nseed = 3\nsmall-config = false\nstage = ["forward", "cache"]')
    result = run(project, "--parity-port", "good.py")
    result.assert_outcomes(passed=1, failed=1)
    assert found.options() == [("good.py", {"small_config": False, "seed": 3, "stage": ["forward", "cache"]})]
    assert result.outlines.count("stage cache was asked for and did not run: there is no `new_cache`") == 1
    assert "  see all    parity check good.py --seed 3 --stage forward --stage cache" in result.outlines


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("", "there is no port to check. Name one with --parity-port, parity_ports or [tool.parity.gate] ports."),
        (
            '[tool.parity]\nseed = "three"\ngate.ports = ["good.py"]',
            "*pyproject.toml: [[]tool.parity] seed is 'three'. It must be a whole number.",
        ),
        ("[tool.parity.gate]\nports = 3", "*[[]tool.parity.gate] ports is 3. It must be a list."),
        (
            '[tool.parity.gate]\nports = ["no/*.py"]',
            "no port matches 'no/[*].py'. *",
        ),
    ],
)
def test_wrong_settings_are_one_line(project: pytest.Pytester, settings: str, line: str) -> None:
    """A run that was to check ports and has none to check does not pass."""
    project.makepyprojecttoml(settings)
    result = run(project, "--parity")
    result.stdout.fnmatch_lines(["*ERROR collecting parity*", line, "*short test summary*"], consecutive=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_configs_and_dtypes_of_the_gate(project: pytest.Pytester, found: Found) -> None:
    """Each is a check of its own, named as the gate names it, and its id can be given back."""
    project.makepyprojecttoml(
        '[tool.parity.gate]\nports = ["good.py"]\nconfigs = ["a.json", "b.json"]\ndtypes = ["bfloat16"]\nseed = 2\n'
        "[tool.parity]\nseed = 1\ngradient = true"
    )
    for name in ("a", "b"):
        Path(f"{name}.json").touch()
    run(project, "--parity").assert_outcomes(passed=10, skipped=2)
    options = {"small_config": True, "seed": 2, "gradient": True, "dtype": "bfloat16"}
    assert found.options() == [("good.py", {**options, "config": f"{name}.json"}) for name in ("a", "b")]
    result = run(project, "parity::good.py (b.json, bfloat16)::gradient", "-v")
    assert [line.split(" PASSED")[0] for line in lines(result, "parity::")] == [
        "parity::good.py (b.json, bfloat16)::gradient"
    ]


def test_nothing_is_checked_unasked(project: pytest.Pytester, found: Found) -> None:
    """Without `--parity` the plugin is not there."""
    project.makepyprojecttoml('[tool.parity.gate]\nports = ["bad.py"]')
    project.makepyfile(test_own="def test_own(): pass")
    run(project, "--strict-markers").assert_outcomes(passed=1)
    assert found.made == []


def test_the_fixture_gives_the_report_or_fails(project: pytest.Pytester, found: Found) -> None:
    """One check for all tests of a port; the failure names the test's line and none of Parity's code."""
    found.reports["none.py"] = replace(PASSING, stages=(), port="none.py")
    project.makepyfile(
        none="",
        test_own="""
        import pytest

        def test_report(parity):
            assert parity.check("good.py").seed == 0

        def test_again(parity):
            parity.check("good.py", small_config=True)

        def test_bad(parity):
            parity.check("bad.py")

        def test_input(parity):
            parity.check("nowhere.py")

        def test_nothing(parity):
            parity.check("none.py")

        def test_asked(parity):
            parity.check("good.py", stage=["cache"], seed=2)

        def test_raises(parity):
            with pytest.raises(AssertionError, match="behaves as if the activation were silu"):
                parity.check("bad.py")
        """,
    )
    result = run(project)
    result.assert_outcomes(passed=3, failed=4)
    result.stdout.fnmatch_lines([*(line.replace("[", "[[]") for line in MESSAGE), "", "test_own.py:10: NotParity"])
    assert "there is no file nowhere.py. Check the path." in result.outlines
    assert "nothing was compared in none.py" in result.outlines
    assert "stage cache was asked for and did not run: there is no `new_cache`" in result.outlines
    assert "  see all    parity check good.py --small-config --stage cache --seed 2" in result.outlines
    assert "pytest_" not in str(result.stdout).partition("FAILURES")[2]
    assert [port for port, _ in found.options()] == ["good.py", "bad.py", "nowhere.py", "none.py", "good.py"]


def test_a_port_that_changed_is_checked_again(project: pytest.Pytester, found: Found) -> None:
    """What is kept belongs to what is in the file."""
    project.makepyfile(
        test_own="""
        from pathlib import Path

        def test_changing(parity):
            parity.check("good.py")
            Path("good.py").write_text("pass")
            parity.check("good.py")
            parity.check("good.py")
        """
    )
    run(project).assert_outcomes(passed=1)
    assert len(found.made) == 2


def test_paths_hold_wherever_pytest_is_started(project: pytest.Pytester, found: Found) -> None:
    """In the working directory, else in pytest's root."""
    project.makepyprojecttoml("[tool.pytest.ini_options]")
    project.makepyfile(**{"below/test_own": "def test_own(parity):\n    parity.check('good.py')"})
    project.chdir()
    (project.path / "below").joinpath("here.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.path / "below")
        run(project, "--rootdir", "..", "--parity-port", "here.py").assert_outcomes(passed=1, failed=5)
        run(project, "--rootdir", "..", "../parity::below/here.py::batch").assert_outcomes(failed=1)
    assert [port for port, _ in found.options()] == ["../good.py", "here.py", "here.py"]


def test_a_mark_makes_a_test_of_each_stage(project: pytest.Pytester, found: Found) -> None:
    """Functions, methods and whole classes; the body runs when the stage has passed."""
    project.makepyfile(
        test_own="""
        import pytest

        @pytest.mark.parity("bad.py")
        def test_bad(parity_stage):
            assert parity_stage in ("weights", "precision", "batch")

        @pytest.mark.parity("good.py", stages=["forward", "cache"], seed=1)
        def test_some():
            pass

        @pytest.mark.parity("good.py")
        class TestAll:
            def test_one(self):
                pass
        """
    )
    result = run(project, "-v", "--strict-markers")
    told = [line.rpartition(" [")[0].split() for line in lines(result, "test_own.py::")]
    assert {(words[0].partition("::")[2], words[1]) for words in told} == {
        ("test_bad[weights]", "PASSED"),
        ("test_bad[forward]", "FAILED"),
        ("test_bad[precision]", "PASSED"),
        ("test_bad[cache]", "SKIPPED"),
        ("test_bad[batch]", "PASSED"),
        ("test_some[forward]", "PASSED"),
        ("test_some[cache]", "FAILED"),
        ("TestAll::test_one[weights]", "PASSED"),
        ("TestAll::test_one[forward]", "PASSED"),
        ("TestAll::test_one[precision]", "PASSED"),
        ("TestAll::test_one[cache]", "SKIPPED"),
        ("TestAll::test_one[batch]", "PASSED"),
    }
    assert found.options() == [
        ("bad.py", {"small_config": True}),
        ("good.py", {"small_config": True, "seed": 1, "stage": ("forward", "cache")}),
        ("good.py", {"small_config": True}),
    ]


def test_a_mark_never_passes_unchecked(project: pytest.Pytester) -> None:
    """Without a port, on what pytest cannot parametrise, or the fixture without the mark."""
    project.makepyfile(
        test_bare="""
        import pytest

        @pytest.mark.parity
        def test_bare():
            pass
        """,
        test_unit="""
        import unittest
        import pytest

        @pytest.mark.parity("good.py")
        class TestUnit(unittest.TestCase):
            def test_one(self):
                pass

        def test_no_mark(parity_stage):
            pass
        """,
    )
    result = run(project, "--continue-on-collection-errors")
    result.assert_outcomes(errors=3)
    assert "test_bare: the marker parity takes one port. Write parity(PORT, ...)." in result.outlines
    line = 'there is no stage to test. Mark a function, not of unittest, with @pytest.mark.parity("my_port.py").'
    assert result.outlines.count(line) == 2


def test_a_failure_without_a_finding_names_the_boundary(project: pytest.Pytester, found: Found) -> None:
    """Of the stage that failed, wrong by itself before what only came in."""
    came_in = Boundary("forward", "lm_head", "lm_head", "head", "output", 1.0, 1.0, 0.0, 0.5)
    wrong = replace(came_in, name="logits", own=0.25)
    found.reports["bad.py"] = replace(FAILING, findings=(), boundaries=(came_in, wrong))
    result = run(project, "--parity-port", "bad.py")
    assert "stage forward: logits differs, and 1 more" in result.outlines
    assert "  apart      max=1.0e+00, mean=1.0e+00, rel=2.5e-01" in result.outlines


def test_a_stage_shows_its_own_finding(project: pytest.Pytester, found: Found) -> None:
    """Not the first of all, which is another stage's to tell."""
    both = tuple(replace(stage, verdict="fail") if stage.name == "batch" else stage for stage in FAILING.stages)
    padded = replace(FINDING, stage="batch", title="padding shows", cause="padding")
    found.reports["bad.py"] = replace(FAILING, stages=both, findings=(FINDING, padded))
    result = run(project, "--parity-port", "bad.py")
    assert [line.partition(" - ")[::2] for line in lines(result, "FAILED")] == [
        ("FAILED parity::bad.py::forward", FINDING.title),
        ("FAILED parity::bad.py::batch", "padding shows"),
    ]


def test_junit_xml_holds_the_message(project: pytest.Pytester) -> None:
    """For those who read the file alone."""
    run(project, *BOTH, "--junitxml=report.xml")
    cases = ElementTree.parse(project.path / "report.xml").getroot().iter("testcase")
    failure = next(case.find("failure") for case in cases if case.get("name") == "forward" and len(case))
    assert failure is not None
    assert failure.get("message") == MESSAGE[0]
    assert failure.text == "\n".join(MESSAGE)


def test_it_can_be_left_out(project: pytest.Pytester) -> None:
    """`-p no:parity`."""
    project.makepyfile(test_own="def test_own(): pass\n\ndef test_fixture(parity): pass")
    result = run(project, "-p", "no:parity")
    result.assert_outcomes(passed=1, errors=1)
    assert "E       fixture 'parity' not found" in result.outlines


def test_it_costs_other_projects_nothing() -> None:
    """It is loaded in every run; torch and the rest come with the first check."""
    heavy = "{'torch', 'transformers', 'numpy', 'rich', 'typer', 'filelock', 'huggingface_hub'}"
    code = f"import sys, parity.pytest_plugin; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_process_makes_what_is_planned_rather_than_wait(
    tmp_path: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process is at the first port, this one makes the second; each check is made once."""
    first, second = (Wanted("check", name) for name in ("good.py", "bad.py"))
    ours, theirs = Checks(tmp_path), Checks(tmp_path)
    ours.planned = (first, second)
    lock = pytest_checks._lock(tmp_path / first.key)
    lock.acquire()

    def run(call: Wanted) -> Report | ParityError:
        """During the second check the other process comes to the end of the first."""
        if call is second:
            lock.release()
            assert theirs.report(first) == PASSING
        return found(call)

    monkeypatch.setattr(pytest_checks, "_run", run)
    assert (ours.report(first), ours.report(second), theirs.report(second)) == (PASSING, FAILING, FAILING)
    assert [call.port for call in found.made] == ["good.py", "bad.py"]
