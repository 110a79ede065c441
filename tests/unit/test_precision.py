"""The stage `precision` where experts are chosen: ties are nobody's fault, a router in few digits is."""

import json
from pathlib import Path

import pytest

import parity
from parity.records import Report
from tests.unit.test_taps import CONFIGS, mixture

IN_FLOAT32 = (
    ("scores = self.gate(rows).softmax(dim=-1)", "scores = self.gate(rows).softmax(dim=-1, dtype=torch.float32)"),
    (
        "weights = weights / weights.sum(-1, keepdim=True)",
        "weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)",
    ),
)


def check(root: Path, tmp_path: Path, *edits: tuple[str, str]) -> Report:
    """A port with experts, in bfloat16."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIGS["qwen3_moe"], "mlp_only_layers": []}))
    return parity.check(mixture(root, tmp_path, *edits), config=config, stage=["forward", "precision"])


def test_a_router_that_computes_as_the_reference_does(root: Path, tmp_path: Path) -> None:
    """Bit by bit, and near ties are said."""
    report = check(root, tmp_path, *IN_FLOAT32)
    assert report.verdict == "pass"
    assert {each.verdict for each in report.boundaries if each.stage == "precision"} == {"exact"}
    assert any("near tie" in note for note in report.notes)


def test_a_router_in_low_precision(root: Path, tmp_path: Path) -> None:
    """Its scores lose digits that the reference keeps."""
    report = check(root, tmp_path)
    first = report.findings[0]
    assert (first.stage, first.cause) == ("precision", "router-dtype")
    assert first.port_source is not None
    assert "scores" in first.port_source.text
    assert first.explanations


@pytest.mark.parametrize("matmul", ["nn.functional.linear(rows.float(), self.gate.weight.float())"])
def test_a_router_in_more_digits_is_no_fault(matmul: str, root: Path, tmp_path: Path) -> None:
    """A product in float32 rounds less."""
    edits = ((IN_FLOAT32[0][0], f"scores = {matmul}.softmax(dim=-1)"), IN_FLOAT32[1])
    assert check(root, tmp_path, *edits).verdict == "pass"
