"""`parity check` as a user meets it: streams, exit codes, formats, settings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from parity import __version__

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def schema(root: Path) -> dict[str, object]:
    """Schema 1 of the JSON report."""
    parsed: dict[str, object] = json.loads((root / "parity" / "report" / "schema-1.json").read_text())
    return parsed


def test_pass_in_text(run: Run) -> None:
    """The verdict is the first word, the logits the last boundary, and stderr is quiet off a terminal."""
    code, out, err = run("check", "gemma3", "--small-config")
    assert code == 0
    assert out.startswith("PASS  gemma3 against Gemma3ForCausalLM: 215 boundaries equal")
    assert "[OK]   model.layers.0: max=" in out
    assert "[OK]   logits: max=" in out
    assert "model.layers.0.mlp.gate_proj" not in out
    assert "[OK]   precision: " in out
    assert "[OK]   cache: prefill 4, then one token at a time: max=" in out
    assert "stage gradient: on request: --gradient" in out
    assert err == ""
    assert "\x1b[" not in out


def test_all_shows_every_boundary(run: Run) -> None:
    """Each boundary has a line of its own, in the order data flows."""
    _, out, _ = run("check", "gemma3", "--small-config", "--all")
    forward, others = out.split("\nOther ways to run it\n")
    lines = [line for line in forward.splitlines() if line.startswith("[OK]")]
    assert len(lines) == 215
    assert sum(line.startswith("[OK]   bfloat16: ") for line in others.splitlines()) == 214
    order = [line.split(": ")[0].removeprefix("[OK]   ") for line in lines]
    flow = ["model.embed_tokens", "model.layers.0.input_layernorm", "model.layers.0.self_attn.q_proj", "model.layers.0"]
    assert [order.index(name) for name in flow] == sorted(order.index(name) for name in flow)


def test_fail_in_text(run: Run, root: Path) -> None:
    """The verdict, then what to look at first with both modules, then the boundaries with inherited ones apart."""
    code, out, _ = run("check", root / "fixtures/bugs/final_norm_eps.py", "--small-config")
    assert code == 1
    verdict, circumstances, coverage, _, rest = out.split("\n", 4)
    assert verdict.startswith("FAIL")
    assert "transformers" in circumstances
    assert coverage.startswith("      coverage: sees ")
    look, _, table = rest.partition("Boundaries in the order data flows")
    assert look.startswith("Look first at")
    assert "port       norm\n" in look
    assert "reference  model.norm\n" in look
    assert "[DIFF] model.norm: max=" in table
    assert "[diff] logits: " in table
    assert "inherited" in table.partition("[diff] logits")[2]


@pytest.mark.parametrize("port", ["gemma3", "fixtures/bugs/tiled_kv_heads.py", "fixtures/bugs/norm_never_loaded.py"])
def test_json_validates(port: str, run: Run, root: Path, schema: dict[str, object]) -> None:
    """Schema 1, with nothing but JSON on stdout."""
    code, out, _ = run("check", root / port if "/" in port else port, "--small-config", "--format", "json")
    document = json.loads(out)
    jsonschema.validate(document, schema)
    assert document["verdict"] == ("pass" if code == 0 else "fail")
    assert document["versions"]["parity"] == __version__
    verdicts = {stage["name"]: stage["verdict"] for stage in document["stages"]}
    assert verdicts["gradient"] == "not_run"
    assert verdicts["precision"] == verdicts["cache"] == verdicts["batch"] == "pass"


def test_json_of_a_pass_is_complete(run: Run) -> None:
    """Every boundary compared and below 1e-12, nothing unmatched."""
    _, out, _ = run("check", "gemma3", "--small-config", "--format", "json")
    document = json.loads(out)
    assert document["unmatched"] == {"reference": [], "port": [], "tensors": []}
    assert sum(boundary["stage"] == "forward" for boundary in document["boundaries"]) == 215
    assert {boundary["stage"] for boundary in document["boundaries"]} == {"forward", "precision", "cache", "batch"}
    for boundary in document["boundaries"]:
        assert boundary["verdict"] in ("exact", "ok")
        assert boundary["relative"] < 1e-12
        assert boundary["max_abs"] is not None


def test_same_seed_same_report(run: Run, root: Path) -> None:
    """Two runs in two processes with other hash seeds agree to the letter; another seed gives other figures."""
    command = [
        sys.executable,
        "-m",
        "parity",
        "check",
        root / "fixtures/bugs/window_off_by_one.py",
        "--small-config",
        "--all",
    ]
    outputs = [
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert "FAIL" in outputs[0]
    _, other, _ = run("check", root / "fixtures/bugs/window_off_by_one.py", "--small-config", "--seed", "7")
    assert other.splitlines()[3:] != outputs[0].splitlines()[3:]


def test_output_file_is_written_whole(run: Run, tmp_path: Path) -> None:
    """-o takes the report, stdout stays empty, no temporary file is left."""
    target = tmp_path / "report.json"
    code, out, _ = run("check", "gemma3", "--small-config", "--format", "json", "-o", target)
    assert (code, out) == (0, "")
    assert json.loads(target.read_text())["verdict"] == "pass"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_long_names_are_not_cut_when_piped(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off a terminal, a line is as long as it has to be."""
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run("check", root / "fixtures/benign/fewer_modules.py", "--small-config")
    assert max(map(len, out.splitlines())) > 200
    assert "model.layers.{0-5}.post_feedforward_layernorm" in out


