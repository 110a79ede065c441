"""The check on the small config that a check at full size leans on: for the alignment, and for lines and causes."""

from dataclasses import dataclass
from pathlib import Path

import torch

from parity.compare import stages
from parity.compare.stages import Forward, Sides
from parity.pair import pair as pairs
from parity.pair.pair import Pair


@dataclass(frozen=True)
class Small:
    """A pair on the small config, both sides of it, and what one forward gave."""

    pair: Pair
    sides: Sides
    measured: Forward


def small_check(
    target: object, config: Path, seed: int, directory: Path, dtype: torch.dtype = torch.float32, deep: bool = False
) -> Small:
    """Shrink a config, and compare the port with its reference on it.

    Args:
        target: the port, as on the command line or a Python object.
        config: the config.json to shrink.
        seed: of weights and probe.
        directory: an empty directory, which must stay while the result is used.
        dtype: of the weights.
        deep: shrink widths alone, and keep all layers.

    Raises:
        ParityError: either side cannot be built, loaded or run on the small config.
    """
    pair = pairs.make(target, config, None, True, seed, directory, dtype, deep)
    sides = stages.load(pair)
    return Small(pair, sides, stages.forward(pair, sides))
