"""The probe: the tokens that both models are run on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROWS = 3
_MOST_LOGITS = 1 << 26  # values in one tensor of logits: half a gigabyte in float64, and several are held at once


@dataclass(frozen=True)
class Probe:
    """Token ids `[B, T]`, and what a probe of this length cannot reach."""

    input_ids: Tensor
    notes: tuple[str, ...]


def make(settings: Mapping[str, Any], reach: int, seed: int) -> Probe:
    """Random tokens, the same for the same seed, and none of them padding.

    Args:
        settings: all fields of the reference's config.
        reach: the tokens that it takes to see everything.
        seed: of the random numbers.
    """
    vocabulary = settings["vocab_size"]
    rows = max(1, min(_ROWS, _MOST_LOGITS // (vocabulary * reach)))
    length = min(reach, max(1, _MOST_LOGITS // (vocabulary * rows)))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    padding = settings.get("pad_token_id")
    if isinstance(padding, int):  # no text has it, and embeddings that know of it pass no gradient on to it
        ids[ids == padding] = (padding + 1) % vocabulary
    return Probe(ids, tuple(unreached(settings, length)))


def unreached(settings: Mapping[str, Any], length: int) -> list[str]:
    """What a probe of this length cannot reach."""
    window = settings.get("sliding_window")
    kinds = settings.get("layer_types") or ["sliding_attention"]
    if not isinstance(window, int) or settings.get("use_sliding_window") is False or "sliding_attention" not in kinds:
        return []
    return [] if length > window else [f"sliding_window {window}: the probe has {length} tokens, use --small-config"]
