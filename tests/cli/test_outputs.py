"""`--format F[=FILE]` of every command: several at once, where each goes, and what is refused before the work."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
SMALL = ("check", "gemma3", "--small-config", "--stage", "weights")  # the quickest check


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("PARITY_FORMAT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with all that is wanted in it."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    for each in wanted:
        assert each in err, err


def test_all_at_once(run: Run, elsewhere: Path) -> None:
    """Each to its file, whole, and one to stdout; nothing else is left behind."""
    forms = ("json", "junit", "github", "markdown", "html")
    code, out, err = run(
        *SMALL, "--format", "text", *(part for form in forms for part in ("--format", f"{form}=r.{form}"))
    )
    assert (code, err) == (0, "")
    assert out.startswith("PASS  gemma3")
    assert sorted(path.name for path in elsewhere.iterdir()) == sorted(f"r.{form}" for form in forms)
    assert json.loads(Path("r.json").read_text())["verdict"] == "pass"
    assert ET.parse("r.junit").getroot().tag == "testsuites"
    assert Path("r.github").read_text().startswith("::notice title=Parity%3A pass::gemma3")
    assert Path("r.markdown").read_text().startswith("# PASS: gemma3")
    assert Path("r.html").read_text().startswith("<!doctype html>")


def test_files_alone_leave_stdout_empty(run: Run) -> None:
    """The exit code tells the verdict; -o is the file of the format that names none."""
    assert run(*SMALL, "--format", "text=report.txt") == (0, "", "")
    assert run(*SMALL, "--format", "json=report.json", "--format", "text", "-o", "other.txt") == (0, "", "")
    assert Path("other.txt").read_text() == Path("report.txt").read_text()
    assert run(*SMALL)[1] == Path("report.txt").read_text()


def test_a_file_is_plain_and_whole(run: Run) -> None:
    """--all counts in files too, and a file in whose name there is an equals sign is one."""
    run("check", "gemma3", "--small-config", "--stage", "forward", "--format", "text=a=b.txt", "--all")
    text = Path("a=b.txt").read_text()
    assert "[OK]   model.layers.0.mlp.gate_proj: max=" in text
    assert "\x1b[" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--format", "jnit"],
            "there is no format 'jnit' of a check. Those are text, json, junit, github, markdown, html.",
        ),
        (["--format", "junit="], "--format junit= names no file"),
        (["--format", "text", "--format", "json"], "text and json both go to stdout"),
        (["--format", "text", "--format", "json", "-o", "x"], "text and json both go to x"),
        (["--format", "json=a", "-o", "b"], "-o b: every format has a file already"),
        (["--format", "json=a", "--format", "html=./a"], "two formats go to a"),
        (["--format", "json=link", "--format", "html=kept"], "two formats go to kept"),
        (["--format", "json=hard", "--format", "html=kept"], "two formats go to kept"),
        (["--format", "json=a", "--format", "html=none/../a"], "two formats go to none/../a"),
        (["--format", "json=a", "--format", "text", "-o", "a"], "two formats go to a"),
        (["--format", "json=none/a"], "cannot write none/a"),
        (["--format", "text", "--format", "junit=."], "cannot write ."),
    ],
)
def test_refused_before_the_work(options: list[str], said: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit code 2, no file touched, and not even torch imported."""
    Path("kept").write_text("kept")
    Path("link").symlink_to("kept")
    Path("hard").hardlink_to("kept")
    from parity import pipeline

    monkeypatch.setattr(pipeline, "check", lambda *_, **__: pytest.fail("it went to work"))
    refused(run(*SMALL, *options), said)
    assert sorted(path.name for path in Path().iterdir()) == ["hard", "kept", "link"]
    assert Path("kept").read_text() == "kept"


@pytest.mark.parametrize(
    ("command", "form", "said"),
    [
        (("audit", "gemma3"), "junit", "there is no format 'junit' of an audit. Those are text, json."),
        (("generate",), "github", "there is no format 'github' of a generation. Those are text, json, markdown, html."),
    ],
)
def test_formats_that_a_command_has_not(command: tuple[str, ...], form: str, said: str, run: Run) -> None:
    """Named, with those that it has."""
    refused(run(*command, "--format", form), said)


