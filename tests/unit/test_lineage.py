"""A parameter's content tells which checkpoint tensors it holds, and where."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.compare.lineage import Holding, Index

torch.manual_seed(0)
CHECKPOINT = {
    "q": torch.randn(12, 8),
    "k": torch.randn(4, 8),
    "v": torch.randn(4, 8),
    "o": torch.randn(8, 12),
    "square": torch.randn(8, 8),
    "norm": torch.randn(8),
    "other_norm": torch.randn(8),
    "q_bias": torch.randn(12),
    "k_bias": torch.randn(4),
}
ORDER = torch.randperm(12)


@pytest.fixture
def index() -> Index:
    """The checkpoint above, ready for look-up."""
    return Index({name: tensor.double() for name, tensor in CHECKPOINT.items()})


def only(found: tuple[Holding, ...]) -> Holding:
    """The single tensor found."""
    assert len(found) == 1
    return found[0]


def rebuilt(parameter: Tensor, holding: Holding) -> Tensor:
    """The checkpoint tensor, put together again from the places that were found."""
    rows, columns = holding.places
    assert rows is not None
    assert columns is not None
    value = parameter if holding.param_axes[0] == 0 else parameter.T
    return value[rows][:, columns]


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("q", CHECKPOINT["q"]),
        ("q", CHECKPOINT["q"].T),
        ("q", CHECKPOINT["q"][ORDER]),
        ("o", CHECKPOINT["o"][:, ORDER]),
        ("o", CHECKPOINT["o"][:, ORDER].T),
        ("square", CHECKPOINT["square"].T),
    ],
    ids=["as is", "transposed", "rows permuted", "columns permuted", "both", "square transposed"],
)
def test_whole_matrices(index: Index, name: str, parameter: Tensor) -> None:
    """The places found put the tensor together again."""
    holding = only(index.find(parameter.double()))
    assert holding.tensor == name
    assert holding.complete
    assert torch.equal(rebuilt(parameter, holding), CHECKPOINT[name])


def test_fused_and_split(index: Index) -> None:
    """Parts of one parameter, and parts of one tensor."""
    fused = torch.cat([CHECKPOINT["v"], CHECKPOINT["q"], CHECKPOINT["k"]]).double()
    found = {holding.tensor: holding for holding in index.find(fused)}
    assert set(found) == {"q", "k", "v"}
    assert torch.equal(found["q"].places[0], torch.arange(4, 16))
    part = only(index.find(CHECKPOINT["q"][4:8].double()))
    assert (part.tensor, part.complete) == ("q", False)
    assert part.entries.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("change", [lambda x: x * 7.5, lambda x: x.view(3, 4, 8)], ids=["scaled", "reshaped"])
def test_scaled_and_reshaped(index: Index, change: Callable[[Tensor], Tensor]) -> None:
    """A folded factor and another number of axes keep the lineage."""
    assert only(index.find(change(CHECKPOINT["q"].double()))).tensor == "q"


@pytest.mark.parametrize("offset", [0.0, 1.0, -1.0])
def test_norm_with_the_one_folded(index: Index, offset: float) -> None:
    """(1 + w), w and w - 1 are the same lineage."""
    holding = only(index.find(CHECKPOINT["norm"].double() + offset))
    assert (holding.tensor, holding.complete) == ("norm", True)


def test_vectors_fused_and_permuted(index: Index) -> None:
    """Biases are recognised element by element."""
    fused = torch.cat([CHECKPOINT["k_bias"], torch.zeros(3), CHECKPOINT["q_bias"]]).double()
    found = {holding.tensor: holding for holding in index.find(fused)}
    assert set(found) == {"q_bias", "k_bias"}
    assert all(holding.complete for holding in found.values())
    permuted = only(index.find(CHECKPOINT["q_bias"][ORDER].double()))
    assert torch.equal(CHECKPOINT["q_bias"][ORDER][permuted.places[0]], CHECKPOINT["q_bias"])


def test_padding_is_no_lineage(index: Index) -> None:
    """A larger table that holds a tensor and more."""
    padded = torch.cat([CHECKPOINT["q"], torch.zeros(5, 8)]).double()
    holding = only(index.find(padded))
    assert (holding.tensor, holding.complete) == ("q", True)


@pytest.mark.parametrize(
    "stranger", [torch.randn(12, 8), torch.ones(8), torch.zeros(4, 8)], ids=["matrix", "ones", "zeros"]
)
def test_strangers_are_not_recognised(index: Index, stranger: Tensor) -> None:
    """Initial values and anything else."""
    assert index.find(stranger.double()) == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_vectors_fused_and_split_in_low_precision(dtype: torch.dtype) -> None:
    """Many entries share a value there; those that stand together tell which tensor is meant."""
    generator = torch.Generator().manual_seed(0)
    biases = {name: (torch.randn(96, generator=generator) * 0.3).to(dtype).double() for name in "qkvo"}
    index = Index(biases)
    fused = {holding.tensor: holding for holding in index.find(torch.cat([biases["q"], biases["v"], biases["k"]]))}
    assert set(fused) == {"q", "k", "v"}
    assert all(holding.complete for holding in fused.values())
    assert torch.equal(fused["v"].places[0], torch.arange(96, 192))
    part = only(index.find(biases["v"][12:24]))
    assert (part.tensor, part.complete) == ("v", False)
    assert part.entries.tolist() == list(range(12, 24))


def test_a_constant_vector_is_not_held(index: Index) -> None:
    """One value many times, which low precision has somewhere, is no lineage."""
    rounded = Index({"norm": torch.tensor([0.5, 1.0, 1.25, 0.75, 1.5]).double()})
    assert rounded.find(torch.ones(7).double()) == ()
    assert index.find(torch.ones(7).double()) == ()
