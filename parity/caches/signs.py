"""Sign bits of a residual, one for each coordinate, from which inner products come out right on average (QJL)."""

from math import pi, sqrt

from torch import Tensor


def signs(residuals: Tensor, projection: Tensor) -> Tensor:
    """Residuals `[N, size]` -> whether inner products with directions `[size, size]` are not negative, `[N, size]`."""
    return residuals @ projection.T >= 0


def estimate(positive: Tensor, lengths: Tensor, projection: Tensor) -> Tensor:
    """What stands for residuals of these lengths `[N, 1]`: `[N, size]`.

    Its inner product with any vector is right on average over directions. Its own length is not: it is about
    sqrt(pi / 2) times that of the residual.
    """
    size = projection.shape[0]
    ones = positive.to(lengths.dtype) * 2 - 1
    return sqrt(pi / 2) / size * lengths * (ones @ projection)
