"""What GPT-2 has to itself; what all ports share is in test_ports.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.small_config import shrink
from parity.pair.weights import Tensors


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_loads_with_and_without_the_prefix(prefix: str, configs: Path, tmp_path: Path) -> None:
    """The released checkpoints have no prefix, and hold the causal mask too; the head is the embedding in both."""
    described = references.describe(json.loads((configs / "gpt2.json").read_text()))
    config = shrink(described.config, described.settings).config
    body = references.build(references.describe(config), promoted=False).transformer
    tensors = {f"{prefix}{name}": tensor.contiguous() for name, tensor in body.state_dict().items()}
    mask = {f"{prefix}h.{layer}.attn.bias": torch.ones(1, 1, 4, 4).tril() for layer in range(3)}
    save_file(tensors | mask, tmp_path / "model.safetensors")

    loaded = ports.build(ports.resolve("gpt2"), config, Tensors(tmp_path, promoted=False), promoted=False, seed=1)
    assert loaded.read >= set(tensors)
    assert loaded.dropped == set(mask)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        wanted = body(ids).last_hidden_state @ body.wte.weight.T
        torch.testing.assert_close(loaded.model(ids), wanted, rtol=1e-4, atol=1e-5)
