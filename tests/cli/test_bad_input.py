"""Bad input: one line on stderr that says what to do next, exit code 2, never a traceback, never a pass.

Faults that a run can still tell apart from the reference are findings instead, with exit code 1.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Port = Callable[..., Path]


Run = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *wanted: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with all that is wanted in it."""
    code, out, err = result
    assert code == 2, (out, err)
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("parity: ")
    assert "Traceback" not in err
    for text in wanted:
        assert text in err, err


def found(result: tuple[int, str, str]) -> dict[str, object]:
    """Exit code 1; the first finding."""
    code, out, err = result
    assert code == 1, (out, err)
    assert "Traceback" not in err
    first: dict[str, object] = json.loads(out)["findings"][0]
    return first


GEMMA = ("--small-config", "--format", "json")


def test_unknown_port(run: Run) -> None:
    """The nearest names are suggested."""
    refused(run("check", "gema3", "--small-config"), "no port 'gema3'", "Did you mean gemma3 or gemma4?")


def test_missing_file(run: Run) -> None:
    """A path that is not there."""
    refused(run("check", "nowhere/port.py"), "there is no file nowhere/port.py", "Check the path")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("import nothing_of_this_name\n", ("ModuleNotFoundError", "line 1: import nothing_of_this_name")),
        ("x = 1\ndef f(:\n", ("SyntaxError", "line 2")),
        ("x = 1\n\n1 / 0\n", ("ZeroDivisionError", "line 3: 1 / 0")),
    ],
)
def test_port_that_does_not_import(run: Run, tmp_path: Path, text: str, wanted: tuple[str, ...]) -> None:
    """Its own error and line are shown."""
    path = tmp_path / "port.py"
    path.write_text(text)
    refused(run("check", path), "does not import", str(path), *wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "has no Config.from_hf"),
        ("class Config:\n    from_hf = dict\n", "has no Model"),
        ("class Config:\n    from_hf = dict\nModel = dict\n", "has neither WEIGHTS nor load_weights"),
    ],
)
def test_port_that_lacks_a_name(run: Run, tmp_path: Path, text: str, wanted: str) -> None:
    """Each name of the contract is missed by name."""
    path = tmp_path / "port.py"
    path.write_text(text)
    refused(run("check", path), wanted, "docs/writing-a-port.md")


def test_namespace_that_is_not_there(run: Run, root: Path) -> None:
    """port.py:Name needs Name."""
    refused(run("check", f"{root}/models/gemma3.py:Nothing"), "has no 'Nothing'")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, "there is no config"),
        ("{not json", "is not JSON"),
        ("[1]", "holds a list"),
        ("{}", "has no model_type"),
        ('{"model_type": "gemma33"}', "Did you mean"),
        ('{"model_type": "clip_vision_model"}', "no causal language model"),
        ('{"model_type": "llama"}', "implements gemma3_text, gemma3"),
        ('{"model_type": "gemma3_text", "hidden_size": "wide"}', "rejects the config"),
        ('{"model_type": "gemma3_text", "hidden_size": 10, "num_attention_heads": 3}', "rejects the config"),
    ],
)
def test_config(run: Run, tmp_path: Path, text: str | None, wanted: str) -> None:
    """Missing, not JSON, not an object, of an unknown architecture, or with a value that the reference rejects."""
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    refused(run("check", "gemma3", "--config", path), wanted)


def test_port_without_a_config(run: Run, tmp_path: Path, root: Path) -> None:
    """A file of no known model type needs --config."""
    path = tmp_path / "mine.py"
    path.write_text((root / "models/gemma3.py").read_text().replace("MODEL_TYPES", "NOT_THE_NAME"))
    refused(run("check", path, "--small-config"), "--config FILE")


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [("./nowhere", "there is no directory"), (".", "has no config.json"), ("some/model", "cannot be had from the Hub")],
)
def test_reference(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, wanted: str) -> None:
    """A directory that is not there or holds no config, and a Hub id without network."""
    monkeypatch.chdir(tmp_path)
    refused(run("check", "gemma3", "--reference", reference), wanted)


def test_config_refused_by_the_port(run: Run, tmp_path: Path, configs: Path) -> None:
    """Config.from_hf raising is passed on with its words."""
    config = json.loads((configs / "gemma-3-270m.json").read_text()) | {"hidden_activation": "gelu"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    refused(
        run("check", "gemma3", "--config", path, "--small-config"),
        "Config.from_hf refuses",
        "'gelu' is not implemented",
    )


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (
            ('vocab_size=hf["vocab_size"]', 'vocab_size=hf["vocabulary"]'),
            ("Config.from_hf raised KeyError", "vocabulary"),
        ),
        (("self.config = config\n        self.embed", "1 / 0\n        self.embed"), ("Model(config) raised", "1 / 0")),
        (
            ('"model.norm.weight": "norm.weight"', '"model.norm.weight": "norms.weight"'),
            ("'norms.weight'", "norm.weight"),
        ),
        (
            ('"model.norm.weight": "norm.weight"', '"model.norm.weight": "embed_tokens.weight"'),
            ("has shape [56]", "[157, 56]"),
        ),
        (
            ("        x = self.embed_tokens(input_ids)\n", "        x = self.nothing(input_ids)\n"),
            ("forward raised", "nothing"),
        ),
        (
            (
                "        x = self.embed_tokens(input_ids)\n",
                "        input_ids.clamp_(max=5)\n        x = self.embed_tokens(input_ids)\n",
            ),
            ("changes its input_ids in place",),
        ),
        (("        return logits if cap is None", "        return 'text' if cap is None"), ("without logits",)),
    ],
    ids=lambda value: value[0][:30] if isinstance(value, tuple) and value else None,
)
def test_port_that_fails(run: Run, broken_port: Port, edit: tuple[str, str], wanted: tuple[str, ...]) -> None:
    """The port's own error, in one line."""
    refused(run("check", broken_port(edit), "--small-config"), *wanted)


