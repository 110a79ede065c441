"""Ports with layers that keep a state: it is handed on across chunks, and does not grow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_models import nemotron_h, qwen3_5

import parity
from parity.pair import reference as references
from parity.pair.promote import precision
from parity.pair.small_config import shrink

QWEN3_5 = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 6, "linear_value_head_dim": 5, "full_attention_interval": 2,
}  # fmt: skip
NEMOTRON = {
    "vocab_size": 97, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 5, "chunk_size": 16,
    "hybrid_override_pattern": "M*",
}  # fmt: skip
PORTS = pytest.mark.parametrize(("module", "settings"), [(qwen3_5, QWEN3_5), (nemotron_h, NEMOTRON)])


def made(module: Any, settings: dict[str, Any]) -> Any:
    """A port whose weights are nowhere constant, and its own kind of decay."""
    torch.manual_seed(0)
    model = module.Model(module.Config.from_hf(settings)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
@PORTS
def test_decoding_past_chunks_equals_one_full_forward(module: Any, settings: dict[str, Any]) -> None:
    """150 tokens, so that a call begins and ends inside chunks of 64 and of 16."""
    with precision(promoted=True):
        model = made(module, settings)
        ids = torch.randint(0, 97, (2, 150))
        cache = model.new_cache(2)
        parts = [model(part, cache=cache) for part in ids.split([70, 1, 64, 15], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=0, atol=1e-12)


@torch.no_grad()
@PORTS
def test_a_state_does_not_grow(module: Any, settings: dict[str, Any]) -> None:
    """A recurrent layer keeps as much after fifty tokens as after five; attention keeps them all."""
    model = made(module, settings)
    sizes = []
    for tokens in (5, 50):
        cache = model.new_cache(1)
        model(torch.randint(0, 97, (1, tokens)), cache=cache)
        recurrent, attention = cache.layers
        sizes.append((recurrent.inputs.numel(), recurrent.state.numel()))
        assert attention.keys.shape[2] == tokens
    assert sizes[0] == sizes[1]


@pytest.fixture
def broken(tmp_path: Path, configs: Path) -> Callable[..., Any]:
    """Check Nemotron 3 with a line of it changed, on two layers of its small config."""
    described = references.describe(json.loads((configs / "nemotron-3-nano-30b-a3b.json").read_text()))
    config = dict(shrink(described.config, described.settings).config)
    path = tmp_path / "config.json"

    def check(old: str, new: str, layers: str = "M*", **options: Any) -> Any:
        path.write_text(json.dumps({**config, "hybrid_override_pattern": layers, "num_hidden_layers": len(layers)}))
        port = tmp_path / "port.py"
        text = Path(nemotron_h.__file__).read_text()
        assert text.count(old) == 1
        port.write_text(text.replace(old, new))
        return parity.check(port, config=path, **options)

    return check


def test_a_reference_that_contradicts_itself_is_a_note_and_no_fault_of_the_port(broken: Callable[..., Any]) -> None:
    """It bounds the time step in one full forward, and not when it decodes; the port does in both."""
    report = broken("# The shortest step", "# The least step")
    assert report.verdict == "pass"
    (note,) = [note for note in report.notes if "decodes other than its one full forward" in note]
    assert note.startswith("the reference contradicts itself")
    assert note.endswith("the port is held to the full forward")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("found, cache.state = scan(", "found, _ = scan(", "found"),
        ("inputs.shape[2] - self.keep :]", "inputs.shape[2] - self.keep - 1 : -1]", "self.inputs = inputs"),
    ],
    ids=["state is not kept", "latest input is not kept"],
)
def test_a_state_that_is_kept_wrongly_is_told_as_such(
    broken: Callable[..., Any], old: str, new: str, line: str
) -> None:
    """Not as a fault of masks, which hide tokens of one chunk from each other there."""
    (finding,) = broken(old, new, "MM*", stage=["weights", "forward", "cache"]).findings
    assert (finding.stage, finding.cause) == ("cache", "ssm-state")
    assert finding.port_module.startswith("layers.0.mixer")
    assert line in finding.port_source.text


def test_shares_read_from_biased_scores_are_named(broken: Callable[..., Any]) -> None:
    """The bias is for choosing experts alone."""
    new = "(scores + self.correction_bias).gather(-1, chosen)"
    (finding,) = broken("scores.gather(-1, chosen)", new, "ME", stage=["weights", "forward"]).findings
    assert finding.cause == "router-selection"
    assert new in finding.port_source.text


def test_an_activation_in_place_of_a_sigmoid_is_named(broken: Callable[..., Any]) -> None:
    """Of a router's scores, or of a gate."""
    report = broken("scores = torch.sigmoid(", "scores = torch.tanh(", "ME", stage=["weights", "forward"])
    assert report.findings[0].explanations[0].text == "behaves as if the activation were tanh"
    assert "torch.tanh" in report.findings[0].port_source.text
