"""`parity audit` as a user meets it: streams, formats, what the next check says, and bad input."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from parity import audits
from parity.explain import ground, trace

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny GPT-2, few mutations, and a cache of its own."""
    whole, every = ground.propose, ground.configs.config_mutations

    def few(*arguments: Any) -> Iterator[Any]:
        return (mutation for mutation in whole(*arguments) if mutation.cause == "final-norm")

    def fields(*arguments: Any) -> list[Any]:
        return [mutation for mutation in every(*arguments) if mutation.field in ("n_ctx", "layer_norm_epsilon")]

    monkeypatch.setattr(ground, "propose", few)
    monkeypatch.setattr(ground.configs, "config_mutations", fields)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = {"n_embd": 48, "n_head": 4, "n_layer": 1, "n_positions": 32, "n_ctx": 32, "vocab_size": 53}
    path = tmp_path / "config.json"
    real = json.loads((configs / "gpt2.json").read_text())
    path.write_text(json.dumps(real | sizes | {"bos_token_id": 1, "eos_token_id": 1}))
    return path


def test_text_then_the_next_check_tells_it(run: Run, config: Path) -> None:
    """Exit code 0, quiet off a terminal; before it a check knows nothing, after it the figures of the audit."""
    _, before, _ = run("check", "gpt2", "--config", config, "--small-config")
    assert "coverage: not audited; parity audit gpt2 says" in before
    code, out, err = run("audit", "gpt2", "--config", config, "--small-config")
    assert (code, err) == (0, "")
    assert out.startswith("SEES  a check of gpt2 against GPT2LMHeadModel notices ")
    assert "\x1b[" not in out
    score = out.partition("notices ")[2].partition(" changes")[0]
    code, after, _ = run("check", "gpt2", "--config", config, "--small-config", "--format", "json")
    mutations = json.loads(after)["coverage"]["mutations"]
    assert f"{mutations['caught']:,} of {mutations['applicable']:,}" == score


def test_json_to_a_file(run: Run, config: Path, root: Path, tmp_path: Path) -> None:
    """Schema 1, and nothing on stdout; the seed is told."""
    arguments = ("audit", "gpt2", "--config", config, "--seed", 3, "--format", "json", "-o", tmp_path / "audit.json")
    assert run(*arguments) == (0, "", "")
    document = json.loads((tmp_path / "audit.json").read_text())
    jsonschema.validate(document, json.loads((root / "parity" / "report" / "audit-1.json").read_text()))
    assert (document["seed"], document["port"], document["reference"]) == (3, "gpt2", "GPT2LMHeadModel")
    assert {"name": "n_ctx", "verdict": "no_effect", "reason": "no effect in the reference"} in document["fields"]


def test_coverage_of_a_check_that_comes_with_parity(run: Run, root: Path) -> None:
    """A port with a fault on a shipped config is told what the check is worth, too; the schema holds."""
    _, out, _ = run("check", root / "fixtures/bugs/final_norm_eps.py", "--small-config", "--format", "json")
    document = json.loads(out)
    jsonschema.validate(document, json.loads((root / "parity" / "report" / "schema-1.json").read_text()))
    assert document["coverage"]["mutations"]["applicable"] > 1000
    assert "rms_norm_eps" in document["coverage"]["fields"]["seen"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("gema3",), "Did you mean gemma3 or gemma4?"),
        (("nowhere.py",), "there is no file nowhere.py"),
        (("gpt2", "--config", "nowhere.json"), "there is no config nowhere.json"),
        (("gpt2", "--seed", "-1"), "--seed"),
        (("gpt2", "--format", "yaml"), "there is no format 'yaml'"),
        (("gpt2", "--stage", "forward"), "--stage"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], wanted: str, run: Run) -> None:
    """One line that says what to do next, exit code 2."""
    code, out, err = run("audit", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("parity: ")
    assert wanted in err


def test_a_file_that_cannot_be_written_is_found_out_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for that."""
    monkeypatch.setattr(audits, "audit", lambda *_, **__: pytest.fail("the audit was run"))
    code, out, err = run("audit", "gpt2", "--output", "nowhere/audit.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "cannot write nowhere/audit.txt" in err


def test_a_model_too_large_to_be_recorded(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in one line, before a thousand runs of it are tried."""
    monkeypatch.setattr(trace, "_MOST_BYTES", 1 << 10)
    code, out, err = run("audit", "gpt2", "--config", config, "--no-small-config")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "too large to be run a thousand times" in err
    assert "Use --small-config." in err
