"""The port in the dtype of the weights: each parameter in that which the checkpoint has for what it holds."""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from parity.compare.lineage import SHORTEST, Index
from parity.compare.loading import Loading
from parity.compare.sides import parameters
from parity.pair.pair import Pair
from parity.pair.weights import Tensors


def lower(pair: Pair, loading: Loading) -> None:
    """Cast the port's plain model, in place, to what the reference holds; a port in float32 stays as it is.

    Tables that hold nothing of the checkpoint stay as the port built them: which of them to round is the author's to
    say, and a reference keeps its rotary ones in float32.
    """
    if pair.dtype == torch.float32:
        return
    stored = Tensors(pair.checkpoint, promoted=False)
    model = pair.port_model.model
    saved = model.state_dict().keys() - set(loading.untouched)  # too short ones do not show what they hold
    own = {id(parameter) for parameter in model.parameters()}
    for name, tensor in parameters(model).items():
        held = loading.held.get(name, ())
        if held:
            _cast(tensor, _widest(stored[each].dtype for each in held))
        elif id(tensor) in own or (tensor.numel() < SHORTEST and name in saved):
            _cast(tensor, pair.dtype)


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The dtype that loses nothing of several."""
    return reduce(torch.promote_types, dtypes)


def _cast(tensor: Tensor, dtype: torch.dtype) -> None:
    """In place, so that it changes under every name that the port keeps it by."""
    tensor.data = tensor.data.to(dtype)


class Stored(Tensors):
    """A checkpoint's tensors as `from_pretrained` reads them into `dtype`, or into what the reference keeps otherwise.

    A loader that computes with them (folds a norm's +1, scales an embedding) then rounds no more than it has to.
    """

    def __init__(
        self,
        directory: Path,
        names: Mapping[str, str],
        dtype: torch.dtype,
        reference: nn.Module | None,
        called: Callable[[str], str] = str,
    ):
        super().__init__(directory, promoted=False, names=names)
        self._dtype = dtype
        self._apart = {} if reference is None else _held_apart(reference, dtype, called)

    def __getitem__(self, name: str) -> Tensor:
        tensor = super().__getitem__(name)
        return tensor.to(self._apart.get(name, self._dtype)) if tensor.is_floating_point() else tensor


def _held_apart(reference: nn.Module, dtype: torch.dtype, called: Callable[[str], str]) -> dict[str, torch.dtype]:
    """What the reference does not hold in the dtype of the run, by what the checkpoint calls it."""
    stored = {name: value.dtype for name, value in reference.state_dict().items() if value.is_floating_point()}
    return {called(name): kept for name, kept in stored.items() if kept != dtype}


def lower_like(
    model: nn.Module,
    reference: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    called: Callable[[str], str] = str,
) -> None:
    """The same for a model that no audit was made of, with a checkpoint as `from_pretrained` stores it in `dtype`.

    Args:
        model: the port's, loaded, in float32; changed in place.
        reference: the reference's model in `dtype`; what it keeps in another one, the port keeps in that.
        tensors: the checkpoint's.
        dtype: of the run.
        called: what the checkpoint calls a tensor of the reference's.
    """
    if dtype == torch.float32:
        return
    own = {id(parameter) for parameter in model.parameters()}
    every = parameters(model)
    tables = {name: value for name, value in every.items() if id(value) not in own}
    held_apart = _held_apart(reference, dtype, called)
    most = max((table.numel() for table in tables.values()), default=0)
    index = Index({name: tensor for name, tensor in tensors.items() if name in held_apart or tensor.numel() <= most})
    for name, value in every.items():
        if name in tables and not _whole(value, index):
            continue
        found = index.find(value) if held_apart else ()
        _cast(value, _widest(held_apart.get(each.tensor, dtype) for each in found) if found else dtype)


def _whole(table: Tensor, index: Index) -> bool:
    """Whether all of a table is of the checkpoint; a number here and there is by chance."""
    return sum(len(each.entries) for each in index.find(table)) >= min(table.squeeze().shape or (1,))
