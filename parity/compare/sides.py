"""The two sides of a comparison: a model, its run, and the checkpoint tensors its modules hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from parity.compare.capture import Trace
from parity.compare.lineage import Holding, Index
from parity.compare.measure import identical

NEVER = 1 << 62


@dataclass(frozen=True)
class Side:
    """One model after one run. holdings: parameter name -> what it holds of the checkpoint."""

    model: nn.Module
    trace: Trace
    holdings: Mapping[str, tuple[Holding, ...]]

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        """All modules but the root, by name."""
        return {name: module for name, module in self.model.named_modules() if name}

    @cached_property
    def owned(self) -> Mapping[str, Mapping[str, tuple[Holding, ...]]]:
        """Per module, the parameters that are its own; modules without any are left out."""
        found: dict[str, dict[str, tuple[Holding, ...]]] = {}
        for name, holdings in self.holdings.items():
            found.setdefault(self.owner(name), {})[name] = holdings
        return found

    def keeps_weights(self, module: str) -> bool:
        """Whether a module itself has parameters or anything of the checkpoint; tables it computed do not count."""
        own = any(True for _ in self.modules[module].parameters(recurse=False))
        return own or any(self.owned.get(module, {}).values())

    def tensors_of(self, module: str) -> set[str]:
        """The checkpoint tensors that a module's own parameters hold."""
        return {holding.tensor for holding in self.held(module)}

    def held(self, module: str) -> list[Holding]:
        """What a module's own parameters hold of the checkpoint."""
        return [holding for found in self.owned.get(module, {}).values() for holding in found]

    def serves(self, tensor: str) -> str:
        """The module that uses a checkpoint tensor; the one that its name speaks of if none does."""
        return next((name for name in self.owned if tensor in self.tensors_of(name)), tensor.rpartition(".")[0])

    def holds_weights(self, module: str) -> bool:
        """Whether a module, or one inside it, has parameters."""
        return any(True for _ in self.model.get_submodule(module).parameters())

    def owner(self, tensor: str) -> str:
        """The module that keeps a tensor, the root ("") if none inside does."""
        return next(name for name in parents(tensor) if not name or name in self.modules)

    def calls(self, module: str) -> int:
        """How often a module was called."""
        return len(self.trace.calls.get(module, ()))

    def takes_ids(self, module: str) -> bool | None:
        """Whether a module's main input is of integers; None if it was never called or took no tensor."""
        calls = self.trace.calls.get(module, ())
        return not calls[0].inputs[0].is_floating_point() if calls and calls[0].inputs else None

    def began(self, module: str) -> int:
        """When a module was first called, for sorting; modules never called come last."""
        calls = self.trace.calls.get(module, ())
        return min((call.began for call in calls), default=NEVER)

    def is_leaf(self, module: str) -> bool:
        """Whether a module has no submodules."""
        return not any(True for _ in self.modules[module].children())

    def is_identity(self, module: str) -> bool:
        """Whether a module does nothing in eval mode, so that leaving it out is no difference."""
        if isinstance(self.modules[module], nn.Dropout | nn.Identity):
            return True
        calls = self.trace.calls.get(module, ())
        passed_on = [call.inputs and call.outputs and identical(call.inputs[0], call.outputs[0]) for call in calls]
        return bool(calls) and self.is_leaf(module) and not self.keeps_weights(module) and all(passed_on)


def parents(name: str) -> Iterable[str]:
    """The enclosing modules of `name`, innermost first, the root ("") last."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Floating tensors that a model keeps: parameters, buffers and plain attributes, tied ones under each name."""
    found = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if not name.startswith("_"):
                found |= _tensors(f"{prefix}.{name}" if prefix else name, value)
    return {name: value for name, value in found.items() if value.is_floating_point() and not value.is_meta}


def _tensors(name: str, value: object) -> dict[str, Tensor]:
    """Tensors in an attribute, or in lists and dictionaries kept there."""
    if isinstance(value, Tensor):
        return {name: value}
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    found: dict[str, Tensor] = {}
    for key, inner in items:
        found |= _tensors(f"{name}.{key}", inner)
    return found


def holdings(model: nn.Module, index: Index) -> dict[str, tuple[Holding, ...]]:
    """What each parameter and stored buffer of a model holds of the checkpoint."""
    found: dict[int, tuple[Holding, ...]] = {}
    result = {}
    for name, value in parameters(model).items():
        key = value.data_ptr()
        if key not in found or value.numel() == 0:
            found[key] = index.find(value)
        result[name] = found[key]
    return result