@pytest.mark.parametrize(
    ("loader", "wanted"),
    [
        ("raise RuntimeError('half done')", ("loader raised RuntimeError: half done", "line")),
        ("tensors['model.norm.wait']", ("asks for tensor 'model.norm.wait'", "model.norm.weight")),
    ],
)
def test_loader_that_fails(run: Run, tmp_path: Path, loader: str, wanted: tuple[str, ...]) -> None:
    """A loader that raises, or asks for a tensor that is not there."""
    path = tmp_path / "port.py"
    path.write_text(
        "from parity_models.gemma3 import MODEL_TYPES, Config, Model\n\n\n"
        f"def load_weights(model, tensors):\n    {loader}\n"
    )
    refused(run("check", path, "--small-config"), *wanted)


def test_parameters_left_untouched(run: Run, broken_port: Port) -> None:
    """A finding that names them."""
    port = broken_port(('    "model.norm.weight": "norm.weight",\n', ""))
    first = found(run("check", port, *GEMMA))
    assert first["cause"] == "weights-silently-missing"
    assert "norm.weight was never loaded" in str(first["title"])
    assert first["reference_module"] == "model.norm"


def test_parameters_whose_tensor_was_dropped(run: Run, broken_port: Port) -> None:
    """Dropping a tensor on purpose does not excuse the parameter that it belongs to."""
    port = broken_port(('"model.norm.weight": "norm.weight"', '"model.norm.weight": None'))
    first = found(run("check", port, *GEMMA))
    assert "norm.weight was never loaded" in str(first["title"])


def test_logits_of_the_wrong_shape(run: Run, broken_port: Port) -> None:
    """A finding with both shapes."""
    port = broken_port(("        return logits if cap is None", "        return logits.mT if cap is None"))
    assert found(run("check", port, *GEMMA))["title"] == "logits are [3, 157, 41], expected [B, T, V] = [3, 41, 157]"


def test_nan_names_where_it_first_appears(run: Run, broken_port: Port) -> None:
    """Rows of which nothing is visible, with minus infinity for a mask."""
    port = broken_port(
        ("        causal = (distance >= 0)", "        causal = (distance > 0)"),
        ("torch.finfo(scores.dtype).min)", "float('-inf'))"),
    )
    first = found(run("check", port, *GEMMA))
    assert "NaN or infinity on the port's side, first in layers.0.attention.o_proj (input)" in str(first["title"])
    assert first["reference_module"] == "model.layers.0.self_attn.o_proj"


def test_nan_on_both_sides_is_no_pass(run: Run, tmp_path: Path, configs: Path) -> None:
    """A reference that computes NaN is reported, equal or not."""
    config = json.loads((configs / "gemma-3-270m.json").read_text()) | {"rms_norm_eps": -100.0}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    first = found(run("check", "gemma3", "--config", path, *GEMMA))
    assert "on the reference's side" in str(first["title"])


def test_dropout_left_on(run: Run, broken_port: Port) -> None:
    """Random behaviour in eval mode is a finding, not a difference to be explained."""
    port = broken_port(
        (
            "        context = (weights @ v)",
            "        weights = torch.dropout(weights, 0.1, True)\n        context = (weights @ v)",
        )
    )
    first = found(run("check", port, *GEMMA))
    assert "other results on the same input" in str(first["title"])
    assert str(first["port_module"]).startswith("layers.0.attention")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(run: Run, tmp_path: Path) -> None:
    """A directory that is read-only."""
    tmp_path.chmod(0o500)
    refused(run("check", "gemma3", "-o", tmp_path / "report.txt"), "cannot write")


@pytest.mark.parametrize("path", ["nowhere/report.txt", "."])
def test_output_that_cannot_be(run: Run, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is not there, or a directory in place of a file; found out before the work is done."""
    monkeypatch.chdir(tmp_path)
    refused(run("check", "gemma3", "-o", path), "cannot write")


def test_unknown_stage(run: Run) -> None:
    """The stages there are, are named."""
    refused(run("check", "gemma3", "--stage", "logits"), "no stage 'logits'", "weights, forward")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("check",), "Missing"),
        (("chekc",), "No such command 'chekc'"),
        (("check", "gemma3", "--sede", "1"), "No such option"),
        (("check", "gemma3", "--seed", "-1"), "greater than or equal to 0"),
    ],
)
def test_usage(run: Run, arguments: tuple[str, ...], wanted: str) -> None:
    """Wrong words on the command line."""
    refused(run(*arguments), wanted, "See parity --help")


def test_an_unknown_format(run: Run) -> None:
    """Those that there are."""
    refused(run("check", "gemma3", "--format", "yaml"), "there is no format 'yaml'", "Those are text, json")


@pytest.mark.parametrize(
    ("setting", "wanted"), [("stage = 'forward'", "a list"), ("all = 1", "true or false"), ("seed = true", "number")]
)
def test_project_setting_of_the_wrong_type(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, wanted: str
) -> None:
    """The file is blamed, not a flag."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.parity]\n{setting}\n")
    monkeypatch.chdir(tmp_path)
    refused(run("check", "gemma3"), "pyproject.toml: [tool.parity]", wanted)


def test_project_setting_that_is_not_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in [tool.parity] is not passed over."""
    (tmp_path / "pyproject.toml").write_text("[tool.parity]\nsede = 1\n")
    monkeypatch.chdir(tmp_path)
    refused(run("check", "gemma3"), "no setting 'sede'", "seed")
