"""The line of a fault made while loading: the entry of WEIGHTS, or where a loader asked for a tensor or wrote it.

A tensor in the wrong place can be the fault of the loader or of the code that uses it. The loader is taken at its word
where its names tell two tensors apart; else the one of the two that departs from the reference's order is wrong.
"""

import ast
import linecache
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parity.compare.loading import Loading
from parity.explain.locate import Code, source_at
from parity.explain.match import is_layout
from parity.explain.provenance import collected_at
from parity.explain.record import Tapes
from parity.explain.syntax import around_at, assigned_name_at, listed_at
from parity.explain.trace import Frame, Ref, Step
from parity.names import numbers, template
from parity.pair.pair import Pair
from parity.records import Source

_TELLING = 8  # characters of a name's end from which on shorter ends are looked for as well
_PARTING = ("split", "chunk", "narrow", "__getitem__", "unbind", "tensor_split", "split_with_sizes", "select")
_TURNING = ("T.__get__", "mT.__get__", "t", "transpose", "permute", "swapaxes", "swapdims", "movedim")


@dataclass(frozen=True)
class Loader:
    """How one port was loaded, and what an audit of that found."""

    pair: Pair
    tapes: Tapes
    loading: Loading

    @property
    def code(self) -> Code:
        """The port's own code."""
        return Code(self.tapes.own_code)

    def line(self, names: Sequence[str]) -> Source | None:
        """Where the port says, or does, what goes wrong in loading.

        Args:
            names: the port's parameters and the checkpoint's tensors that a finding speaks of, the most telling first.
        """
        if self.pair.port.weights is not None:
            mentions = [f"{quote}{template(name)}" for name in names for quote in "\"'"]
            found = _quoted(self.tapes.files, [*mentions, *(text for name in names for text in _endings(name))])
            return found or self._written(names) or self._table()
        return self._left(names) or self._asked_beside(names) or self._mentioned(names) or self._written(names)

    def _table(self) -> Source | None:
        """Where WEIGHTS begins, for what has no entry in it."""
        lines = ((file, assigned_name_at(file, "WEIGHTS")) for file in self.tapes.files)
        return next((source_at(file, line) for file, line in lines if line is not None), None)

    def _left(self, names: Sequence[str]) -> Source | None:
        """For a parameter that nothing was written into, though its tensor was asked for."""
        if not any(name in self.tapes.asked for name in names):
            return None
        left = next((name for name in names if name in self.loading.untouched), "")
        return self._beside(left) if left else None

    def _asked_beside(self, names: Sequence[str]) -> Source | None:
        """Where the loader asked for a tensor, or for another one of the same module."""
        for name in names:
            beside = next((other for other in self.tapes.asked if _module(other) == _module(name)), name)
            if (found := self.asked(beside, self.loading.unused)) is not None:
                return (self._parted(name) if name in self.loading.partly else None) or found
        return None

    def _parted(self, tensor: str) -> Source | None:
        """Where a loader takes a part of a tensor, in the function in which it asked for it."""
        asked = {frame.instance for own in self.tapes.asked.get(tensor, ()) for frame in self.code.of(own)[:1]}
        for step in self.tapes.port.steps:
            frames = self.code.frames(step)
            if step.name in _PARTING and frames and frames[0].instance in asked:
                return source_at(frames[0].file, frames[0].line)
        return None

    def _mentioned(self, names: Sequence[str]) -> Source | None:
        """Where a tensor is named, though nothing asked for it."""
        found = _quoted(self.tapes.files, [text for name in names for text in _endings(name)])
        return None if found is None else self._reached(found)

    def asked(self, tensor: str, wrong: Iterable[str] = (), near: Frame | None = None) -> Source | None:
        """Where the loader asked for a tensor: further out where what asked for it is right about others.

        Args:
            tensor: a tensor of the checkpoint.
            wrong: others that are not right.
            near: of several times, the one on this frame's line, if there is one; else the last.
        """
        times = [self.code.of(frames) for frames in self.tapes.asked.get(tensor, ())]
        there = [own for own in times if near is not None and own and own[0][:2] == near[:2]]
        frames = next(reversed([*times, *there]), [])
        faulty = {template(_module(name)) for name in (tensor, *wrong)}
        asked = self.tapes.asked.items()
        right = [own for name, found in asked if template(_module(name)) not in faulty for own in found]
        for level, frame in enumerate(frames):
            here, outer = _place(frame), [_place(each) for each in frames[level + 1 : level + 2]]
            elsewhere = [
                [_place(each) for each in other[level + 1 : level + 2]]
                for other in map(self.code.of, right)
                if len(other) > level and _place(other[level]) == here
            ]
            if not outer or all(place == outer for place in elsewhere):
                return source_at(frame.file, frame.line)
        return None

    def listed(self, tensor: str) -> Source | None:
        """The entry of a table in which a tensor's name stands."""
        parts = _module(template(tensor)).split(".")
        for file in self.tapes.files:
            for first in range(len(parts) - 1):
                line = listed_at(file, ".".join(parts[first:]))
                if line is not None:
                    return source_at(file, line)
        return None

    def _written(self, names: Sequence[str]) -> Source | None:
        """The line that last wrote into a parameter, or on which what it wrote was collected."""
        for name in names:
            ref = self.tapes.parameters.get(name)
            frames = self.code.frames(self.tapes.port.steps[ref.step]) if ref is not None else []
            if frames:
                return source_at(frames[0].file, collected_at(frames[0].file, frames[0].line) or frames[0].line)
            if (found := self._beside(name)) is not None:
                return found
        return None

    def _beside(self, parameter: str) -> Source | None:
        """The line that wrote into parameters of the same name in other layers, for one that nothing wrote into.

        Where nothing was written from one of them on, the loop did not go far enough.
        """
        alike = [name for name in self.tapes.parameters if template(name) == template(parameter)]
        missing = [name for name in alike if name in self.loading.untouched]
        for name in alike:
            step = self.tapes.port.steps[self.tapes.parameters[name].step]
            frames = self.code.frames(step)
            if step.name == "copy_" and frames:
                file, line = frames[0].file, frames[0].line
                short = len(missing) > 1 and missing == alike[-len(missing) :]
                loop = around_at(file, line, ast.For, ast.While, outermost=True) if short else None
                return source_at(file, loop or line)
        return None

    def _reached(self, line: Source) -> Source:
        """The line itself; the condition around it, where it was never come to."""
        frames = [frame for times in self.tapes.asked.values() for own in times for frame in self.code.of(own)]
        here = [frame for frame in frames if frame.file.endswith(line.file)]
        if not here or any(frame.line == line.line for frame in here):
            return line
        guard = around_at(here[0].file, line.line, ast.If)
        return (source_at(here[0].file, guard) if guard else None) or line

    def chain(self, ref: Ref) -> list[Step]:
        """What was done to a tensor of the checkpoint before it came to be a parameter, the last first."""
        found = []
        waiting = [ref]
        while waiting:
            step = self.tapes.port.steps[waiting.pop().step]
            if step.function is None:
                continue
            found.append(step)
            waiting += step.inputs if step.name != "copy_" else step.inputs[-1:]
        return found

    def computed(self, ref: Ref) -> Source | None:
        """The line on which a loader calculates with a tensor, beyond moving it around."""
        for step in self.chain(ref):
            if not is_layout(step.name) and step.name not in ("cat", "concat", "stack") and step.inputs:
                return self.code.source(step)
        return None

    def turned(self, ref: Ref) -> Source | None:
        """The line that loads a matrix, if it does not transpose this one and does others, or the other way round."""
        own = self._turns(ref)
        others = {self._turns(other) for other in self.tapes.parameters.values() if self._is_matrix(other)}
        if own is None or not others - {own, None}:
            return None
        source = self.code.source(self.tapes.port.steps[ref.step])
        return source if source is not None and "copy_" in source.text else self.written(ref)

    def _turns(self, ref: Ref) -> bool | None:
        chain = self.chain(ref)
        return any(step.name in _TURNING for step in chain) if chain and self.code.frames(chain[0]) else None

    def _is_matrix(self, ref: Ref) -> bool:
        return self.tapes.port.value(ref).ndim == 2

    def written(self, ref: Ref) -> Source | None:
        """The line that wrote into a parameter, or asked for what was written by a call for all of them."""
        frames = self.code.frames(self.tapes.port.steps[ref.step])
        if not frames or self.pair.port.load_weights is None:
            return None
        names = [name for name, other in self.tapes.parameters.items() if other == ref]
        tensors = [tensor for name in names for tensor in self.loading.held.get(name, ())]
        filled = next((line for name in names if (line := self.filled(name)) is not None), None)
        line = filled or (self.asked(tensors[0], tensors, frames[0]) if len(tensors) == 1 else None)
        return line or source_at(frames[0].file, frames[0].line)

    def filled(self, parameter: str) -> Source | None:
        """Where a loader names a parameter to say what goes into it."""
        if self.pair.port.load_weights is None:
            return None
        return _quoted(self.tapes.files, [f"{quote}{parameter}" for quote in "\"'"])

    def reordered(self) -> Source | None:
        """The line that asked for the layers' tensors, if parameters hold the layers in another order than theirs."""
        order: dict[int, str] = {}
        for name, _ in self.tapes.port_model.named_parameters():
            for tensor in self.loading.held.get(name, ()):
                if numbers(tensor):
                    order.setdefault(numbers(tensor)[0], tensor)
        return self.asked(next(iter(order.values()))) if list(order) != sorted(order) else None

    def fused(self, first: str, second: str) -> bool:
        """Whether one parameter holds two tensors."""
        return any({first, second} <= set(tensors) for tensors in self.loading.held.values())

    def crosswise(self, first: str, second: str) -> bool:
        """Whether it is the loader that has two tensors in each other's place, and not the code that uses them.

        Args:
            first, second: tensors of the checkpoint, in the reference's order.
        """
        ours = [
            next((name for name, tensors in self.loading.held.items() if each in tensors), "")
            for each in (first, second)
        ]
        if not all(ours):
            return False
        if ours[0] == ours[1]:
            tensors = self.loading.held[ours[0]]
            return tensors.index(first) > tensors.index(second)
        straight = _akin(first, second, ours[0]) and _akin(second, first, ours[1])
        crossed = _akin(first, second, ours[1]) and _akin(second, first, ours[0])
        if straight != crossed:
            return crossed
        order = [name for name, _ in self.tapes.port_model.named_parameters(remove_duplicate=False)]
        return order.index(ours[0]) > order.index(ours[1])


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _place(frame: Frame) -> tuple[object, int]:
    return frame.code, frame.at


def _words(name: str) -> set[str]:
    return set(re.split(r"[._\W]+", ".".join(template(name).split(".")[-3:]).lower()))


def _akin(tensor: str, other: str, parameter: str) -> bool:
    """Whether a parameter has a word of a tensor's name that another tensor's name has not."""
    return bool((_words(tensor) - _words(other)) & _words(parameter))


def _endings(name: str) -> list[str]:
    """A tensor's template, and its last parts as far as they still tell it from others."""
    parts = template(name).split(".")
    texts = [template(name), ".".join(parts[-3:]), ".".join(parts[-2:])]
    short = next((place for place, text in enumerate(texts) if len(text) < _TELLING), len(texts))
    return texts[: short + 1]


def _quoted(files: Iterable[str], texts: Iterable[str]) -> Source | None:
    """The first line in which one of the texts ends a string, the first text first."""
    for text in texts:
        for file in files:
            for number, line in enumerate(linecache.getlines(file), 1):
                if f'{text}"' in line or f"{text}'" in line:
                    return source_at(file, number)
    return None
