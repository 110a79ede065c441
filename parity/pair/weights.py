"""Weights: random ones that hide nothing, and the read-only mapping from which both sides load them."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

_SPREAD = 0.3
_GAIN = 0.4  # of norms as wide as the stream; at one, what blocks add to it grows with depth, and drowns every eps
_SIZES = 1.0  # spread of the logarithm of tokens' sizes; an eps that is wrong moves tokens of one size alike
_CORRECTION_SPREAD = 0.03  # a router bias as wide as the scores starves experts
_CORRECTION = -1.0  # all alike, so of no effect; but scores below zero lose to groups hidden by a zero
_MILD_DECAY = -2.0  # log A: the initialiser's strongest decays empty a recurrent state


class MissingTensor(KeyError):
    """A loader asked for a tensor that the checkpoint does not hold."""


class Tensors(Mapping[str, Tensor]):
    """A checkpoint's tensors by name, read on demand from memory-mapped safetensors; every read is a fresh tensor.

    With `promoted`, floating tensors come as float64, so that whatever a loader computes from them keeps its digits.
    `asked` is told of every name that a loader asks for. `names` are those that it is offered, and what the files call
    them; by default all, as they are.
    """

    def __init__(
        self,
        directory: Path,
        promoted: bool,
        perturbed: frozenset[str] = frozenset(),
        asked: Callable[[str], None] | None = None,
        names: Mapping[str, str] | None = None,
    ):
        self._asked = asked
        self._promoted = promoted
        self._perturbed = perturbed
        self._files: dict[str, safe_open] = {}
        for path in sorted(directory.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            self._files.update(dict.fromkeys(file.keys(), file))
        self._names = {name: name for name in self._files} if names is None else dict(names)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise MissingTensor(name)
        self.read.add(name)
        if self._asked is not None:
            self._asked(name)
        with torch._C.DisableTorchFunction():  # reading bytes is not a cast to promote
            stored = self._names[name]
            tensor: Tensor = self._files[stored].get_tensor(stored)
        if not tensor.is_floating_point():
            return tensor
        if self._promoted:
            tensor = tensor.double()
        return tensor * 1.5 + 0.25 if name in self._perturbed else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


@torch.no_grad()
def randomise(model: nn.Module, seed: int, input_axes: Mapping[str, int]) -> None:
    """Give every parameter and stored buffer a value that hides nothing, in place.

    Matrices keep activations near one, embeddings come out near one on average and differ in size from token to token,
    vectors spread around their initial value, those of norms over the stream around a smaller one; no tensor stays
    constant. Each tensor has a random stream of its own, so a change in one leaves the others as they were.
    """
    stored = model.state_dict(keep_vars=True)
    owners = dict(model.named_modules())
    widths = {owner.embedding_dim for owner in owners.values() if isinstance(owner, nn.Embedding)}
    done: set[int] = set()
    for name, tensor in stored.items():
        if tensor.data_ptr() in done or not tensor.is_floating_point():
            continue
        done.add(tensor.data_ptr())
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
        noise = torch.randn(tensor.shape, generator=generator)
        owner = owners[name.rpartition(".")[0]]
        if isinstance(owner, nn.Embedding):
            noise *= torch.exp(_SIZES * torch.randn(tensor.shape[0], 1, generator=generator))
            tensor.copy_(noise)
            tensor.copy_(noise / _output_scale(owner))
        elif tensor.ndim >= 2:
            tensor.copy_(noise / math.sqrt(tensor.shape[input_axes.get(name, -1)]))
        elif "correction_bias" in name or "expert_bias" in name:
            tensor.copy_(_CORRECTION + noise * _CORRECTION_SPREAD)
        elif tensor.shape[0] in widths and (ungained := _ungained(owner, tensor)) is not None:
            tensor.copy_(ungained + _GAIN * (1 + _SPREAD * noise))
        else:
            base = torch.full_like(tensor, _MILD_DECAY) if name.endswith("A_log") else tensor.detach().clone()
            tensor.copy_(base + _SPREAD * noise)


def _output_scale(embedding: nn.Embedding) -> float:
    """Root mean square of what the embedding hands on, scales of its own included."""
    ids = torch.arange(min(embedding.num_embeddings, 64))
    return float(embedding(ids).float().pow(2).mean().sqrt())


def _ungained(owner: nn.Module, weight: Tensor) -> float | None:
    """The weight at which a norm gives nothing, 0 or -1 as a rule; None for a vector that scales no norm."""
    given = torch.linspace(-1.0, 2.0, weight.shape[0])[None]

    def gives(value: float, times: float = 1.0) -> Tensor:
        weight.fill_(value)
        result: Tensor = (owner(times * given) - owner(-times * given)).float()  # without a bias
        return result

    was = weight.clone()
    try:
        nothing, whole, larger = gives(0.0), gives(1.0), gives(1.0, 2.0)
    except Exception:  # whatever it is, it is no norm
        return None
    finally:
        weight.copy_(was)
    slope = whole - nothing
    if not torch.allclose(whole, larger, rtol=1e-3) or slope.abs().max() < 1e-3:
        return None
    return -round(float((nothing * slope).sum() / (slope * slope).sum()), 3)
