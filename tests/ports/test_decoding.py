"""Text that is decoded with a cache, past every window, token by token the reference's own."""

import pytest

from bench.decoding import ROUNDING, decoded, larger, small
from parity.pair.port import built_in_names

TOKENS = 70  # more than any window, chunk or choice of keys in a small config


@pytest.mark.parametrize("port", built_in_names())
def test_text_is_the_references(port: str) -> None:
    """With both caches; where the reference's own cache changes its logits, without that."""
    found = decoded(port, TOKENS)
    assert (found.agreed if found.alone is None else found.alone) == TOKENS
    assert found.largest < ROUNDING
    assert found.distinct > 4


def test_the_larger_config_is_the_small_one_widened() -> None:
    """The same layers of the same kinds."""
    config, wide = small("gemma3"), larger("gemma3")
    assert wide["layer_types"] == config["layer_types"]
    assert wide["intermediate_size"] > 10 * config["intermediate_size"]
