"""Layouts that authors mean are found by shape; values decide only if they agree."""

import math

import pytest
import torch
from torch import Tensor

from parity.compare.capture import Endpoint
from parity.compare.measure import Layout, Order, best_layout, find_order, layouts, relative_error, worst
from parity.compare.wires import Wire

REFERENCE = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "port",
    [
        REFERENCE,
        REFERENCE.transpose(0, 1).contiguous(),
        REFERENCE.view(15, 24),
        REFERENCE.view(3, 5, 4, 6),
        REFERENCE.view(3, 5, 4, 6).transpose(1, 2).contiguous(),
    ],
    ids=["same", "time first", "merged", "heads", "heads first"],
)
def test_layout_and_back(port: Tensor) -> None:
    """The port's layout becomes the reference's, and the other way round."""
    found = best_layout(port, REFERENCE)
    assert found is not None
    layout, error = found
    assert error == 0.0
    assert torch.equal(layout.to_reference(port, REFERENCE.shape), REFERENCE)
    assert torch.equal(layout.to_port(REFERENCE, port.shape), port)


def test_wrong_values_do_not_choose_the_layout() -> None:
    """A port that is wrong everywhere is still read the plain way."""
    for seed in range(20):
        stranger = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(seed + 1))
        found = best_layout(stranger, REFERENCE)
        assert found is not None
        assert found[0].axes == (0, 1, 2)


def test_batch_broadcast() -> None:
    """Positions computed once, or for every row."""
    reference = REFERENCE[:1]
    port = reference.expand(3, 5, 24)
    found = best_layout(port, reference)
    assert found is not None
    assert found[1] == 0.0
    assert torch.equal(found[0].to_port(reference, port.shape), port)


def test_one_row_for_the_whole_batch() -> None:
    """Positions that the port computes once and the reference for every row; a row that differs is seen."""
    port = REFERENCE[:1]
    reference = port.expand(3, 5, 24).clone()
    found = best_layout(port, reference)
    assert found is not None
    layout, error = found
    assert error == 0.0
    assert torch.equal(layout.to_reference(port, reference.shape), reference)
    assert torch.equal(layout.to_port(reference, port.shape), port)
    reference[2, 0, 0] += 1e-3
    other = best_layout(port, reference)
    assert other is not None
    assert other[1] > 1e-5


def test_no_layout() -> None:
    """Shapes of other sizes have none."""
    assert layouts(torch.Size([3, 5, 7]), REFERENCE.shape) == []
    assert best_layout(torch.zeros(2), REFERENCE) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_reordered_axis(axis: int) -> None:
    """Heads or features in another order are found by value, exactly."""
    order = torch.randperm(REFERENCE.shape[axis], generator=torch.Generator().manual_seed(3))
    port = REFERENCE.index_select(axis, order)
    found = find_order(port, REFERENCE)
    assert found is not None
    assert torch.equal(port.index_select(found.axis, found.places), REFERENCE)


def test_other_values_are_not_an_order() -> None:
    """Nearly is not enough."""
    port = REFERENCE.flip(2).clone()
    port[0, 0, 0] += 1e-6
    assert find_order(port, REFERENCE) is None


def test_errors() -> None:
    """0.0 means bitwise; NaN is never equal; integers count."""
    assert relative_error(REFERENCE, REFERENCE.clone()) == 0.0
    assert relative_error(REFERENCE.double() * (1 + 1e-12), REFERENCE.double()) == pytest.approx(1e-12, rel=1e-3)
    broken = REFERENCE.clone()
    broken[0] = math.nan
    assert math.isnan(relative_error(broken, broken.clone()))
    assert relative_error(torch.ones(2), torch.zeros(2)) == math.inf
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 3])) == 0.5
    assert worst(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])) == (2.0, 1.0)


def test_one_row_laid_over_none() -> None:
    """An expert that no token is sent to gives no rows, and nothing is raised."""
    assert Layout((0, 1), broadcast=True).to_reference(torch.empty(1, 4), torch.Size([0, 4])).shape == (0, 4)


def test_an_order_of_other_rows_hands_nothing_on() -> None:
    """An order of axis entries, found on one run, in another run with fewer of them."""
    ends = Endpoint("ours", 0, "output"), Endpoint("theirs", 0, "output")
    wire = Wire(*ends, 0, 0, Layout((0, 1), order=Order(0, torch.tensor([2, 0, 1]))))
    own = torch.rand(2, 4)
    assert torch.equal(wire.handed_on(own, torch.rand(2, 4)), own)
    assert wire.handed_on(torch.rand(3, 4), torch.rand(3, 4)).shape == (3, 4)
