"""What counts as cutting a gradient, and what does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from parity.compare.gradients import Cuts, parameter_slopes


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


def test_a_parameter_that_nothing_is_learnt_by_is_told_from_one_that_was_computed() -> None:
    """Of a selector's projection no gradient arrives in the reference; a folded weight is in no tensor of it."""
    reference = nn.ModuleDict({"selects": nn.Linear(5, 4), "scales": nn.Linear(5, 3)})
    port = nn.ModuleDict({"picks": nn.Linear(5, 4), "folded": nn.Linear(5, 3, bias=False)})
    port["picks"].load_state_dict(reference["selects"].state_dict())
    ours = {name: torch.ones_like(value) for name, value in reference.named_parameters()}
    ours |= {name: None for name in ours if name.startswith("selects")}
    found = {
        slope.port: slope
        for slope in parameter_slopes(reference, ours, port, dict.fromkeys(dict(port.named_parameters())))
    }
    assert {name: (slope.reference, slope.error) for name, slope in found.items()} == {
        "picks.weight": ("selects.weight", None),
        "picks.bias": ("selects.bias", None),
        "folded.weight": ("", None),
    }
