"""Faults before experts and in them: other tokens go to other experts then, which must not be blamed."""

from pathlib import Path

import parity


def broken(root: Path, folder: Path, port: str, old: str, new: str) -> Path:
    """A copy of a port with one of its lines changed."""
    text = (root / "models" / f"{port}.py").read_text()
    assert text.count(old) == 1
    path = folder / f"{port}.py"
    path.write_text(text.replace(old, new))
    return path


def test_the_scale_of_scores(root: Path, tmp_path: Path) -> None:
    """Only the attention is blamed, not the experts that are given other tokens."""
    port = broken(root, tmp_path, "qwen3_moe", "config.head_dim**-0.5", "config.head_dim**-0.4")
    report = parity.check(port, small_config=True, stage=("weights", "forward"))
    (finding,) = report.findings
    assert finding.cause == "softmax-scale"
    assert "self_attn" in finding.reference_module


def test_experts_themselves(root: Path, tmp_path: Path) -> None:
    """Shares that are not brought to a sum of one."""
    port = broken(root, tmp_path, "glm4_moe", "if self.normalised:", "if not self.normalised:")
    report = parity.check(port, small_config=True, stage=("weights", "forward"))
    assert [finding.reference_module for finding in report.findings] == ["model.layers.1.mlp.gate"]
