"""Matching by value: what counts as the same, and what must not."""

import torch
from torch import Tensor

from parity.explain.match import key_of, mask_of, same


def randoms(*shape: int) -> Tensor:
    """Values that no two entries share."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_layout_does_not_matter() -> None:
    """Axes exchanged, heads merged into features."""
    value = randoms(2, 3, 5, 4)
    assert same(value.transpose(1, 2), value)
    assert same(value.transpose(1, 2).flatten(2), value)


def test_order_matters() -> None:
    """Tiled heads have the moments of repeated ones, and are not the same."""
    heads = randoms(1, 2, 5, 4)
    repeated, tiled = heads.repeat_interleave(2, 1), heads.repeat(1, 2, 1, 1)
    ours, theirs = key_of(repeated), key_of(tiled)
    assert ours is not None
    assert theirs is not None
    assert ours.near(theirs)
    assert not same(tiled, repeated)


def test_hidden_scores_are_one_whatever_hides_them() -> None:
    """Minus infinity to one author, the smallest number to another; a zero hides nothing."""
    scores, hidden = randoms(1, 2, 5, 5), torch.ones(5, 5).triu(1).bool()
    infinite = scores.masked_fill(hidden, float("-inf"))
    assert same(scores.masked_fill(hidden, torch.finfo(torch.float64).min), infinite)
    assert not same(scores.masked_fill(hidden, 0.0), infinite)


def test_masks_by_what_they_let_through() -> None:
    """A boolean of either sign and an additive mask are one mask; one token more is another."""
    visible = torch.ones(6, 6).tril().bool()
    additive = torch.zeros(6, 6, dtype=torch.float64).masked_fill(~visible, float("-inf"))
    masks = [mask_of(value) for value in (visible, ~visible, additive, visible & (torch.ones(6, 6).triu(-2) > 0))]
    assert all(mask is not None for mask in masks)
    first, *others = (mask for mask in masks if mask is not None)
    assert [torch.equal(first, other) for other in others] == [True, True, False]


def test_a_value_that_is_no_mask() -> None:
    """Square scores are not taken for one."""
    assert mask_of(randoms(6, 6)) is None
