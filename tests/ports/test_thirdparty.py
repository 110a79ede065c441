"""Ports written long before Parity existed, through adapters, aligned without MODULES."""

from pathlib import Path

import pytest

import parity

HERE = Path(__file__).parent / "thirdparty"
PORTS = {"llama3": "llama-3.2-1b.json", "qwen3": "qwen3-0.6b.json", "gpt2": "gpt2.json"}


@pytest.mark.parametrize("name", PORTS)
def test_llms_from_scratch(name: str, configs: Path) -> None:
    """The models of the book equal their references; all weighted modules of the reference are compared."""
    adapter = HERE / f"llms_from_scratch_{name}.py"
    assert "MODULES" not in adapter.read_text()
    report = parity.check(adapter, config=configs / PORTS[name], small_config=True)
    assert report.verdict == "pass"
    assert report.unmatched.port == ()
    assert report.unmatched.tensors == ()
    assert all(module.endswith(("act_fn", "rotary_emb")) for module in report.unmatched.reference)
    compared = {boundary.reference_module for boundary in report.boundaries if boundary.verdict in ("exact", "ok")}
    kinds = {module.rpartition(".")[2] for module in compared}
    attention = {"c_attn", "c_proj", "ln_1", "wpe"} if name == "gpt2" else {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert attention | {"lm_head"} <= kinds


def test_a_port_that_derives_head_dim_is_checked_on_a_config_it_can_take(configs: Path) -> None:
    """What the fallback does not cover is said, and the stage says why."""
    report = parity.check(HERE / "llms_from_scratch_llama3.py", config=configs / "llama-3.2-1b.json", small_config=True)
    assert any("head_dim" in note and "not covered" in note for note in report.notes)
