"""The blocks of a model: which modules they are, and what they hand to each other, seen on the small config.

A block can be run alone if all that it takes from the blocks before it are tensors that the one right before it
returned. That is tried, not assumed: every block of the small model is run alone, and has to give what it gave. They
are run in order, so that a block may also find what an earlier one has put into a dict that all of them are given.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from parity.compare.align import ModulePair
from parity.compare.capture import with_leaves
from parity.compare.measure import relative_error
from parity.names import template
from parity.records import PROMOTED_NOISE

_FEWEST = 2  # blocks, to see what one hands to the next


class _Stopped(BaseException):
    """Ends a forward after its last block; no author's code catches it."""


@dataclass(frozen=True)
class Arguments:
    """What a block is called with, as it is and flattened."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Arguments":
        """Those of a call."""
        return cls(args, dict(kwargs), tuple(tree_flatten((args, dict(kwargs)))[0]))

    def call(self, block: nn.Module, state: Mapping[int, Tensor]) -> tuple[Any, ...]:
        """Call a block with a state in place of what was there; what it returns, flattened."""
        args, kwargs = with_leaves(self.args, self.kwargs, state)
        return tuple(tree_flatten(block(*args, **kwargs))[0])


@dataclass(frozen=True)
class Chain:
    """One model's blocks.

    parent: the container of the blocks. carried: which result of a block is which argument of the next, both counted in
    flattened order. returned, rest: how what a block returns is put together, and what in it is not a tensor.
    """

    parent: str
    carried: tuple[tuple[int, int], ...]
    returned: TreeSpec
    rest: tuple[Any, ...]

    def names(self, model: nn.Module) -> list[str]:
        """The blocks of a model of any depth, in the order in which they run."""
        prefix = f"{self.parent}." if self.parent else ""
        return [f"{prefix}{name}" for name, _ in model.get_submodule(self.parent).named_children() if name.isdigit()]

    def state(self, results: Sequence[Any]) -> dict[int, Tensor]:
        """What the next block takes of a block's results."""
        return {place: results[result] for result, place in self.carried}

    def put_together(self, state: Mapping[int, Tensor]) -> Any:
        """What a block that has this state to hand on returns."""
        leaves = list(self.rest)
        for result, place in self.carried:
            leaves[result] = state[place]
        return tree_unflatten(leaves, self.returned)

    def arguments(self, model: nn.Module, forward: Callable[[], Tensor]) -> list[Arguments]:
        """What each block is called with, but for the state; no block is run, nor what comes after the last."""
        names = self.names(model)
        found: list[Arguments] = []

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            found.append(Arguments.of(args, kwargs))
            if len(found) == len(names):
                raise _Stopped
            leaves = found[-1].leaves
            hidden = next(leaves[place] for _, place in self.carried if isinstance(leaves[place], Tensor))
            return self.put_together({place: hidden for _, place in self.carried})

        with _replaced(model, names, stand_in), suppress(_Stopped):
            forward()
        return found

    def after(self, model: nn.Module, forward: Callable[[], Tensor], state: Mapping[int, Tensor]) -> Tensor:
        """The logits, given what the last block hands on; no block is run."""
        with _replaced(model, self.names(model), lambda *_, **__: self.put_together(state)):
            return forward()


