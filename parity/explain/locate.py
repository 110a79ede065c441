"""The line: the first operation of a port that gives what no operation of the reference gives.

Its inputs are all accounted for, its result is not, and the wrong value downstream was made from it. An operation that
was left out has no line of its own: it shows at the one that takes what it should have given.
"""

import heapq
import linecache
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from traceback import extract_tb

from torch import Tensor, nn

from parity.errors import ParityError
from parity.explain.match import Index, Relation, is_layout
from parity.explain.play import backward, uses
from parity.explain.record import Tapes, code_files
from parity.explain.trace import Frame, Ref, Step, Tape
from parity.names import shown
from parity.records import Source

_FEWEST = 4
_CONSTANT = ("ones", "zeros", "full", "ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full")
_JOINING = ("cat", "concat", "stack")
_FOLLOWED = 24  # values made from one that are looked at to vindicate it


@dataclass(frozen=True)
class Suspicion:
    """What can be said of a wrong value of the port: the values it was made from that nothing accounts for.

    strict are the first of them, likely those that differ in more than a factor or an order.
    """

    unexplained: tuple[Ref, ...]
    strict: tuple[Ref, ...]
    likely: tuple[Ref, ...]


@dataclass(frozen=True)
class Values:
    """Which values of the port stand in the reference."""

    tape: Tape
    index: Index
    _known: dict[Ref, Relation | None]
    _weak: dict[Ref, bool]
    changed: Mapping[Ref, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, tapes: Tapes, changed: Mapping[Ref, Tensor] | None = None) -> "Values":
        """The port's values against those of the reference, some of these changed."""
        return cls(tapes.port, Index.of(tapes.reference, changed), {}, {})

    @classmethod
    def between(cls, tape: Tape, other: Tape, changed: Mapping[Ref, Tensor]) -> "Values":
        """The values of one tape, some of them changed, against those of another."""
        return cls(tape, Index.of(other), {}, {}, changed)

    def relation(self, ref: Ref) -> Relation | None:
        """How a value of the port stands to the nearest of the reference."""
        if ref not in self._known:
            found = self.index.find(self.changed[ref] if ref in self.changed else self.tape.value(ref))
            self._known[ref] = found[1] if found else None
        return self._known[ref]

    def twisted(self, ref: Ref) -> bool:
        """Whether a value is one of the reference's, read along its axes in another order."""
        return self.index.twisted(self.changed.get(ref, self.tape.value(ref))) is not None

    def accounted(self, ref: Ref) -> bool:
        """Whether a value needs no explanation: the reference has it, or it was handed in and only moved around."""
        if self.relation(ref) == "same":
            return True
        if ref not in self._weak:
            self._weak[ref] = False  # while it is being found out
            if self._vindicated(ref):
                self._weak[ref] = True
                return True
            step = self.tape.steps[ref.step]
            if (step.function is None and step.name == "leaf") or step.name in _CONSTANT:
                self._weak[ref] = True
            elif is_layout(step.name) or self.relation(ref) == "reordered":
                inputs = [other for other in step.inputs if not _is_index(self.tape.value(other))]
                self._weak[ref] = bool(inputs) and all(self._handed(other) for other in inputs)
        return self._weak[ref]

    def _vindicated(self, ref: Ref) -> bool:
        """Whether something that the reference has was made from it: then it was right, in a form of the author's own.

        Fused projections that are split next, complex rotations, tables in another layout are.
        """
        waiting, seen = [ref], {ref}
        for _ in range(_FOLLOWED):
            if not waiting:
                break
            for number in self.users.get(heapq.heappop(waiting), ()):
                step = self.tape.steps[number]
                for other in step.refs:
                    if other in seen or not self.judged(step):
                        continue
                    seen.add(other)
                    heapq.heappush(waiting, other)
            if waiting and self.relation(waiting[0]) == "same":
                return True
        return False

    @cached_property
    def users(self) -> dict[Ref, list[int]]:
        """The steps that take each value."""
        return uses(self.tape)

    def judged(self, step: Step) -> bool:
        """Whether a step gives something that can be told from other values."""
        return any(value.numel() >= _FEWEST and not _is_index(value) for value in step.values)

    def _handed(self, ref: Ref) -> bool:
        """Not itself of the reference, but accounted for."""
        step = self.tape.steps[ref.step]
        if step.function is None and step.name == "leaf":
            return True
        return self.relation(ref) != "same" and self.accounted(ref)

    def suspicion(self, start: Iterable[Ref]) -> Suspicion:
        """What made wrong values wrong."""
        starts = tuple(start)
        found = list(backward(self.tape, starts, lambda ref, _: self.accounted(ref)))
        chain = [ref for ref in found if ref in starts or not self.accounted(ref)]
        inside = set(chain)
        strict = sorted((ref for ref in chain if not inside & set(self.tape.steps[ref.step].inputs)), key=self._needed)
        near = {
            ref for ref in chain if self.relation(ref) in ("scaled", "reordered") or _is_index(self.tape.value(ref))
        }
        likely = sorted(
            (ref for ref in chain if ref not in near and not (inside - near) & set(self._through(ref, near, inside))),
            key=self._needed,
        )
        return Suspicion(tuple(sorted(chain)), tuple(strict), tuple(likely))

    def _needed(self, ref: Ref) -> tuple[int, Ref]:
        """When a value is first computed with, which for weights is long after they were loaded."""
        waiting, seen, first = [ref], {ref}, None
        while waiting and len(seen) < _FOLLOWED:
            for number in self.users.get(heapq.heappop(waiting), ()):
                step = self.tape.steps[number]
                if is_layout(step.name) or step.name in _JOINING:
                    for other in step.refs:
                        if other not in seen:
                            seen.add(other)
                            heapq.heappush(waiting, other)
                else:
                    first = number if first is None else min(first, number)
        return ref.step if first is None else first, ref

    def _through(self, ref: Ref, near: set[Ref], inside: set[Ref]) -> Iterable[Ref]:
        """Inputs of a value, looking through those that are nearly accounted for."""
        waiting = list(self.tape.steps[ref.step].inputs)
        seen = set()
        while waiting:
            other = waiting.pop()
            if other in seen or other not in inside:
                continue
            seen.add(other)
            yield other
            if other in near:
                waiting += self.tape.steps[other.step].inputs


def _is_index(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


@dataclass(frozen=True)
class Code:
    """Where an author's own code is, as against libraries that it calls."""

    folders: tuple[str, ...]

    def of(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames that are in that code, innermost first; all of them if none is."""
        own = [frame for frame in frames if frame.file.startswith(self.folders)] if self.folders else []
        return own or list(frames)

    def frames(self, step: Step) -> list[Frame]:
        """The frames of a step in that code."""
        return self.of(step.frames)

    def source(self, step: Step) -> Source | None:
        """The line that a step was written on; None if its file cannot be read."""
        frames = self.frames(step)
        return source_at(frames[0].file, frames[0].line) if frames else None


def source_at(file: str, line: int) -> Source | None:
    """A line of a file, the file named as briefly as it can be found by; None if it cannot be read."""
    text = linecache.getline(file, line).strip()
    return Source(shown(file), line, text) if text else None


def raised_at(model: nn.Module, error: ParityError) -> Source | None:
    """The innermost line of a model's own code from which an error came."""
    cause = error.__cause__
    files = set(code_files(model))
    frames = [frame for frame in extract_tb(cause.__traceback__) if frame.filename in files] if cause else []
    return source_at(frames[-1].filename, frames[-1].lineno or 0) if frames else None