def test_one_stage_alone(run: Run) -> None:
    """--stage weights compares no boundary and says so."""
    code, out, _ = run("check", "gemma3", "--small-config", "--stage", "weights")
    assert code == 0
    assert "nothing wrong in weights" in out
    assert "stages forward, precision, cache, batch: not asked for" in out


def test_asking_for_what_cannot_run_is_no_pass(run: Run, root: Path, tmp_path: Path) -> None:
    """A stage that the port lacks leaves the verdict incomplete, if it was asked for by name."""
    port = tmp_path / "port.py"
    text = (root / "models/gemma3.py").read_text()
    port.write_text(text.replace("def new_cache(", "def other_cache("))
    code, out, _ = run("check", port, "--small-config", "--stage", "forward", "--stage", "cache")
    assert code == 2
    assert out.startswith("INCOMPLETE")
    code, out, _ = run("check", port, "--small-config")
    assert code == 0
    assert "stage cache: the port cannot decode: there is no `new_cache`" in out


def test_flag_over_environment_over_project(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyproject.toml gives the default, PARITY_* overrides it, a flag overrides both."""
    (tmp_path / "pyproject.toml").write_text('[tool.parity]\nsmall-config = true\nseed = 3\nformat = "json"\n')
    monkeypatch.chdir(tmp_path)
    assert json.loads(run("check", "gemma3")[1])["seed"] == 3
    monkeypatch.setenv("PARITY_SEED", "4")
    assert json.loads(run("check", "gemma3")[1])["seed"] == 4
    assert json.loads(run("check", "gemma3", "--seed", "5")[1])["seed"] == 5
    full_size = run("check", "gemma3", "--no-small-config", "--config", tmp_path / "none.json")
    assert full_size[0] == 2
    monkeypatch.setenv("PARITY_FORMAT", "text")
    assert run("check", "gemma3")[1].startswith("PASS")


def test_what_a_port_prints_stays_off_stdout(run: Run, tmp_path: Path) -> None:
    """Only the report goes to stdout."""
    path = tmp_path / "noisy.py"
    path.write_text(
        "from parity_models.gemma3 import *\nfrom parity_models.gemma3 import MODEL_TYPES, WEIGHTS\nprint('hello')\n"
    )
    _, out, err = run("check", path, "--small-config", "--format", "json")
    assert json.loads(out)["verdict"] == "pass"
    assert "hello" in err


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"]])
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    """Help comes at once."""
    code = (
        "import sys; sys.argv = ['parity', *sys.argv[1:]]\n"
        "from parity import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'rich', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_python_api_is_the_same_line() -> None:
    """parity.check takes a module as well as a name."""
    from parity_models import gemma3

    import parity

    report = parity.check(gemma3, small_config=True)
    assert isinstance(report, parity.Report)
    assert report.verdict == "pass"
    assert report.exit_code == 0
