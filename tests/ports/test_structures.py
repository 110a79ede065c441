"""Ports built in ways that have little in common with the reference: right ones pass, wrong ones are localised."""

from pathlib import Path

import pytest

import parity

HERE = Path(__file__).parent / "structures"
CONFIGS = {"numpy_tables": "gemma-3-270m.json", "torchscript": "qwen3-0.6b.json", "centred_stream": "gpt2.json"}
LLAMA = "llama-3.2-1b.json"


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.stem)
def test_right_ports_pass(path: Path, configs: Path) -> None:
    """No finding, no difference, and the logits compared."""
    report = parity.check(path, config=configs / CONFIGS.get(path.stem, LLAMA), small_config=True)
    assert report.findings == ()
    assert report.verdict == "pass"
    assert not [boundary.name for boundary in report.boundaries if boundary.verdict == "diff"]
    assert report.boundaries[-1].verdict in ("exact", "ok")


BUGS = [
    ("flat", "F.silu(", "F.gelu(", "model.layers.0.mlp.act_fn"),
    ("flat", "k.repeat_interleave(c.H // c.K, 1)", "k.repeat(1, c.H // c.K, 1, 1)", "model.layers.0.self_attn"),
    ("row_by_row", "F.silu(", "F.gelu(", "model.layers.0.mlp.act_fn"),
    ("add_and_norm", "F.silu(", "F.gelu(", "model.layers.0.mlp.act_fn"),
    ("plain_dict", "F.silu(", "F.gelu(", "model.layers.0.mlp.act_fn"),
    ("channels_first", "F.silu(", "F.gelu(", "model.layers.0.mlp.act_fn"),
    ("time_first", "F.silu(", "F.gelu(", "model.layers.0.mlp.act_fn"),
]


@pytest.mark.parametrize(("port", "old", "new", "guilty"), BUGS, ids=lambda value: str(value)[:20])
def test_wrong_ports_are_localised(port: str, old: str, new: str, guilty: str, configs: Path, tmp_path: Path) -> None:
    """Also where the port has no module of its own for what is wrong."""
    text = (HERE / f"{port}.py").read_text()
    assert text.count(old) == 1, text
    path = tmp_path / f"{port}.py"
    path.write_text(text.replace(old, new))
    report = parity.check(path, config=configs / LLAMA, small_config=True)
    assert report.verdict == "fail"
    assert report.findings[0].reference_module == guilty, report.findings
