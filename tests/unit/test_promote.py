"""Promotion lifts every cast that code can write, and nothing else."""

import math

import pytest
import torch
from torch import Tensor, nn

from parity.pair.promote import precision

CASTS = {
    "float()": lambda x: x.float(),
    "half()": lambda x: x.half(),
    "to(dtype)": lambda x: x.to(torch.bfloat16),
    "to(dtype=)": lambda x: x.to(dtype=torch.float32),
    "type()": lambda x: x.type(torch.float32),
    "softmax dtype": lambda x: torch.softmax(x, -1, dtype=torch.float32),
    "sum dtype": lambda x: x.sum(-1, dtype=torch.float32),
    "arange": lambda x: torch.arange(5, dtype=torch.float32) / 3,
    "tensor": lambda x: torch.tensor(1 / 3, dtype=torch.float32),
    "ones": lambda x: torch.ones(3, dtype=torch.bfloat16) / 3,
    "default": lambda x: torch.rand(3),
    "python scalar": lambda x: torch.tensor(math.pi),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casts_are_lifted(cast: object) -> None:
    """A cast to a smaller type gives float64."""
    assert callable(cast)
    with precision(promoted=True):
        result: Tensor = cast(torch.rand(4))
    assert result.dtype == torch.float64


def test_no_digits_are_lost() -> None:
    """A norm written for float32 is as exact as float64."""

    def norm(x: Tensor) -> Tensor:
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    x = torch.randn(8, 64, dtype=torch.float64)
    exact = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    assert not torch.equal(norm(x), exact)
    with precision(promoted=True):
        assert torch.equal(norm(x), exact)


def test_complex_rotation_is_lifted() -> None:
    """Complex numbers double with the rest."""
    with precision(promoted=True):
        turned = torch.polar(torch.ones(3), torch.rand(3)).to(torch.complex64)
    assert turned.dtype == torch.complex128


def test_modules_are_built_in_float64() -> None:
    """A dtype given to a constructor is lifted too."""
    with precision(promoted=True):
        layers = nn.Sequential(nn.Linear(3, 4, dtype=torch.bfloat16), nn.Embedding(3, 4), nn.RMSNorm(4))
    assert {parameter.dtype for parameter in layers.parameters()} == {torch.float64}


def test_integers_and_bits_are_left_alone() -> None:
    """Ids stay ids, and reading bits as another type is no cast."""
    with precision(promoted=True):
        assert torch.arange(3).dtype == torch.int64
        assert torch.zeros(2, dtype=torch.int32).dtype == torch.int32
        assert torch.tensor([1065353216], dtype=torch.int32).view(torch.float32).item() == 1.0


def test_default_dtype_is_put_back() -> None:
    """Also after an error."""
    with pytest.raises(ZeroDivisionError), precision(promoted=True):
        1 / 0  # noqa: B018
    assert torch.get_default_dtype() == torch.float32
    assert torch.rand(1).dtype == torch.float32
