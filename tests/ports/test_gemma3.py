"""What Gemma 3 has to itself; what all ports share is in test_ports.py."""

import json
from pathlib import Path

from parity_models.gemma3 import Config

from parity.pair import reference as references
from parity.pair.small_config import shrink


def test_layer_kinds_survive_without_a_list(configs: Path) -> None:
    """An older config gives a period only; the small one keeps that form and at least two layers of each kind."""
    config = json.loads((configs / "gemma-3-270m.json").read_text()) | {"sliding_window_pattern": 6}
    del config["layer_types"]
    described = references.describe(config)
    config = shrink(described.config, described.settings).config
    assert "layer_types" not in config
    kinds = Config.from_hf(config).layer_types
    assert kinds.count("full_attention") >= 2
    assert kinds.count("sliding_attention") >= 2