def test_nothing_is_written_if_one_cannot_be_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All formats are made before any file is touched."""
    from parity.report import junit

    monkeypatch.setattr(junit, "render", lambda _: 1 / 0)
    code, out, _ = run(*SMALL, "--format", "text", "--format", "json=report.json", "--format", "junit=report.xml")
    assert (code, out) == (3, "")
    assert not list(Path().iterdir())


def test_environment_and_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag before PARITY_FORMAT before [tool.parity], each of them several formats."""
    Path("pyproject.toml").write_text('[tool.parity]\nformat = ["json", "junit=set.xml"]\n')
    assert json.loads(run(*SMALL)[1])["verdict"] == "pass"
    assert Path("set.xml").is_file()
    monkeypatch.setenv("PARITY_FORMAT", "text markdown=env.md")
    assert run(*SMALL)[1].startswith("PASS")
    assert Path("env.md").is_file()
    assert run(*SMALL, "--format", "github")[1].startswith("::notice")
    monkeypatch.setenv("PARITY_FORMAT", "text json")
    refused(run(*SMALL), "text and json both go to stdout")
    monkeypatch.delenv("PARITY_FORMAT")
    Path("pyproject.toml").write_text('[tool.parity]\nformat = "markdown"\n')
    assert run(*SMALL)[1].startswith("# PASS")
    for value, said in (('"jsn"', "there is no format 'jsn'"), ("3", "It must be a string or a list"), ("[3]", "'3'")):
        Path("pyproject.toml").write_text(f"[tool.parity]\nformat = {value}\n")
        refused(run(*SMALL), said)


def test_a_project_s_formats_reach_the_commands_that_have_them(run: Run) -> None:
    """An audit of a project that wants JUnit files of its checks is told in text; a misspelt format is refused."""
    Path("pyproject.toml").write_text('[tool.parity]\nformat = ["junit=report.xml", "text=told.txt"]\n')
    assert run("generate", "--max-new-tokens", "2") == (0, "", "")
    assert "2 new tokens by gemma3" in Path("told.txt").read_text()
    Path("pyproject.toml").write_text('[tool.parity]\nformat = "junit=report.xml"\n')
    assert "2 new tokens by gemma3" in run("generate", "--max-new-tokens", "2")[1]
    Path("pyproject.toml").write_text('[tool.parity]\nformat = "jnit=report.xml"\n')
    refused(run("generate"), "there is no format 'jnit' of a generation")


def test_a_generation_in_every_format(run: Run) -> None:
    """Text on stdout as before, the rest in files."""
    forms = [f"--format={form}=g.{form}" for form in ("json", "markdown", "html")]
    code, out, _ = run("generate", "--compare-hf", "--max-new-tokens", "4", "--format", "text", *forms)
    assert code == 0
    assert out.startswith("PASS  gemma3 against Gemma3ForCausalLM: the same 4 new tokens")
    assert json.loads(Path("g.json").read_text())["verdict"] == "pass"
    assert Path("g.markdown").read_text().startswith("# PASS: gemma3 against Gemma3ForCausalLM: the same 4 new tokens")
    assert "the same 4 new tokens" in Path("g.html").read_text()


def test_a_pipe_stays_one(run: Run) -> None:
    """What is no file is written to, not replaced by one."""
    os.mkfifo("pipe")
    reader = subprocess.Popen([sys.executable, "-c", "print(open('pipe').read())"], stdout=subprocess.PIPE, text=True)
    assert run(*SMALL, "-o", "pipe") == (0, "", "")
    assert reader.communicate(timeout=60)[0].startswith("PASS  gemma3")
    assert Path("pipe").is_fifo()


def test_a_reader_that_has_seen_enough(root: Path) -> None:
    """As `parity explain ... | head -0`: no traceback, no 1, which would be a divergence."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "parity", "explain", "norm-eps"], stdout=nobody, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")
