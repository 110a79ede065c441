"""How the reference is built and run, seen on the meta device at full size: no weights, no memory.

The model is built and called on tokens without values. Shapes, modules, calls and the cache are what they are with
values; experts are not entered, because which tokens they get depends on values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parity.card.layers import Layer
from parity.names import block, numbers, template
from parity.pair import reference as references
from parity.pair.mapped import without_memory
from parity.pair.reference import Reference

_TOKENS = 5
_PAST = 9  # tokens past a window


@dataclass(frozen=True)
class Shape:
    """A parameter: its shape, the class of the module that holds it, and whether experts do."""

    name: str
    shape: tuple[int, ...]
    class_name: str
    expert: bool

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Norm:
    """A norm: its name with `{}` for numbers, its class, its width, whether it has a bias and scales by 1 + weight."""

    name: str
    class_name: str
    width: int
    bias: bool
    offset: bool
    place: str
    count: int


@dataclass(frozen=True)
class Structure:
    """What the reference is made of.

    parameters: tied ones once. chosen: experts that a token gets. tied: whether the head is the embedding. scales: what
    embeddings are multiplied by, those that are. rotary: whether there are rotated positions. kept: of each length
    tried, each layer's cache: name -> (numbers, bytes). failed: why it could not be run, if it could not.
    """

    parameters: tuple[Shape, ...]
    modules: Mapping[str, str]
    norms: tuple[Norm, ...]
    chosen: int | None
    tied: bool
    scales: Mapping[str, float]
    rotary: bool
    kept: Mapping[int, tuple[Mapping[str, tuple[int, int]], ...]]
    failed: str = ""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(each.numel for each in self.parameters)

    @property
    def active(self) -> int | None:
        """Parameters that one token meets: of experts, those chosen; None if it is not known how many are."""
        experts = [each for each in self.parameters if each.expert]
        if experts and self.chosen is None:
            return None
        idle = sum(each.numel - each.numel // each.shape[0] * (self.chosen or 0) for each in experts)
        return self.total - idle

    def bytes(self, tokens: int) -> int:
        """Of the cache after so many tokens."""
        return sum(size for layer in self.kept[tokens] for _, size in layer.values())


def inspect(reference: Reference, layers: Sequence[Layer], dtype: torch.dtype = torch.bfloat16) -> Structure:
    """Build and run the reference without values.

    Args:
        reference: which.
        layers: what its config says of them, for windows to reach past.
        dtype: of weights and cache.

    Raises:
        ParityError: its class rejects the config.
    """
    model = references.build(reference, False, without_memory())
    scales = _scales(model)
    model = model.to("meta").to(dtype)
    windows = {layer.mixer.window for layer in layers if layer.mixer.window}
    lengths = sorted({_TOKENS, _TOKENS + 1, *(window + _PAST for window in windows)})
    chosen: list[int] = []
    order: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    kept, failed = {}, ""
    with _experts_closed(model, chosen), _heard(model, order):
        for tokens in lengths:
            try:
                kept[tokens] = cached(model, torch.zeros(1, tokens, dtype=torch.long, device="meta"))
            except Exception as error:  # a forward that needs values fails wherever it asks for one
                failed = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                break
    places = _places(order)
    return Structure(
        parameters=tuple(_shapes(model)),
        modules={name: type(module).__name__ for name, module in model.named_modules()},
        norms=tuple(_norms(model, places)),
        chosen=chosen[0] if chosen else None,
        tied=_tied(model),
        scales=scales,
        rotary=any("rotary" in type(module).__name__.lower() for module in model.modules()),
        kept={} if failed else kept,
        failed=failed,
    )


@torch.no_grad()
def cached(model: nn.Module, input_ids: Tensor) -> tuple[dict[str, tuple[int, int]], ...]:
    """What the reference keeps of tokens `[B, T]`: for each layer, numbers and bytes of every tensor by name."""
    with input_ids.device:
        found = model(input_ids=input_ids, use_cache=True).past_key_values
    return tuple(dict(_tensors(layer)) for layer in found.layers)


def _tensors(layer: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every tensor with an axis that a layer of a cache holds, in a dict or not."""
    for name, value in vars(layer).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, each in inner:
            if isinstance(each, Tensor) and each.ndim:
                yield f"{name}.{key}".rstrip("."), (each.numel(), each.nbytes)


