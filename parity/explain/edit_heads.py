"""Mutations of what attention is given: keys and values of another layer, rotation where there is none."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.explain.edit_rope import rotations
from parity.explain.match import moves
from parity.explain.mutations import Context, Mutation, Region, again
from parity.explain.play import Edit, Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step
from parity.names import template

_BASE = 10_000.0
_SDPA = "scaled_dot_product_attention"
_MOST_LAYERS = 12


@dataclass(frozen=True)
class Heads:
    """What one call of an attention compares and mixes, each `[B, H, T, D]`, before heads are repeated."""

    call: tuple[str, int]
    q: Ref
    k: Ref
    v: Ref


def propose(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """Everything that goes wrong with heads as a whole, in the calls whose operations are among those inside."""
    every = [heads for heads in map(_heads_of(context), context.calls) if heads is not None]
    for heads in every:
        if inside.isdisjoint(context.calls[heads.call].steps):
            continue
        yield from _of_other_layers(context, inside, heads, every)
        yield from _turned(context, inside, heads)


def _heads_of(context: Context) -> "_Finder":
    length = 0 if context.tape.logits is None else context.tape.value(context.tape.logits).shape[1]
    return _Finder(context, length)


@dataclass(frozen=True)
class _Finder:
    context: Context
    length: int

    def __call__(self, call: tuple[str, int]) -> Heads | None:
        """The heads of one call of a module, if it is an attention."""
        if self.context.role_of(call[0]) != Role.attention:
            return None
        steps = [self.context.tape.steps[number] for number in self.context.calls[call].steps]
        products = [step for step in steps if step.name in ("matmul", "bmm", "__matmul__") or _SDPA in step.name]
        if products and _SDPA in products[0].name:
            taken = products[0].inputs[:3]
        elif len(products) == 2:
            taken = (*products[0].inputs[:2], products[1].inputs[1])
        else:
            return None
        found = [self._cut(ref) for ref in taken]
        if len(found) < 3 or None in found:
            return None
        q, k, v = (ref for ref in found if ref is not None)
        return Heads(call, q, k, v)

    def _cut(self, ref: Ref) -> Ref | None:
        """A value as heads, back to where it was made or cut into them."""
        found = None
        while True:
            for moved in moves(self.context.tape, ref):
                shape, last = self.context.tape.value(moved).shape, moved
                found = moved if len(shape) == 4 and shape[-2] == self.length != shape[-3] else found
            step = self.context.producer(last)
            if step.name != "mul" or len(step.inputs) != 1:
                return found
            ref = step.inputs[0]


def _of_other_layers(context: Context, inside: set[int], heads: Heads, every: list[Heads]) -> Iterator[Mutation]:
    """Keys and values, or one of them, taken from another layer; or one in the place of the other."""
    alike = [
        other
        for other in every
        if other.call != heads.call
        and max(other.k.step, other.v.step) < max(context.calls[heads.call].steps)
        and _shapes(context, other) == _shapes(context, heads)
    ]
    for other in alike[-_MOST_LAYERS:]:
        choices = (
            ("keys and values", {heads.k: other.k, heads.v: other.v}),
            ("keys", {heads.k: other.k}),
            ("values", {heads.v: other.v}),
        )
        for what, pairs in choices:
            instead = {own: theirs for own, theirs in pairs.items() if own != theirs}
            text = f"behaves as if {heads.call[0]} took the {what} of {other.call[0]}"
            name = f"{what} of {template(other.call[0])}"
            yield from _exchanged(context, inside, heads, instead, name, text)
    if heads.k != heads.v and context.tape.value(heads.k).shape == context.tape.value(heads.v).shape:
        text = f"behaves as if {heads.call[0]} took its keys for values"
        yield from _exchanged(context, inside, heads, {heads.v: heads.k}, "keys for values", text)
        text = f"behaves as if {heads.call[0]} took its values for keys"
        yield from _exchanged(context, inside, heads, {heads.k: heads.v}, "values for keys", text)


def _shapes(context: Context, heads: Heads) -> tuple[torch.Size, torch.Size]:
    return context.tape.value(heads.k).shape, context.tape.value(heads.v).shape


def _exchanged(
    context: Context, inside: set[int], heads: Heads, instead: dict[Ref, Ref], name: str, text: str
) -> Iterator[Mutation]:
    """The steps of one call given other values."""
    from parity.explain.edit_wiring import given_others

    users = {number for ref in instead for number in context.users.get(ref, ())}
    taking = users & set(context.calls[heads.call].steps) & inside
    edits: dict[int, Edit] = {
        number: given_others(instead) for number in taking if context.tape.steps[number].function is not None
    }
    if edits:
        yield Mutation("layer-wiring", name, text, edits, min(edits), 1.0, moves=True)


def _turned(context: Context, inside: set[int], heads: Heads) -> Iterator[Mutation]:
    """Queries and keys rotated in a layer whose heads tell no positions."""
    own = set(context.calls[heads.call].steps)
    turning = list(rotations(context))
    if any(own & set(region.steps) for region, _ in turning) or not {heads.q.step, heads.k.step} & inside:
        return
    turns = [_as_elsewhere(context, region, rotated) for region, rotated in turning[:1]] or [_by_itself(context)]
    for turn in turns:
        for what, refs in (("q and k", (heads.q, heads.k)), ("q", (heads.q,)), ("k", (heads.k,))):
            edits: dict[int, Edit] = {ref.step: _turning(turn) for ref in refs}
            text = f"behaves as if {what} were rotated, where this layer has no positions"
            weight = 1.0 if len(refs) == 2 else 1.05
            yield Mutation("nope-and-temperature", f"rope on {what}", text, edits, max(edits), weight)


class _Turn:
    """Rotates heads by positions: what one that is given a value makes of it."""

    def __call__(self, playing: Playing, value: Tensor) -> Tensor:
        """`[B, H, T, D]` -> `[B, H, T, D]`."""
        raise NotImplementedError


def _turning(turn: _Turn) -> Edit:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        arguments, keywords = playing.given(step)
        values = playing.compute(step, *arguments, **keywords)
        return (turn(playing, values[0]), *values[1:])

    return edit


@dataclass(frozen=True)
class _Elsewhere(_Turn):
    """As the layers do that do rotate."""

    context: Context
    region: Region
    given: Ref
    output: Ref

    def __call__(self, playing: Playing, value: Tensor) -> Tensor:
        return again(playing, self.context, self.region, {self.given: value}, self.output)


@dataclass(frozen=True)
class _Default(_Turn):
    """In halves, by a base that the config may name."""

    base: float

    def __call__(self, playing: Playing, value: Tensor) -> Tensor:
        size = value.shape[-1]
        exponents = torch.arange(0, size, 2, dtype=value.dtype) / size
        angles = torch.arange(value.shape[-2], dtype=value.dtype)[:, None] / self.base**exponents
        angles = torch.cat((angles, angles), -1)
        first, second = value.chunk(2, -1)
        return value * angles.cos() + torch.cat((-second, first), -1) * angles.sin()


def _as_elsewhere(context: Context, region: Region, rotated: dict[Ref, Ref]) -> _Turn:
    output, given = next(iter(rotated.items()))
    return _Elsewhere(context, region, given, output)


def _by_itself(context: Context) -> _Turn:
    bases = [number for name, number in context.numbers.items() if name.endswith("rope_theta")]
    return _Default(bases[0] if bases else _BASE)
