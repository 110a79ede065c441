"""The probe: the tokens that both models are run on."""

import torch
from torch import Tensor

ROWS = 3


def tokens(vocabulary: int, length: int, seed: int) -> Tensor:
    """Random token ids `[B, T]`, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (ROWS, length), generator=generator)
