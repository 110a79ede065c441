"""Codes of any number of bits as bytes, one row after another bit by bit, and back."""

import torch
from torch import Tensor

BYTE = 8


def packed_size(count: int, bits: int) -> int:
    """Bytes that a row of codes takes."""
    return -(-count * bits // BYTE)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes `[N, count]`, each below `2**bits` -> bytes `[N, packed_size]`; each row ends with a whole byte."""
    rows, count = codes.shape
    places = torch.arange(bits, device=codes.device)
    single = ((codes.long()[..., None] >> places) & 1).reshape(rows, count * bits)
    filled = single.new_zeros(rows, packed_size(count, bits) * BYTE)
    filled[:, : count * bits] = single
    worth = 1 << torch.arange(BYTE, device=codes.device)
    return (filled.reshape(rows, -1, BYTE) * worth).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """Bytes of `pack` -> codes `[N, count]` int64."""
    rows = len(packed)
    single = (packed.long()[..., None] >> torch.arange(BYTE, device=packed.device)) & 1
    codes = single.reshape(rows, -1)[:, : count * bits].reshape(rows, count, bits)
    return (codes << torch.arange(bits, device=packed.device)).sum(-1)


def as_bytes(values: Tensor) -> Tensor:
    """Numbers `[N, count]` of any dtype as they lie in memory: `[N, count * itemsize]`."""
    return values.contiguous().view(torch.uint8)


def from_bytes(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """The way back."""
    return packed.clone(memory_format=torch.contiguous_format).view(dtype)  # a part of a row may begin anywhere
