"""Where a port leaves its own full forward: the first operation of a call that gives what the full forward has not.

The code of both runs is the same, so a value is held against what the same line gave in the full forward. A line that
only runs with a cache has no such twin; what it gives is judged by what is made from it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from parity.explain.cells import Cells
from parity.explain.match import is_layout
from parity.explain.play import backward, uses
from parity.explain.trace import Ref, Step, Tape

_HIDDEN = -1e9
_NEGATING = ("__invert__", "logical_not", "bitwise_not")
_PASSING = ("masked_fill", "where", "masked_fill_", "to", "expand")
_ATTENDING = ("softmax", "scaled_dot_product_attention")
_FOLLOWED = 24
_NEAR = 400  # values behind a wrong one that are looked at
_MOST_SEARCHED = 64  # values of one size that a value without a twin is held against


@dataclass(frozen=True)
class Executed:
    """A program run and recorded. starts: the step with which each call begins."""

    tape: Tape
    starts: tuple[int, ...]
    cells: tuple[Cells, ...]

    def call(self, step: int) -> int:
        """The call that a step belongs to."""
        return max((number for number, start in enumerate(self.starts) if start <= step), default=0)


class Astray:
    """The values of some calls against those of one full forward."""

    def __init__(self, run: Executed, full: Tape):
        self.run = run
        self.full = full
        self._known: dict[Ref, bool | None] = {}

    @cached_property
    def _twins(self) -> dict[object, list[Step]]:
        """The full forward's steps by operation, module and the code that they were written in."""
        found: dict[object, list[Step]] = {}
        for step in self.full.steps:
            for key in _keys(step):
                found.setdefault(key, []).append(step)
        return found

    @cached_property
    def _turns(self) -> dict[tuple[int, object], list[int]]:
        """The same of the calls, each by itself, as numbers of steps."""
        found: dict[tuple[int, object], list[int]] = {}
        for step in self.run.tape.steps:
            for key in _keys(step):
                found.setdefault((self.run.call(step.number), key), []).append(step.number)
        return found

    def twin(self, ref: Ref) -> Tensor | None:
        """What the same operation gave in the full forward, None if it did not run there as often."""
        step = self.run.tape.steps[ref.step]
        for key in _keys(step):
            own, theirs = self._turns[self.run.call(ref.step), key], self._twins.get(key, [])
            if len(own) == len(theirs):
                found = theirs[own.index(step.number)].values
                return found[ref.part] if ref.part < len(found) else None
        return None

    def right(self, ref: Ref) -> bool | None:
        """Whether a value is part of what the full forward has; None if that cannot be told."""
        if ref not in self._known:
            self._known[ref] = self._judged(ref)
        return self._known[ref]

    def _judged(self, ref: Ref) -> bool | None:
        step = self.run.tape.steps[ref.step]
        if step.name == "leaf" and not step.frames:
            return None
        value, cells = self.run.tape.value(ref), self.run.cells[self.run.call(ref.step)]
        twin = self.twin(ref)
        found = None if twin is None else cells.relation(value, twin)
        if found is None and value.is_floating_point() and self._stands(value, step.module, cells):
            return True
        return found

    def _stands(self, value: Tensor, module: str, cells: Cells) -> bool:
        """Whether a value is part of any that the same module has in the full forward."""
        near = (other for other in self._in_module.get(module, ()) if _alike(value, other, cells.probe))
        return any(cells.relation(value, other) for other in islice(near, _MOST_SEARCHED))

    @cached_property
    def _in_module(self) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for step in self.full.steps:
            found.setdefault(step.module, []).extend(value for value in step.values if value.is_floating_point())
        return found

    def culprits(self, wrong: Iterable[Ref]) -> list[Ref]:
        """The values that are wrong though nothing that they were made from is, the first one first."""
        tape = self.run.tape
        reached = list(backward(tape, wrong, lambda ref, _: self.right(ref) is True))
        wrongly = {ref for ref in reached if self.right(ref) is False}
        clean: dict[Ref, bool] = {}
        for ref in sorted(reached):  # inputs come before what is made of them
            inputs = [other for other in tape.steps[ref.step].inputs if self.right(other) is not True]
            clean[ref] = all(other not in wrongly and clean.get(other, True) for other in inputs)
        found = sorted(ref for ref in wrongly if clean[ref])
        return [ref for ref in found if not self._vindicated(ref)] or found

    def _vindicated(self, ref: Ref) -> bool:
        """Whether something right was made of a value in the same call: then it was right, in a form of its own.

        Positions that count padding turn queries and keys alike, and their scores come out the same.
        """
        call, waiting, seen = self.run.call(ref.step), [ref], {ref}
        while waiting and len(seen) <= _FOLLOWED:
            for number in self.users.get(waiting.pop(0), ()):
                for other in self.run.tape.steps[number].refs:
                    if other not in seen and self.run.call(number) == call:
                        seen.add(other)
                        waiting.append(other)
                        if self.run.tape.value(other).is_floating_point() and self.right(other):
                            return True
        return False

    def behind(self, ref: Ref) -> Iterator[Ref]:
        """What a value was made from, the nearest first, right values too."""
        found = backward(self.run.tape, [ref], lambda _ref, _step: False)
        for count, other in enumerate(found):
            if count > _NEAR:
                return
            if other != ref:
                yield other

    def needed(self, ref: Ref) -> set[int]:
        """The tokens that a call's last query attends to in the full forward, of a value of attention weights."""
        twin, cells = self.twin(ref), self.run.cells[self.run.call(ref.step)]
        if twin is None or twin.ndim < 2 or list(twin.shape[-2:]) != [cells.probe] * 2:
            return set()
        row = twin.reshape(-1, cells.probe, cells.probe)[0, cells.so_far - 1]
        return {int(place) for place in ((row != 0) & (row > _HIDDEN)).nonzero().flatten()}

    def lost_at(self, ref: Ref, needed: set[int]) -> Ref | None:
        """The operation that drops keys or values of tokens that are needed, among those behind a wrong value."""
        cells = self.run.cells[self.run.call(ref.step)]
        held: dict[Ref, set[int]] = {}
        for other in self.behind(ref):
            step = self.run.tape.steps[other.step]
            if step.module == self.run.tape.steps[ref.step].module and step.frames:
                places = self._places(other, cells)
                if places is not None:
                    held[other] = places
        lacking = [other for other, places in held.items() if needed - places]
        for other in sorted(lacking, reverse=True):
            inputs = [held[each] for each in self.run.tape.steps[other.step].inputs if each in held]
            if any(needed & (places - held[other]) for places in inputs):
                return other
        return None

    def stale(self, ref: Ref) -> Ref | None:
        """What an earlier call kept without its latest token, among what a wrong value was made from."""
        call, module = self.run.call(ref.step), self.run.tape.steps[ref.step].module
        for other in self.behind(ref):
            cells = self.run.cells[self.run.call(other.step)]
            if self.run.call(other.step) == call or not self.run.tape.steps[other.step].frames:
                continue
            full = (*self._in_module.get(module, ()), *self._in_module.get(self.run.tape.steps[other.step].module, ()))
            found = (cells.places(self.run.tape.value(other), each) for each in full)
            places = next((each for each in found if each), None)
            if places is not None and max(places) >= 0 and places[-1] != cells.so_far - 1:
                return other
        return None

    def _places(self, ref: Ref, cells: Cells) -> set[int] | None:
        """Of which tokens a value of several has something."""
        value = self.run.tape.value(ref)
        near = self._in_module.get(self.run.tape.steps[ref.step].module, ())
        for other in near:
            places = cells.places(value, other)
            if places is not None and len(places) > cells.tokens:
                return set(places) - {-1}
        return None

    def mask_behind(self, ref: Ref) -> Ref | None:
        """What hides tokens, among what a wrong value was made from in this call: where its last condition was made.

        Only if it is not known to be right, or says nothing of rows though they are padded.
        """
        number, pads = self.run.call(ref.step), self.run.cells[self.run.call(ref.step)].pads
        blank: Ref | None = None
        wrong: list[Ref] = []
        for other in self.behind(ref):
            step = self.run.tape.steps[other.step]
            value = self.run.tape.value(other)
            here = step.frames and self.run.call(other.step) == number and value.ndim > 1
            passed = step.name.rpartition(".")[2] in _PASSING and value.dtype != torch.bool
            if not here or is_layout(step.name) or passed or step.name.rpartition(".")[2] in _NEGATING:
                continue
            if value.dtype != torch.bool and not (value.is_floating_point() and bool((value <= _HIDDEN).any())):
                continue
            if any(pads) and value.shape[0] != len(pads):
                blank = other  # the first of those that say nothing of rows is where they should have come in
            elif self.right(other) is not True:
                wrong.append(other)
        known = [other for other in wrong if self.right(other) is False]
        return blank or min(known, default=next(iter(wrong), None))

    def attends(self, ref: Ref) -> Ref | None:
        """Where queries that are made of a value attend, in the same call: what was to be hidden is hidden there."""
        call, waiting, seen = self.run.call(ref.step), [ref], {ref}
        while waiting and len(seen) <= _FOLLOWED:
            at = waiting.pop(0)
            if self.run.tape.steps[at.step].name.rpartition(".")[2] in _ATTENDING:
                return at
            for number in self.users.get(at, ()):
                fresh = [each for each in self.run.tape.steps[number].refs if each not in seen]
                seen.update(fresh)
                waiting += fresh if self.run.call(number) == call else []
        return None

    def makes(self, ref: Ref) -> str:
        """What a whole number is used for: `mask` if it is compared, `position` if something is computed from it."""
        waiting = [ref]
        for _ in range(_FOLLOWED):
            if not waiting:
                break
            for number in self.users.get(waiting.pop(0), ()):
                for other in self.run.tape.steps[number].refs:
                    value = self.run.tape.value(other)
                    if value.dtype == torch.bool:
                        return "mask"
                    if value.is_floating_point():
                        return "position"
                    waiting.append(other)
        return "position"

    @cached_property
    def users(self) -> dict[Ref, list[int]]:
        """The steps that take each value."""
        return uses(self.run.tape)


def _alike(value: Tensor, full: Tensor, probe: int) -> bool:
    """Whether two shapes differ in axes of tokens alone."""
    shapes = zip(value.shape, full.shape, strict=False)
    return value.ndim == full.ndim and all(theirs in (ours, probe) for ours, theirs in shapes)


def _keys(step: Step) -> tuple[object, ...]:
    """What tells that two steps are of the same code: all calls that led there, or the innermost alone."""
    chain = tuple((frame.code, frame.at) for frame in step.frames)
    return ((step.name, step.module, chain), (step.name, step.module, chain[:1])) if chain else ()