@contextmanager
def _replaced(model: nn.Module, names: Sequence[str], stand_in: Callable[..., Any]) -> Iterator[None]:
    """Let blocks do something else."""
    blocks = [model.get_submodule(name) for name in names]
    for block in blocks:
        block.__dict__["forward"] = stand_in
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def main_tensor(leaves: Iterable[Any]) -> Tensor:
    """The main one of a block's arguments or results: the first floating tensor."""
    return next(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


def containers(pairs: Sequence[ModulePair], models: tuple[nn.Module, nn.Module]) -> tuple[str, str] | None:
    """The containers of the blocks on both sides: those whose numbered children are paired in order, and hold the most.

    None if there are none.
    """
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for pair in pairs:
        ours, mine = _numbered(pair.reference)
        theirs, other = _numbered(pair.port)
        if mine is not None and other is not None and not pair.partial:
            found.setdefault((ours, theirs), []).append((mine, other))
    whole = [places for places, numbers in found.items() if _covers(numbers, places, models)]
    return max(whole, key=lambda places: _size(models[0].get_submodule(places[0])), default=None)


def _numbered(name: str) -> tuple[str, int | None]:
    parent, _, last = name.rpartition(".")
    return parent, int(last) if last.isdigit() and "{}" not in template(parent) else None


def _covers(numbers: list[tuple[int, int]], places: tuple[str, str], models: tuple[nn.Module, nn.Module]) -> bool:
    """Whether children are paired one to one, in order, and none is left out."""
    counts = [
        sum(name.isdigit() for name, _ in model.get_submodule(place).named_children())
        for model, place in zip(models, places, strict=True)
    ]
    ours, theirs = [mine for mine, _ in sorted(numbers)], [other for _, other in sorted(numbers)]
    in_order = len(set(ours)) == len(ours) and theirs == sorted(set(theirs))
    return in_order and len(numbers) >= _FEWEST and counts == [len(numbers)] * 2


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class _Seen:
    """One call of a block in a whole run."""

    arguments: Arguments
    results: tuple[Any, ...]
    spec: TreeSpec


def chain(model: nn.Module, parent: str, forward: Callable[[], Tensor]) -> Chain | None:
    """The blocks of a small model in promoted float64, None if they cannot be run alone.

    Args:
        model: the whole model.
        parent: the container of its blocks.
        forward: runs it, and returns the logits.
    """
    seen: list[_Seen] = []
    names = Chain(parent, (), tree_flatten(None)[1], ()).names(model)
    expected = _watched(model, names, forward, seen)
    if len(seen) != len(names):
        return None
    carried = _carried(seen)
    if not carried or len({str(each.spec) for each in seen}) > 1:
        return None
    rest = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in seen[0].results)
    made = Chain(parent, carried, seen[0].spec, rest)
    return made if _holds(made, model, forward, seen, expected) else None


def _watched(model: nn.Module, names: Sequence[str], forward: Callable[[], Tensor], seen: list[_Seen]) -> Tensor:
    """Run a model, keeping the very arguments and results of its blocks."""

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        leaves, spec = tree_flatten(output)
        seen.append(_Seen(Arguments.of(args, kwargs), tuple(leaves), spec))

    handles = [model.get_submodule(name).register_forward_hook(keep, with_kwargs=True) for name in names]
    try:
        return forward()
    finally:
        for handle in handles:
            handle.remove()


def _carried(seen: Sequence[_Seen]) -> tuple[tuple[int, int], ...]:
    """Results of each block that are arguments of the next, and were not its own arguments already."""

    def between(before: _Seen, after: _Seen) -> set[tuple[int, int]]:
        return {
            (result, place)
            for result, given in enumerate(before.results)
            for place, taken in enumerate(after.arguments.leaves)
            if _is(given, taken) and not any(_is(given, own) for own in before.arguments.leaves)
        }

    steps = [between(before, after) for before, after in itertools.pairwise(seen)]
    common = set.intersection(*steps)
    return tuple(sorted(common)) if all(step == common for step in steps) else ()


def _is(first: Any, second: Any) -> bool:
    """Whether two values are one tensor, or one is a view of all of the other."""
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return False
    return first is second or (
        first.data_ptr() == second.data_ptr() and first.shape == second.shape and first.stride() == second.stride()
    )


def _holds(
    made: Chain, model: nn.Module, forward: Callable[[], Tensor], seen: Sequence[_Seen], expected: Tensor
) -> bool:
    """Whether each block alone, and what comes after them, gives what it gave in the whole run."""
    try:
        arguments = made.arguments(model, forward)
        if len(arguments) != len(seen):
            return False
        for name, taken, whole in zip(made.names(model), arguments, seen, strict=True):
            state = {place: whole.arguments.leaves[place] for _, place in made.carried}
            alone = taken.call(model.get_submodule(name), state)
            if not all(_same(alone[result], whole.results[result]) for result, _ in made.carried):
                return False
        return _same(made.after(model, forward, made.state(seen[-1].results)), expected)
    except Exception:  # code that needs more than that of its blocks fails anywhere
        return False


def _same(first: Any, second: Any) -> bool:
    alike = isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape
    return alike and relative_error(first, second) <= PROMOTED_NOISE
