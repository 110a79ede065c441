"""A port of a model type that transformers has no class for: what stands in, what is said of it, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.pair import reference as references
from parity.pair.port import resolve
from parity.pair.weights import randomise
from tests.cli.test_pretrained import refused

Run = Callable[..., tuple[int, str, str]]
Port = Callable[..., Path]

STANDS_IN = "has no class for sarvam_moe: Glm4MoeForCausalLM stands in for it"
SIZES = {
    "hidden_size": 72, "intermediate_size": 96, "moe_intermediate_size": 40, "num_hidden_layers": 4, "num_experts": 4,
    "num_experts_per_tok": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16, "vocab_size": 320,
}  # fmt: skip


@pytest.fixture
def port(tmp_path: Path) -> Port:
    """Write Sarvam with some of its text replaced."""

    def write(*edits: tuple[str, str]) -> Path:
        path = tmp_path / "port.py"
        path.write_text(f'from parity_fixtures.rewrite import rewrite\n\nrewrite(globals(), "sarvam", *{edits!r})\n')
        return path

    return write


@pytest.fixture
def checkpoint(tmp_path: Path, configs: Path) -> Path:
    """A checkpoint in bfloat16, with Python code beside it that nobody is to run, and token ids."""
    config = json.loads((configs / "sarvam-30b.json").read_text()) | SIZES
    reference = references.describe(config, resolve("sarvam").stand_ins)
    model = references.build(reference, False)
    with torch.no_grad():
        randomise(model, 0, references.input_axes(model))
    folder = tmp_path / "checkpoint"
    references.save(model.to(torch.bfloat16), folder, config, reference.stand_in)
    (folder / "modeling_sarvam_moe.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "ids.json").write_text(json.dumps(torch.randint(0, 320, (40,)).tolist()))
    return folder


def test_every_format_says_so(run: Run, tmp_path: Path) -> None:
    """Which class stands in, and that the original is not run."""
    names = ("text", "json", "html", "markdown", "junit", "github")
    targets = [part for name in names for part in ("--format", f"{name}={tmp_path / name}")]
    code, _, _ = run("check", "sarvam", "--small-config", "--stage", "forward", *targets)
    assert code == 0
    for name in names:
        text = (tmp_path / name).read_text()
        assert "Glm4MoeForCausalLM standing in for sarvam_moe" in text, name
        assert STANDS_IN in text.replace("\\_", "_"), name
        assert "was not run" in text, name


def test_it_is_listed(run: Run) -> None:
    """With what stands in for each of its model types."""
    _, out, _ = run("ports")
    line = next(line for line in out.splitlines() if line.startswith("sarvam "))
    assert "Glm4MoeForCausalLM standing in for sarvam_moe" in line
    assert "DeepseekV3ForCausalLM standing in for sarvam_mla" in line


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (
            ('"model.layers.{}.attention.dense.weight": "model.layers.{}.self_attn.o_proj.weight",', ""),
            "names no tensor on disk for model.layers.{0-2}.self_attn.o_proj.weight",
        ),
        (
            ("            **{name: name for name in COMMON},\n", "            **{name: name for name in WEIGHTS},\n"),
            "names more than one tensor on disk for model.embed_tokens.weight",
        ),
        (('"n_routed_experts": hf["num_experts"]', '"n_routed_experts": hf["experts"]'), "raised KeyError: 'experts'"),
        (('"model_type": "glm4_moe"', '"model_type": "glm4_more"'), "gives model_type 'glm4_more'"),
    ],
)
def test_one_that_is_not_right(run: Run, port: Port, edit: tuple[str, str], wanted: str) -> None:
    """One line, and nothing is compared."""
    refused(run("check", port(edit), "--small-config"), "STAND_INS['sarvam_moe']", wanted, "writing-a-port.md")


def test_a_tensor_that_is_not_loaded_goes_by_its_name_on_disk(run: Run, port: Port) -> None:
    """Not by what it is called where it stands in."""
    line = '    "model.layers.{}.attention.query_key_value.weight": "layers.{}.attention.qkv_proj.weight",\n'
    code, out, _ = run("check", port((line, "")), "--small-config", "--stage", "weights", "--format", "json")
    assert code == 1
    report: dict[str, Any] = json.loads(out)
    assert report["findings"][0]["cause"] == "weights-silently-missing"
    assert report["findings"][0]["evidence"] == [f"also model.layers.{layer}.self_attn.q_proj" for layer in (1, 2)]
    wanted = [f"model.layers.{layer}.attention.query_key_value.weight" for layer in range(3)]
    assert report["unmatched"]["tensors"] == wanted


def test_a_real_checkpoint(run: Run, checkpoint: Path) -> None:
    """Block by block, its fused tensors taken apart, and token by token; its code is not run."""
    ids = checkpoint.parent / "ids.json"
    code, out, err = run("check", "sarvam", "--pretrained", checkpoint, "--tokens", ids, "--format", "json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert STANDS_IN in " ".join(report["details"]["notes"])
    names = [place["name"] for place in report["boundaries"]]
    assert "model.layers.3.self_attn.k_proj" in names
    code, out, _ = run("generate", "--pretrained", checkpoint, "--tokens", ids, "--compare-hf", "--max-new-tokens", 4)
    assert code == 0
    assert "4 of 4 choices agree" in out
    assert STANDS_IN in out
    assert not (checkpoint.parent / "ran").exists()


def test_a_checkpoint_with_other_rows(run: Run, checkpoint: Path) -> None:
    """What should lie in a tensor is more or less than it holds."""
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.attention.query_key_value.weight"
    tensors[name] = tensors[name][:-16].clone()
    save_file(tensors, file, {"format": "pt"})
    ids = checkpoint.parent / "ids.json"
    wanted = f"tensor '{name}' has shape [176, 72], and 96 + 48 + 48 rows should lie in it"
    refused(run("check", "sarvam", "--pretrained", checkpoint, "--tokens", ids), wanted)


def test_a_checkpoint_that_lacks_a_part(run: Run, checkpoint: Path) -> None:
    """By its name on disk."""
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.attention.query_key_value.weight"]
    save_file(tensors, file, {"format": "pt"})
    ids = checkpoint.parent / "ids.json"
    result = run("check", "sarvam", "--pretrained", checkpoint, "--tokens", ids)
    refused(
        result, "the checkpoint lacks model.layers.1.attention.query_key_value.weight, which Glm4MoeForCausalLM needs"
    )
