"""`parity card`: every format, and what it says to input that is not right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path, configs: Path) -> Callable[..., Path]:
    """Write a released config with changes; None drops a field."""

    def write(name: str = "qwen3-0.6b", **changes: Any) -> Path:
        changed = json.loads((configs / f"{name}.json").read_text()) | changes
        path = tmp_path / "config.json"
        path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
        return path

    return write


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    for text in wanted:
        assert text in err


def test_every_format_at_once(run: Run, tmp_path: Path, root: Path) -> None:
    """The same figures in all of them, and the chart is a picture."""
    files = {form: tmp_path / f"card.{form}" for form in ("json", "markdown", "html", "svg")}
    arguments = [part for form, file in files.items() for part in ("--format", f"{form}={file}")]
    code, out, err = run("card", "gemma3", "--format", "text", *arguments, "--context", "16k", "--batch", 8)
    assert (code, err) == (0, "")
    assert "268,098,176" in out
    assert "18,432 B (18 KiB)" in out
    assert "equal to the formula, byte by byte" in out
    told = json.loads(files["json"].read_text())
    schema = json.loads((root / "parity" / "report" / "card-1.json").read_text())
    jsonschema.validate(told, schema)
    assert told["schema"] == 1
    assert told["parameters"]["total"] == told["parameters"]["active"] == 268_098_176
    assert told["kv_cache"]["bytes_per_token"] == 18 * 1024
    assert told["kv_cache"]["bytes_per_token_saturated"] == 3 * 1024
    assert told["kv_cache"]["measured"]["agree"] is True
    assert told["memory"]["cache"] == 8 * (16 * 1024 * 3 * 1024 + 511 * 15 * 1024)
    assert told["memory"]["weights"] == 2 * 268_098_176
    for form in ("markdown", "html"):
        text = files[form].read_text()
        assert "268,098,176" in text
        assert "18,432 B (18 KiB)" in text
    assert ElementTree.parse(files["svg"]).getroot().tag.endswith("svg")


def test_the_dtype_of_the_cache_and_of_the_weights(run: Run, config: Callable[..., Path]) -> None:
    """Each has its own."""
    _, out, _ = run("card", config(), "--dtype", "float8", "--weights-dtype", "int4", "--format", "json")
    told = json.loads(out)
    assert told["kv_cache"]["in_dtype"]["bytes_per_token"] == 56 * 1024
    assert told["kv_cache"]["bytes_per_token"] == 112 * 1024
    assert told["memory"]["weights"] == 596_049_920 // 2


def test_a_context_beyond_the_maximum_is_said_and_computed(run: Run, config: Callable[..., Path]) -> None:
    """Not refused."""
    code, out, _ = run("card", config(), "--context", "64k", "--format", "json")
    told = json.loads(out)
    assert code == 0
    assert told["notes"] == ["65,536 tokens are more than the 40,960 that it is made for; computed all the same"]
    assert told["memory"]["cache"] == 64 * 1024 * 112 * 1024


def test_the_text_part_of_a_larger_config(run: Run) -> None:
    """Said, and used."""
    code, out, _ = run("card", "qwen3.5-0.8b", "--format", "json")
    told = json.loads(out)
    assert code == 0
    assert told["model_type"] == "qwen3_5_text"
    assert "the text part of qwen3.5-0.8b.json is told; the rest is left out" in told["notes"]


def test_an_architecture_that_nobody_knows(run: Run, config: Callable[..., Path]) -> None:
    """What fields say is told, the rest is unknown."""
    code, out, _ = run("card", config(model_type="brand_new"), "--format", "json")
    told = json.loads(out)
    facts = {fact["name"]: fact["value"] for fact in told["facts"]}
    assert code == 0
    assert told["reference"] is None
    assert told["kv_cache"]["bytes_per_token"] == 112 * 1024
    assert facts["attention"] == "GQA"
    assert facts["norm"] is facts["placement"] is facts["q/k norm"] is facts["biases"] is None
    assert "no causal language model of model_type 'brand_new'" in told["notes"][0]
    assert {field["effect"] for field in told["fields"]} <= {"unknown", "silent", "off"}


def test_a_layer_that_nobody_knows(run: Run, config: Callable[..., Path]) -> None:
    """Counted as nothing, and said; the others count."""
    kinds = ["full_attention"] * 26 + ["wavelet"] * 2
    code, out, _ = run("card", config(model_type="brand_new", layer_types=kinds), "--format", "json")
    told = json.loads(out)
    assert code == 0
    assert told["kv_cache"]["bytes_per_token"] == 26 * 4 * 1024
    assert [(kind["name"], len(kind["layers"])) for kind in told["kv_cache"]["kinds"]] == [
        ("full attention", 26), ("unknown", 2),
    ]  # fmt: skip
    assert any("'wavelet'" in note for note in told["notes"])


def test_no_model_type(run: Run, config: Callable[..., Path]) -> None:
    """One line with a next step."""
    refused(run("card", config(model_type=None)), "the config has no model_type", 'Add "model_type"')


def test_fields_that_contradict_each_other(run: Run, config: Callable[..., Path]) -> None:
    """Nothing is written."""
    output = config().parent / "card.json"
    result = run("card", config(num_key_value_heads=3), "--format", f"json={output}")
    refused(result, "16 heads cannot share 3 key-value heads", "Make num_attention_heads a multiple of")
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("card", "qwen-3-4b"), ("'qwen-3-4b'", "Did you mean qwen3-4b")),
        (("card", "nowhere/config.json"), ("there is no config nowhere/config.json",)),
        (("card", "gemma3", "--context", "many"), ("a context of 'many' is no length",)),
        (("card", "gemma3", "--context", "0"), ("a context of '0' is no length",)),
        (("card", "gemma3", "--dtype", "float7"), ("there is no dtype 'float7'", "Those are float32")),
        (("card", "gemma3", "--format", "junit"), ("there is no format 'junit' of a card",)),
    ],
)
def test_bad_input(run: Run, arguments: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """One line each."""
    refused(run(*arguments), *wanted)


def test_broken_json(run: Run, tmp_path: Path) -> None:
    """The file is named."""
    path = tmp_path / "config.json"
    path.write_text("{")
    refused(run("card", path), f"{path} is not JSON")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"rms_norm_eps": "small"}, ("rms_norm_eps is 'small', which is no number",)),
        ({"hidden_size": "many"}, ("hidden_size is 'many', which is no count",)),
        ({"kv_lora_rank": -1}, ("kv_lora_rank is -1, which is no size",)),
        ({"num_hidden_layers": 10**6}, ("num_hidden_layers is 1,000,000",)),
    ],
)
def test_values_that_no_class_has_checked(
    run: Run, config: Callable[..., Path], changes: dict[str, Any], wanted: tuple[str, ...]
) -> None:
    """Of an architecture that nobody knows."""
    refused(run("card", config(model_type="brand_new", **changes)), *wanted)


def test_a_config_that_says_next_to_nothing(run: Run, tmp_path: Path) -> None:
    """A card full of what is unknown, in every format."""
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "brand_new", "rope_scaling": "yarn", "text_config": {"vocab_size": 5}}')
    files = {form: tmp_path / f"card.{form}" for form in ("json", "markdown", "html", "svg")}
    arguments = [part for form, file in files.items() for part in ("--format", f"{form}={file}")]
    code, out, err = run("card", path, "--format", "text", *arguments)
    assert (code, err) == (0, "")
    assert "attention         unknown" in out
    assert json.loads(files["json"].read_text())["kv_cache"]["bytes_per_token"] == 0
    assert "the text part of" in out
