"""Error maps: the cell where the error is, whatever the layout."""

import pytest
import torch
from torch import Tensor

from parity.compare.error_maps import Widths, error_map, first, of_tap, widths
from parity.records import Boundary, ErrorMap

KNOWN = Widths(rows=2, tokens=6, heads=(4, 2), head=5, hidden=7)


def made(shape: tuple[int, ...], *wrong: tuple[int | slice, ...]) -> ErrorMap | None:
    """The map of ones of a shape, doubled at some places."""
    expected = torch.ones(shape, dtype=torch.float64)
    own = expected.clone()
    for place in wrong:
        own[place] *= 2
    return error_map("forward", "name", own, expected, KNOWN)


def cells(found: ErrorMap | None) -> dict[tuple[str, str], float | None]:
    """Its cells that are not zero, by the labels of row and column."""
    assert found is not None
    return {
        (row, column): value
        for row, values in zip(found.row_labels, found.values, strict=True)
        for column, value in zip(found.column_labels, values, strict=True)
        if value != 0.0
    }


def test_features_of_a_token() -> None:
    """The L2 norm of the difference over that of the reference, all rows of the probe together."""
    found = made((2, 6, 7), (0, 3, 2))
    assert found is not None
    assert found.columns == "feature"
    assert (len(found.values), len(found.values[0])) == (6, 7)
    assert cells(found) == {("3", "2"): pytest.approx(0.5**0.5)}


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((2, 6, 4, 5), (1, 3, 2)),
        ((2, 4, 6, 5), (1, 2, 3)),
        ((2, 4, 5, 6), (1, 2, slice(None), 3)),
        ((2, 6, 20), (1, 3, slice(10, 15))),
        ((12, 20), (9, slice(10, 15))),
    ],
    ids=["after tokens", "before tokens", "transposed", "side by side", "rows and tokens as one"],
)
def test_heads_in_every_layout(shape: tuple[int, ...], place: tuple[int | slice, ...]) -> None:
    """A head that is wrong at one token of one row."""
    found = made(shape, place)
    assert found is not None
    assert found.columns == "head"
    assert cells(found) == {("3", "2"): pytest.approx(0.5**0.5)}


def test_features_that_happen_to_divide_by_a_head_are_no_heads() -> None:
    """What runs between blocks has none."""
    known = widths((2, 6, 99), {"num_attention_heads": 4, "head_dim": 5, "hidden_size": 20})
    expected = torch.ones(2, 6, 20)
    found = error_map("forward", "name", 2 * expected, expected, known)
    assert found is not None
    assert found.columns == "feature"


def test_as_many_rows_as_tokens() -> None:
    """The first axis is that of the rows all the same."""
    expected = torch.ones(6, 6, 7)
    own = expected.clone()
    own[0, 3, 2] = 2.0
    found = error_map("forward", "name", own, expected, Widths(rows=6, tokens=6))
    assert list(cells(found)) == [("3", "2")]


def test_many_are_taken_together() -> None:
    """At most 32 by 48 cells, the last of a side smaller than the others; labels say what is in them."""
    known = Widths(1, 41)
    expected = torch.ones(1, 41, 100)
    own = expected.clone()
    own[0, 40, 99] = 3.0
    found = error_map("forward", "name", own, expected, known)
    assert found is not None
    assert (len(found.row_labels), len(found.column_labels)) == (21, 34)
    assert found.row_labels[:2] == ("0-1", "2-3")
    assert found.column_labels[:2] == ("0-2", "3-5")
    assert cells(found) == {("40", "99"): 2.0}


def test_a_mask_over_keys() -> None:
    """Of a mask, the share of entries that differ, by token and key."""
    expected = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    own = expected.clone()
    own[0, 0, 2, 4] = True
    found = of_tap("attention:mask", "mask", own, expected, KNOWN)
    assert found is not None
    assert found.columns == "key"
    assert cells(found) == {("2", "4"): 1.0}


def test_scores_hidden_on_both_sides_agree() -> None:
    """Minus infinity twice is no difference, once is no number."""
    expected = torch.zeros(2, 4, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf")) + 1.0
    own = expected.clone()
    own[0, 1, 5, 0] = 3.0
    own[0, 0, 0, 5] = 0.0
    assert cells(of_tap("attention:scores", "scores", own, expected, KNOWN)) == {
        ("5", "0"): pytest.approx((4 / 8) ** 0.5),
        ("0", "5"): None,
    }


def test_what_is_not_finite_has_no_figure() -> None:
    """A NaN, and a difference where the reference is zero."""
    expected: Tensor = torch.ones(2, 6, 7)
    expected[:, 1, 1] = 0.0
    own = expected.clone()
    own[0, 0, 0] = float("nan")
    own[0, 1, 1] = 1.0
    assert cells(error_map("forward", "name", own, expected, KNOWN)) == {("0", "0"): None, ("1", "1"): None}


def test_no_map_without_tokens() -> None:
    """Tables and what experts are given have no axis of positions."""
    assert made((3, 7)) is None


def test_the_first_of_a_report() -> None:
    """In the order of its boundaries, and no more than forty."""
    maps = [ErrorMap("forward", str(number), "feature", (), (), ()) for number in range(60)]
    boundaries = [Boundary("forward", str(number), "", "", "output") for number in reversed(range(59))]
    kept = first(maps, boundaries)
    assert [each.name for each in kept] == [str(number) for number in range(58, 18, -1)]
