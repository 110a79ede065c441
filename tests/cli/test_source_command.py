"""`parity source`: finding a module, the overview, and what is said about a module that is not there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.pair.reference import VERSION

Run = Callable[..., tuple[int, str, str]]


def test_overview_folds_layers(run: Run) -> None:
    """One line for each module, whatever the number of layers; lists of modules are left out."""
    code, out, err = run("source", "gemma3")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[3:]]
    names = [row[0] for row in rows]
    assert names[:2] == ["(the", "model"]
    assert len(names) == len(set(names)) < 30
    assert ["model.layers.{0-5}.self_attn", "Gemma3Attention"] in [row[:2] for row in rows]
    assert all(re.fullmatch(r"(transformers|torch)/[\w/]+\.py:\d+", row[-1]) for row in rows)
    assert "model.layers" not in names


@pytest.mark.parametrize(
    ("module", "heading"),
    [
        ("model.layers.1.self_attn", "model.layers.1.self_attn: Gemma3Attention"),
        ("model.layers.{}.self_attn", "model.layers.{0-5}.self_attn: Gemma3Attention"),
        ("self_attn", "model.layers.{0-5}.self_attn: Gemma3Attention"),
        ("mlp.act_fn", "model.layers.{0-5}.mlp.act_fn: GELUTanh"),
        ("layers.0.mlp", "model.layers.0.mlp: Gemma3MLP"),
        ("layers.{}.mlp", "model.layers.{0-5}.mlp: Gemma3MLP"),
        ("norm", "model.norm: Gemma3RMSNorm"),
        ("Gemma3MLP", "model.layers.{0-5}.mlp: Gemma3MLP"),
        ("Gemma3ForCausalLM", "Gemma3ForCausalLM: Gemma3ForCausalLM"),
    ],
)
def test_ways_to_name_a_module(run: Run, module: str, heading: str) -> None:
    """Its name, a template, the end of either, or its class."""
    code, out, err = run("source", "gemma3", module)
    assert (code, err) == (0, "")
    assert out.startswith(f"{heading}, transformers/")


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("selfattn", "Did you mean model.layers.{}.self_attn?"),
        ("model.layers.17.self_attn", "Did you mean model.layers.{}.self_attn?"),
        ("model.layers.0.mlp.act", "Did you mean model.layers.{}.mlp.act_fn"),
        ("Gemma3Atention", "Did you mean Gemma3Attention"),
        ("zzz", "Leave the module out"),
    ],
)
def test_unknown_module(run: Run, module: str, wanted: str) -> None:
    """One line with the nearest names, exit code 2."""
    code, out, err = run("source", "gemma3", module)
    assert (code, out) == (2, "")
    assert err.startswith(f"parity: Gemma3ForCausalLM has no module {module!r}. {wanted}")
    assert err.count("\n") == 1


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """The least that is a port of GPT-2; its code is never run."""
    path = tmp_path / "port.py"
    path.write_text('MODEL_TYPES = "gpt2"\nWEIGHTS = {}\nModel = dict\n\n\nclass Config:\n    from_hf = dict\n')
    return path


def test_an_end_that_several_names_have(run: Run, gpt2: Path) -> None:
    """They are listed, and none is chosen."""
    code, out, err = run("source", gpt2, "c_proj")
    assert (code, out) == (2, "")
    assert err == (
        "parity: 'c_proj' stands for 2 modules of GPT2LMHeadModel. "
        "Name one: transformer.h.{}.attn.c_proj, transformer.h.{}.mlp.c_proj.\n"
    )


def test_config_of_the_command_line(run: Run, tmp_path: Path, configs: Path, gpt2: Path) -> None:
    """--config and --reference, as for check; what the config says decides what is shown."""
    assert "NewGELUActivation.forward" in run("source", gpt2, "mlp")[1]
    config = (configs / "gpt2.json").read_text().replace('"gelu_new"', '"relu"')
    (tmp_path / "config.json").write_text(config)
    for option in (("--config", tmp_path / "config.json"), ("--reference", tmp_path)):
        code, out, _ = run("source", gpt2, "mlp", *option)
        assert code == 0
        assert "self.act is ReLU, torch/nn/modules/activation.py" in out


def test_other_errors_are_those_of_check(run: Run, configs: Path) -> None:
    """The same words for an unknown port and a config of something else."""
    assert run("source", "gema3") == run("check", "gema3")
    foreign = ("gemma3", "--config", configs / "llama-3.2-1b.json")
    assert run("source", *foreign) == run("check", *foreign)


def test_no_colour_and_nothing_cut_off_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text in a narrow window; colours where they are asked for."""
    monkeypatch.setenv("COLUMNS", "40")
    _, plain, _ = run("source", "gemma3", "self_attn")
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) > 120
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, coloured, _ = run("source", "gemma3", "self_attn")
    assert "\x1b[" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    _, uncoloured, _ = run("source", "gemma3", "self_attn")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", uncoloured)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_the_page_shows_what_is_printed(run: Run, root: Path) -> None:
    """Every output in docs/source.md, as long as the reference is the release that it was written with."""
    page = (root / "docs" / "source.md").read_text(encoding="utf-8")
    shown = re.findall(r"```sh\nparity source ([^\n]+)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert shown
    if f"transformers {VERSION}" not in page:
        pytest.skip(f"docs/source.md was written with another release than {VERSION}")
    for arguments, output in shown:
        assert run("source", *arguments.split()) == (0, output, "")
