"""The stages `cache` and `batch`: other ways to run both models, which have to give what one full forward gives.

Each way is judged against the port's own full forward, so that a fault of that is not told again, and against the
reference's. The reference is held to the same: one that contradicts itself is a wrong oracle, and is told as such.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parity.compare.measure import worst
from parity.compare.programs import alone, batches, decodings, window_of
from parity.compare.stages import Sides
from parity.errors import ParityError
from parity.pair import oracle, running
from parity.pair.pair import Pair
from parity.pair.program import Program
from parity.pair.promote import precision
from parity.records import PROMOTED_NOISE


@dataclass(frozen=True)
class Outcome:
    """One program run with the port.

    own: relative error against the port's own full forward; against: against the reference's; oracle: the reference's
    own error of this kind, None if it cannot run the program; agreed: the port's against the reference running the same
    program. first: the first wrong token (row, place), None if all are right. max_abs and mean_abs are against the
    port's full forward. raised: what the port raised instead of logits. logits: what it gave, `[B, T, V]`.
    """

    program: Program
    own: float = float("nan")
    against: float = float("nan")
    oracle: float | None = None
    agreed: float | None = None
    first: tuple[int, int] | None = None
    max_abs: float | None = None
    mean_abs: float | None = None
    raised: ParityError | None = None
    logits: Tensor | None = None

    @property
    def follows(self) -> bool:
        """Whether the port contradicts its full forward only as the reference does."""
        return self.contradicted and self.agreed is not None and self.agreed <= PROMOTED_NOISE

    @property
    def contradicted(self) -> bool:
        """Whether the reference contradicts its own full forward."""
        return self.oracle is not None and not self.oracle <= PROMOTED_NOISE

    @property
    def right(self) -> bool:
        """Whether the port gives what its full forward gives."""
        return self.raised is None and (self.own <= PROMOTED_NOISE or self.follows)


@dataclass(frozen=True)
class Rung:
    """What a stage found. reason: why it was not run, or what it did not cover."""

    stage: str
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def failing(self) -> tuple[Outcome, ...]:
        """The programs on which the port is wrong."""
        return tuple(outcome for outcome in self.outcomes if not outcome.right)


@torch.no_grad()
def cache(pair: Pair, sides: Sides) -> Rung:
    """Decode a probe with the port's cache, in several ways."""
    able = running.capabilities(sides.port.model)
    if not able.cache:
        missing = "forward takes no `cache`" if hasattr(sides.port.model, "new_cache") else "there is no `new_cache`"
        return Rung("cache", reason=f"the port cannot decode: {missing}")
    window = window_of(pair.reference.settings)
    programs = _shaped(decodings(pair.input_ids, window), sides)
    short = window is not None and programs[0].input_ids.shape[1] <= window
    notes = (f"sliding_window {window} is not left while decoding",) if short else ()
    told = {programs[0].name, programs[-1].name}  # one way and another: a third says no more of the reference
    outcomes = tuple(_run(pair, sides, program, program.name in told) for program in programs)
    return Rung("cache", outcomes, notes=(*notes, *_oracle(outcomes, "decodes")))


@torch.no_grad()
def batch(pair: Pair, sides: Sides, decodes: bool = True) -> Rung:
    """Run a batch of rows padded on the left, and decode it; decodes: not if the port is known to decode wrongly."""
    able = running.capabilities(sides.port.model)
    if not able.attention_mask:
        return Rung(
            "batch", reason="the port takes no `attention_mask`, so that rows of other lengths cannot share a run"
        )
    programs = _shaped(batches(pair.input_ids, window_of(pair.reference.settings), able.cache and decodes), sides)
    outcomes = tuple(_masked(pair, sides, program) for program in programs)
    undecoded = (
        () if decodes or not able.cache else ("padded rows were not decoded: decoding is wrong without padding",)
    )
    return Rung("batch", outcomes, notes=(*undecoded, *_oracle(outcomes, "runs padded rows")))


def _oracle(outcomes: Sequence[Outcome], does: str) -> tuple[str, ...]:
    """What the reference does that its own full forward contradicts."""
    wrong = [outcome for outcome in outcomes if outcome.contradicted]
    if not wrong:
        return ()
    figure = max(outcome.oracle or 0.0 for outcome in wrong)
    names = "; ".join(outcome.program.name for outcome in wrong)
    told = (
        f"the reference contradicts itself: it {does} other than its one full forward says, by {figure:.1e} ({names})"
    )
    return (f"{told}; the port is held to the full forward",)


