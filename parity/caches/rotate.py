"""The random matrices of a quantiser: drawn once for each size, the same in every run, and stored for no token."""

from functools import cache

import torch
from torch import Tensor


@cache
def rotation(size: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix `[size, size]`, any as likely as any other; float32 on the CPU."""
    turned: Tensor
    turned, upper = torch.linalg.qr(gaussian(size, seed))
    signs = upper.diagonal().sign()  # without them QR would prefer some rotations to others
    return torch.mul(turned, signs).float()


@cache
def projection(size: int, seed: int = 0) -> Tensor:
    """Directions `[size, size]` of which only the signs of inner products are kept; float32 on the CPU."""
    return gaussian(size, seed + 1).float()


def gaussian(size: int, seed: int) -> Tensor:
    """Independent standard normal numbers `[size, size]`, float64."""
    generator = torch.Generator().manual_seed(7919 * seed + size)
    return torch.randn(size, size, dtype=torch.float64, generator=generator)
