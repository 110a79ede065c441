"""Some modules of a model as a model of their own, under the names they have there, so that only they are watched."""

from collections.abc import Iterable

from torch import nn


def box(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A model of nothing but these modules of `model` and what is in them."""
    root = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        place = root
        for parent in parents:
            if parent not in dict(place.named_children()):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(last, model.get_submodule(name))
    return root


def beside(model: nn.Module, parent: str) -> list[str]:
    """The outermost modules of a model that neither are in the container `parent`, nor contain it."""
    found: list[str] = []

    def walk(module: nn.Module, name: str) -> None:
        for key, child in module.named_children():
            inner = f"{name}.{key}".removeprefix(".")
            if f"{parent}.".startswith(f"{inner}."):
                if inner != parent:
                    walk(child, inner)
            else:
                found.append(inner)

    walk(model, "")
    return found
