"""`parity new`: what it writes runs and fails at the marks alone; every format; input that is not right."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """Qwen3 begun without its own port: what is known of it, and its text."""
    from parity.new.start import start

    return start("my_qwen", "qwen3-0.6b", without=["qwen3"], output=tmp_path_factory.mktemp("new") / "my_qwen.py")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, begun: tuple[Any, str]) -> None:
    """The same again, without the work."""
    import parity.new.start as module

    monkeypatch.setattr(module, "start", lambda *_, **__: begun)


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    for text in wanted:
        assert text in err


def test_findings_are_at_the_marks_alone(begun: tuple[Any, str], run: Run, tmp_path: Path) -> None:
    """The file runs under check, and fails where it says that it differs."""
    found, text = begun
    assert found.nearest == "llama3"
    file = tmp_path / "my_qwen.py"
    file.write_text(text)
    code, out, err = run("check", file, "--small-config", "--format", "json")
    assert (code, err) == (1, "")
    told = json.loads(out)["findings"]
    lines = text.splitlines()
    marked = {mark.number: mark.line for mark in found.marks}
    assert len(told) == len(found.findings) == found.at_marks == 2
    assert {each.mark for each in found.findings} == set(marked) == {1, 2}
    for number, line in marked.items():
        above = "\n".join(lines[: line - 1])
        assert re.search(rf"# DIFFERS {number}: [^\n]*(\n *# [^\n]*)*$", above), number
    assert lines[marked[2] - 1].strip() == "q, k = rotate(q, cos, sin), rotate(k, cos, sin)"
    assert told[1]["port_source"]["line"] == marked[2]
    assert text.count("DIFFERS") == 3  # two marks, and the head that explains them


def test_marks_name_what_to_read(begun: tuple[Any, str]) -> None:
    """The reference's class, and the line that does it."""
    reads = {read.name: read for mark in begun[0].marks for read in mark.reads}
    read = reads["Qwen3Attention"]
    assert read.file == "transformers/models/qwen3/modeling_qwen3.py"
    assert "_norm(self." in read.text
    import transformers.models.qwen3.modeling_qwen3 as reference

    assert Path(reference.__file__).read_text().splitlines()[read.line - 1].strip() == read.text


def test_mended_at_the_marks_it_passes(begun: tuple[Any, str], run: Run, tmp_path: Path) -> None:
    """What is written at the marks is all that is missing."""
    from bench.finished import FINISHED
    from bench.new import finished

    file = tmp_path / "my_qwen.py"
    file.write_text(finished(begun[1], FINISHED["qwen3"]))
    code, out, _ = run("check", file, "--small-config")
    assert code == 0, out
    assert "DIFFERS 1" not in file.read_text()


@pytest.mark.usefixtures("quick")
def test_every_format_at_once(run: Run, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same marks in all of them, and the file beside them."""
    monkeypatch.chdir(tmp_path)
    files = {form: tmp_path / f"new.{form}" for form in ("json", "markdown", "html")}
    arguments = [part for form, file in files.items() for part in ("--format", f"{form}={file}")]
    code, out, err = run("new", "my_qwen", "--config", "qwen3-0.6b", "--format", "text", *arguments)
    assert (code, err) == (0, "")
    told = json.loads(files["json"].read_text())
    jsonschema.validate(told, json.loads((root / "parity" / "report" / "new-1.json").read_text()))
    assert (told["schema"], told["at_marks"], len(told["marks"])) == (1, 2, 2)
    assert (tmp_path / "my_qwen.py").read_text().count("# DIFFERS") == 2
    assert "2 findings, all at marks" in out
    for text in (out, files["markdown"].read_text(), files["html"].read_text()):
        assert "modeling_qwen3.py:244" in text
        assert "llama3" in text


@pytest.mark.usefixtures("quick")
def test_no_file_is_written_over(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the default one nor that of -o."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.py"
    mine.write_text("mine\n")
    refused(run("new", "mine", "--config", "qwen3-0.6b"), "mine.py exists already", "nothing is written over")
    refused(run("new", "other", "--config", "qwen3-0.6b", "-o", mine), "exists already")
    assert mine.read_text() == "mine\n"
    assert [each.name for each in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("my-port", "--config", "qwen3-4b"), ("'my-port' is no name of a Python module", "Take one such as my_port")),
        (("mine",), ("Missing option '--config'",)),
        (("mine", "--config", "nowhere.json"), ("there is no config nowhere.json",)),
        (("mine", "--config", "qwen3-4b", "--without", "nono"), ("there is no port 'nono' to leave out",)),
        (("mine", "--config", "qwen3-4b", "--from", "nono"), ("nono cannot be begun with: there is no port 'nono'",)),
        (("mine", "--config", "qwen3-4b", "--from", "sarvam"), ("sarvam cannot be begun with", "has no causal")),
        (
            ("mine", "--config", "sarvam-30b"),
            ("transformers", "has no causal language model of model_type 'sarvam_moe'"),
        ),
        (("mine", "--config", "qwen3-4b", "-o", "no/where.py"), ("cannot write no/where.py",)),
        (("mine", "--config", "qwen3-4b", "--format", "svg"), ("there is no format 'svg' of a start",)),
    ],
)
def test_bad_input(
    run: Run, arguments: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each, and no file."""
    monkeypatch.chdir(tmp_path)
    refused(run("new", *arguments), *wanted)
    assert not list(tmp_path.iterdir())


def test_the_text_part_of_a_larger_config(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used, and said; a port that is named is begun with."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("new", "mine", "--config", "qwen3.5-0.8b", "--from", "qwen3_5", "--format", "json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["notes"] == ["the text part of qwen3.5-0.8b.json is used, the rest left out"]
    assert (told["nearest"], told["verdict"], told["marks"]) == ("qwen3_5", "pass", [])
    assert (tmp_path / "mine.py").read_text().startswith('"""mine, from scratch: begun with qwen3_5.py')
