"""What counts as cutting a gradient, and what does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.compare.gradients import Cuts


@pytest.mark.parametrize(
    ("operation", "cuts"),
    [
        (lambda x: x.detach() * 2, True),
        (lambda x: x.new_zeros(2, 3) + x.sum(), False),
        (lambda x: torch.zeros_like(x) + x, False),
        (lambda x: torch.ones_like(x) * x, False),
    ],
    ids=["detach", "new_zeros", "zeros_like", "ones_like"],
)
def test_a_tensor_of_the_same_shape_takes_no_gradient_away(operation: Callable[[Tensor], Tensor], cuts: bool) -> None:
    """Only an operation that takes values and gives them on without their gradient is told."""
    seen: list[bool] = []
    x = torch.randn(2, 3, requires_grad=True)
    with Cuts(lambda: seen.append(True)):
        operation(x)
    assert bool(seen) is cuts
