"""The programs of the stages `cache` and `batch`: ways to decode one prompt, and ways to pad a batch."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from parity.pair.program import MaskStyle, Program, decoding, padded

_SHORTEST = 12  # tokens to decode, where no window asks for more
_ONE_BY_ONE = 64  # longer probes are prefilled but for the last tokens
_LAST = 4
_ALONE = 10  # tokens of the longest row in a padded batch, where no window asks for more


def window_of(settings: Mapping[str, Any]) -> int | None:
    """The sliding window of a config, None if no layer slides."""
    window = settings.get("sliding_window")
    kinds = settings.get("layer_types")
    sliding = kinds is None or "sliding_attention" in kinds
    on = settings.get("use_sliding_window") is not False
    return window if isinstance(window, int) and window > 0 and sliding and on else None


def decodings(input_ids: Tensor, window: int | None) -> tuple[Program, ...]:
    """Ways to decode a probe `[B, T]` of which the full forward is known.

    One token at a time from a prompt shorter than the window and from one longer than it, both past a second wrap of
    the window, and in chunks of changing length.
    """
    size = window or 3
    length = min(input_ids.shape[1], max(_SHORTEST, 2 * size + 2))
    ids = input_ids[:, :length]
    if length > _ONE_BY_ONE:
        first, half = length - _LAST, length // 2
        return (
            decoding(f"prefill {first}, then one token at a time", ids, [first, *[1] * _LAST]),
            decoding("two chunks", ids, [half, length - half]),
        )
    prefills = [size // 2 + 1, *([size + 2] if window and size + 2 < length else [])]
    singly = [
        decoding(f"prefill {first}, then one token at a time", ids, [first, *[1] * (length - first)])
        for first in prefills
    ]
    return (*singly, decoding("in chunks of changing length", ids, list(_chunks(length, size))))


def _chunks(length: int, size: int) -> Iterator[int]:
    """Lengths that sum to `length`: single tokens, less than a window, more than one."""
    left = length
    for wanted in cycle((2, 1, max(2, size - 1), size + 2, 1, 3)):
        if left <= 0:
            return
        yield min(wanted, left)
        left -= wanted


def batches(input_ids: Tensor, window: int | None, cached: bool, mask: MaskStyle = "call") -> tuple[Program, ...]:
    """A probe `[B, T]` with its rows cut short and padded on the left; with a cache too, if the port has one.

    The real tokens of a row are the first of the probe's, so that the full forward on the probe says what each row
    gives alone.
    """
    rows = input_ids.shape[0]
    length = min(input_ids.shape[1], max(_ALONE, (window or 0) + 4))
    pads = [(3 * row) % length for row in range(rows)] if rows > 1 else [min(3, length - 1)]
    real = torch.stack([torch.arange(length) >= pad for pad in pads]).to(input_ids.device)
    ids = torch.zeros_like(input_ids[:, :length])
    for row, pad in enumerate(pads):
        ids[row, pad:] = input_ids[row, : length - pad]
        ids[row, :pad] = input_ids[row, -pad:] if pad else ids[row, :0]
    found = [padded("padded on the left", ids, real, mask=mask)]
    if cached:
        first = length - 3
        lengths = [first, 1, 1, 1]
        found.append(padded("padded on the left, then one token at a time", ids, real, lengths, mask))
    return tuple(found)


def pads_of(program: Program) -> tuple[int, ...]:
    """How many tokens of each row are padding, all on the left."""
    rows = program.input_ids.shape[0]
    return (0,) * rows if program.real is None else tuple(int((~row).sum()) for row in program.real)


def alone(logits: Tensor, program: Program) -> Tensor:
    """What a program's rows give alone, `[B, T, V]`, of the full forward's logits; NaN where there is padding."""
    length = program.input_ids.shape[1]
    found = torch.full_like(logits[:, :length], float("nan"))
    for row, pad in enumerate(pads_of(program)):
        found[row, pad:] = logits[row, : length - pad]
    return found
