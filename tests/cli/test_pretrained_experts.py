"""`parity check --pretrained` where tokens are dealt out to experts, of which some get none."""

from pathlib import Path

import pytest
import torch

import parity
from parity.pair import pair as pairs

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one, with a router's correction in float32 beside weights in bfloat16."""
    config, folder = CONFIGS / "deepseek-v3.json", tmp_path_factory.mktemp("checkpoint")
    return pairs.make("deepseek_v3", config, None, True, 0, folder, torch.bfloat16).checkpoint


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_experts_without_tokens_raise_no_alarm(checkpoint: Path, dtype: str) -> None:
    """Each gets other tokens than on the small config, and some get none."""
    report = parity.check("deepseek_v3", pretrained=checkpoint, dtype=dtype)
    assert (report.verdict, report.findings) == ("pass", ())
    inside = [each for each in report.boundaries if ".experts." in each.port_module and "shared" not in each.name]
    assert any(each.verdict in ("exact", "ok") for each in inside)
    assert all(each.verdict != "diff" for each in report.boundaries)
