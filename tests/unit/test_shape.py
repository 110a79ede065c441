"""How an error is shaped, in words."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.explain.shape import shape

ROWS, TOKENS, HEADS, WIDTH = 3, 11, 4, 6
SETTINGS = {"num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": WIDTH, "hidden_size": 20}
GENERATOR = torch.Generator().manual_seed(0)
OTHER = "no constant factor, constant offset or other order accounts for it"


def random(*sizes: int) -> Tensor:
    """Random numbers in float64."""
    return torch.randn(sizes, generator=GENERATOR, dtype=torch.float64)


VALUE = random(ROWS, TOKENS, 20)
VECTOR = random(20)
NOISE = random(ROWS, TOKENS, 20)


def described(own: Tensor, expected: Tensor = VALUE) -> list[str]:
    """What is said of it."""
    return shape(own, expected, (ROWS, TOKENS), SETTINGS)


@pytest.mark.parametrize(
    ("own", "line"),
    [
        (VALUE + 0.25, "it is the reference's value plus 0.25 everywhere"),
        (VALUE + VECTOR, "the difference is the same at every position: each feature has a constant offset"),
        (VALUE * VECTOR, "each feature is the reference's times a constant of its own"),
        (VALUE * NOISE[..., :1], "each vector is the reference's times a constant of its own"),
        (VALUE.flip(-1), "it is the reference's value with its features in another order: 19 18 17"),
        (VALUE.roll(1, 1), "it is the reference's value with its positions in another order: "),
        (VALUE.roll(1, 0), "it is the reference's value with its rows of the probe in another order: "),
        (VALUE.flatten().flip(0).roll(7).view_as(VALUE), "it has the reference's numbers, all of them, in another"),
        (NOISE, OTHER),
    ],
    ids=["offset", "bias", "weight", "norm", "features", "positions", "rows", "mixed", "noise"],
)
def test_relations(own: Tensor, line: str) -> None:
    """One line: what turns the right value into the wrong one, or that nothing simple does."""
    (found,) = described(own)
    assert found.startswith(line)


def where(change: Callable[[Tensor], object], value: Tensor) -> Tensor:
    """A copy with a part of it changed."""
    own = value.clone()
    change(own)
    return own


def test_extents() -> None:
    """Rows, positions, features: those that differ where others agree."""
    assert described(where(lambda x: x[1].mul_(NOISE[1]), VALUE))[0] == (
        "rows of the probe 1 of 3 differ, the others agree"
    )
    assert described(where(lambda x: x[:, :2].mul_(NOISE[:, :2]), VALUE))[0] == (
        "positions 0,1 of 11 differ, the others agree"
    )
    assert described(where(lambda x: x[..., 4:8].mul_(NOISE[..., 4:8]), VALUE))[0] == (
        "features 4-7 of 20 differ, the others agree"
    )
    later = described(where(lambda x: x[:, 5:].mul_(NOISE[:, 5:]), VALUE))
    assert later == [OTHER]  # from which position on is told elsewhere


@pytest.mark.parametrize("heads_first", [True, False])
def test_heads(heads_first: bool) -> None:
    """In a value that is split into heads, and in one that is not."""
    value = random(ROWS, HEADS, TOKENS, WIDTH)
    own = where(lambda x: x[:, ::2].mul_(random(ROWS, 2, TOKENS, WIDTH)), value)
    if not heads_first:
        value, own = (each.transpose(1, 2).flatten(2) for each in (value, own))
    assert described(own, value)[0] == "heads 0,2 of 4 differ, the others agree"


def test_what_cannot_be_described() -> None:
    """Integers, and values that are not finite."""
    assert shape(torch.arange(4), torch.arange(4), (ROWS, TOKENS), SETTINGS) == []
    assert described(VALUE / 0) == []