def _shaped(programs: Sequence[Program], sides: Sides) -> tuple[Program, ...]:
    """The programs, of whose logits those of last tokens alone count if the port returns no others."""
    ours, theirs = sides.port.trace.logits.shape, sides.reference.trace.logits.shape
    last = len(ours) < len(theirs) or ours[1] != theirs[1]
    return tuple(replace(program, last=last) for program in programs)


def _masked(pair: Pair, sides: Sides, program: Program) -> Outcome:
    """A padded program, with the mask as the contract has it, else as `generate` gives it: of all tokens so far."""
    first = _run(pair, sides, program)
    if first.right or not program.cached:
        return first
    other = _run(pair, sides, replace(program, mask="total"))
    return other if other.right else first


def _run(pair: Pair, sides: Sides, program: Program, told: bool = True) -> Outcome:
    with precision(True):
        reference = _oracles(pair, sides, program) if told else None
        try:
            given = running.execute(pair.port, sides.port.model, program)
        except ParityError as error:
            if error.__cause__ is None and not program.last:  # logits of last tokens alone, once there is a cache
                return _run(pair, sides, replace(program, last=True), told)
            return Outcome(
                program, raised=error, oracle=_apart(reference, expected_at(sides.reference.trace.logits, program))
            )
    theirs, ours = expected_at(sides.reference.trace.logits, program), expected_of(sides, program)
    own = _apart(given, ours)
    largest, mean = (None, None) if own is None else worst(*_real(given, ours))
    return Outcome(
        program,
        own=float("inf") if own is None else own,
        against=_or_infinite(_apart(given, theirs)),
        oracle=_apart(reference, theirs),
        agreed=None if reference is None else _apart(given, reference),
        first=None if own is None else _first(given, ours),
        max_abs=largest,
        mean_abs=mean,
        logits=given,
    )


def _oracles(pair: Pair, sides: Sides, program: Program) -> Tensor | None:
    """The reference's part, None if it cannot: some have no path with a cache."""

    def execute() -> Tensor | None:
        try:
            return oracle.execute(sides.reference.model, program)
        except Exception:  # whatever a reference raises that was not made for this
            return None

    return pair.kept.once(("program", program.name), execute, program.told)


def expected_of(sides: Sides, program: Program) -> Tensor:
    """What a port's own full forward gives at a program's places; the reference's where the port has no such logits."""
    return expected_at((sides.reference if program.last else sides.port).trace.logits, program)


def expected_at(logits: Tensor, program: Program) -> Tensor:
    """What the full forward gives at a program's places; NaN where there is padding."""
    whole = alone(logits, program)
    if not program.last:
        return whole
    ends = [start + turn.input_ids.shape[1] - 1 for start, turn in zip(program.starts, program.turns, strict=True)]
    return whole[:, ends]


def _real(given: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Both at real tokens alone, `[tokens, V]`."""
    real = ~expected.isnan().all(-1)
    return given[real], expected[real]


def _apart(given: Tensor | None, expected: Tensor) -> float | None:
    """Relative error at real tokens, a constant per token not counted; None if there is nothing to compare."""
    if given is None or given.shape != expected.shape:
        return None
    ours, theirs = _real(given, expected)
    errors = (_relative(ours, theirs), _relative(_centred(ours), _centred(theirs)))
    return min(errors)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    if torch.equal(ours, theirs):
        return 0.0
    return float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def _or_infinite(error: float | None) -> float:
    return float("inf") if error is None else error


def _first(given: Tensor, expected: Tensor) -> tuple[int, int] | None:
    """The first token, in the order in which they are run, whose logits are wrong."""
    wrong = wrong_tokens(given, expected)
    places = wrong.nonzero().tolist()
    if not places:
        return None
    row, place = min(places, key=lambda each: (each[1], each[0]))
    return row, place


def wrong_tokens(given: Tensor, expected: Tensor) -> Tensor:
    """`[B, T]`: whose logits are not those expected; padding is never wrong."""
    sizes = torch.linalg.vector_norm(expected, dim=-1)
    apart: Tensor = torch.linalg.vector_norm(_centred(given) - _centred(expected), dim=-1)
    right: Tensor = (apart <= PROMOTED_NOISE * sizes) | expected.isnan().all(-1)
    return right.logical_not()
