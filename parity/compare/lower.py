"""The port in the dtype of the weights: each parameter in that which the checkpoint has for what it holds."""

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

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
    own = {id(parameter) for parameter in model.parameters()}
    for name, tensor in parameters(model).items():
        held = loading.held.get(name, ())
        if held:
            _cast(tensor, _widest(stored[each].dtype for each in held))
        elif id(tensor) in own:
            _cast(tensor, pair.dtype)


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The dtype that loses nothing of several."""
    return reduce(torch.promote_types, dtypes)


def _cast(tensor: Tensor, dtype: torch.dtype) -> None:
    """In place, so that it changes under every name that the port keeps it by."""
    tensor.data = tensor.data.to(dtype)