def _is_experts(module: nn.Module) -> bool:
    """A module of the reference's own that holds matrices of several experts as one."""
    own = [each for each in module.parameters(recurse=False) if each.ndim == 3]
    return bool(own) and not type(module).__module__.startswith("torch.")


@contextmanager
def _experts_closed(model: nn.Module, chosen: list[int]) -> Iterator[None]:
    """Inside this, experts hand on something of their input's shape, and tell how many of them each token gets."""
    closed = [module for module in model.modules() if _is_experts(module)]

    def stand_in(hidden: Tensor, *others: Any, **more: Any) -> Tensor:
        widths = {each.shape[-1] for each in (*others, *more.values()) if isinstance(each, Tensor) and each.ndim == 2}
        if len(widths) == 1:
            chosen.append(widths.pop())
        return torch.empty_like(hidden)

    for module in closed:
        module.forward = stand_in
    try:
        yield
    finally:
        for module in closed:
            del module.__dict__["forward"]


@contextmanager
def _heard(model: nn.Module, order: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> Iterator[None]:
    """Inside this, calls in blocks are written down: who, and which tensors went in and came out."""
    alive: list[Tensor] = []  # an id is one tensor's as long as that lives
    handles = [
        module.register_forward_hook(_hear(name, order, alive), with_kwargs=True)
        for name, module in model.named_modules()
        if numbers(name) and name != block(name)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hear(name: str, order: list[Any], alive: list[Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        came = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        went = [each for each in (result if isinstance(result, tuple) else (result,)) if isinstance(each, Tensor)]
        alive.extend([*came, *went])
        order.append((name, tuple(map(id, came)), tuple(map(id, went))))

    return hook


def _places(order: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> dict[str, str]:
    """Norms that are called in a block itself: before the part that takes what they give, or after one.

    A norm stands behind a part if that part gave it the very tensor it normalises.
    """
    givers: dict[int, str] = {}
    takers: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, came, went in order:
        if name.count(".") == block(name).count(".") + 1:
            for each in came:
                takers.setdefault(each, name)
            givers.update(dict.fromkeys(went, name))
    for name, came, went in order:
        own = template(name)
        if "norm" in name.lower() or "ln_" in name:
            before = next((takers[each] for each in went if each in takers), None)
            after = next((givers[each] for each in came if each in givers), None)
            part = after or before
            if part is not None and name.count(".") == block(name).count(".") + 1:
                found.setdefault(own, f"{'after' if after else 'before'} {part.rpartition('.')[2]}")
    return found


def _shapes(model: nn.Module) -> Iterator[Shape]:
    owners = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner = owners[name.rpartition(".")[0]]
        expert = _is_experts(owner) and parameter.ndim >= 2
        yield Shape(name, tuple(parameter.shape), type(owner).__name__, expert)


def _norms(model: nn.Module, places: Mapping[str, str]) -> Iterator[Norm]:
    kinds: dict[tuple[str, int], list[nn.Module]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, Tensor) and weight.ndim == 1:
            kinds.setdefault((template(name), weight.shape[0]), []).append(module)
    for (name, width), modules in kinds.items():
        bias = isinstance(getattr(modules[0], "bias", None), Tensor)
        kind = type(modules[0])
        yield Norm(name, kind.__name__, width, bias, _offset(kind), places.get(name, ""), len(modules))


def _offset(kind: type[nn.Module]) -> bool:
    """Whether a norm scales by 1 + weight: its weight begins at zero then."""
    try:
        made = kind(2)
        return bool((made.weight == 0).all())  # type: ignore[union-attr]
    except Exception:  # a class that wants more than a width
        return False


def _scales(model: nn.Module) -> dict[str, float]:
    """What embeddings are multiplied by; a buffer with a value, unlike weights."""
    return {
        name: float(each)
        for name, each in model.named_buffers()
        if name.endswith("embed_scale") and each.numel() == 1 and not each.is_meta
    }


def _tied(model: nn.Module) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    return head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", 0)
