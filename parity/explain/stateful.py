"""Findings of the stages `cache` and `batch`: where a port leaves its own full forward, on which line, and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from parity.compare.capture import LOGITS
from parity.compare.programs import alone, pads_of
from parity.compare.rungs import Outcome, Rung, wrong_tokens
from parity.compare.sides import parents
from parity.compare.stages import Forward, Sides
from parity.explain.astray import Astray, Executed
from parity.explain.cells import cells_of
from parity.explain.hypotheses import Verdict, explained
from parity.explain.locate import Code, raised_at, source_at
from parity.explain.provenance import Use, named_origin, origin
from parity.explain.record import code_files, executed
from parity.explain.roles import Role, role_of
from parity.explain.trace import Ref, Step, TooLarge
from parity.pair.pair import Pair
from parity.pair.program import Program, full
from parity.records import Boundary, Explanation, Finding, Source

_USES = {"mask": "attention-mask", "position": "position-ids"}
_MOST = 4  # lines told of one program


@dataclass(frozen=True)
class _Place:
    """A line of the port, the module that runs it, and what of a cache or a mask it makes, if that can be told."""

    module: str
    source: Source | None
    cause: str = "unknown"


def findings(pair: Pair, sides: Sides, measured: Forward, rung: Rung) -> tuple[Finding, ...]:
    """What to mend, of the programs that a port gets wrong; one line is told once."""
    raised = [outcome for outcome in rung.failing if outcome.raised is not None]
    wrong = [outcome for outcome in rung.failing if outcome.raised is None]
    found = [_raised(sides, rung.stage, outcome) for outcome in raised[:1]]
    if wrong:
        found += _of(pair, sides, measured, rung.stage, wrong)
    return tuple(found)


def _of(pair: Pair, sides: Sides, measured: Forward, stage: str, outcomes: Sequence[Outcome]) -> list[Finding]:
    verdict = explained(sides.reference.model, outcomes)
    causes = verdict.explanations if verdict else ()
    partners = {each.port: each.reference for each in measured.pairs if not each.partial}
    recurrent = frozenset(
        port for port, reference in partners.items() if role_of(reference, _classes(sides)) == Role.recurrent
    )
    evidence = tuple(_evidence(outcome) for outcome in outcomes)
    places: list[_Place] = []
    for outcome in outcomes:
        places += [place for place in _places(pair, sides, outcome, verdict, recurrent) if place not in places]
        if places and len(causes) <= 1:
            break

    def finding(place: _Place, explanation: Explanation | None) -> Finding:
        return Finding(
            stage=stage,
            cause=explanation.cause if explanation else place.cause,
            title=_title(stage, outcomes[0]),
            reference_module=_partner(sides, partners, place.module),
            port_module=place.module,
            port_source=place.source,
            explanations=(explanation,) if explanation else (),
            evidence=evidence,
        )

    if not causes:
        return [finding(place, None) for place in places[:_MOST] or [_Place("", None)]]
    fitting = [next((p for p in places if p.cause == each.cause), None) for each in causes]
    return [finding(own or (places or [_Place("", None)])[0], each) for own, each in zip(fitting, causes, strict=True)]


def _classes(sides: Sides) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in sides.reference.modules.items()}


def _title(stage: str, outcome: Outcome) -> str:
    if stage == "cache":
        return "decoding with the cache gives other logits than one full forward"
    cached = " when decoding" if outcome.program.cached else ""
    return f"rows padded on the left give other logits{cached} than each gives alone"


def _evidence(outcome: Outcome) -> str:
    assert outcome.first is not None
    row, place = outcome.first
    where = f"token {place}" + (f" of row {row}" if outcome.program.real is not None else "")
    return f"{outcome.program.name}: wrong from {where} on, relative error {outcome.own:.1e}"


def _raised(sides: Sides, stage: str, outcome: Outcome) -> Finding:
    """A call that ends in an exception of the port's."""
    assert outcome.raised is not None
    cause = outcome.raised.__cause__
    what = "decoding" if stage == "cache" else "running rows padded on the left"
    return Finding(
        stage=stage,
        cause="unknown",
        title=f"{what} raises {type(cause).__name__}" if cause else f"{what} gives logits of another shape",
        reference_module=_base(sides),
        port_module="",
        port_source=raised_at(sides.port.model, outcome.raised),
        evidence=(f"{outcome.program.name}: {outcome.raised.problem}",),
    )


def _base(sides: Sides) -> str:
    """The module of the reference that holds nearly all others."""
    tops = [name for name, _ in sides.reference.model.named_children()]
    return max(tops, key=lambda name: sum(each.startswith(name) for each in sides.reference.modules), default="")


def _partner(sides: Sides, partners: dict[str, str], module: str) -> str:
    while module:
        if module in partners:
            return partners[module]
        module = module.rpartition(".")[0]
    return _base(sides)


@torch.no_grad()
def _places(
    pair: Pair, sides: Sides, outcome: Outcome, verdict: Verdict | None, recurrent: frozenset[str]
) -> list[_Place]:
    """The lines on which the port leaves its full forward, the likeliest first."""
    model = sides.port.model
    shortened, wrong = _shortest(outcome, sides)
    probe = _probe_of(pair, sides, shortened)
    try:
        tape, starts = executed(pair, model, shortened)
        whole, _ = executed(pair, model, full(probe))
    except TooLarge:
        return []
    lengths = [turn.input_ids.shape[1] for turn in shortened.turns]
    cells = cells_of(shortened.starts, lengths, pads_of(shortened), probe.shape[1])
    astray = Astray(Executed(tape, starts, tuple(cells)), whole)
    ends = [tape.at(LOGITS._replace(number=number)) for number in wrong]
    culprits = astray.culprits([ref for ref in ends if ref is not None])
    folders = tuple(sorted({str(Path(file).parent) for file in code_files(model) if not file.startswith("<")}))
    desk = _Desk(astray, Code(folders), verdict, recurrent)
    return list(dict.fromkeys(filter(None, (desk.place(ref) for ref in culprits[:_MOST]))))


def _shortest(outcome: Outcome, sides: Sides) -> tuple[Program, list[int]]:
    """The program up to the first call that goes wrong, and which of its calls do."""
    assert outcome.logits is not None
    program = outcome.program
    expected = alone(sides.port.trace.logits, program) if not program.last else None
    if expected is None:
        return program, list(range(len(program.turns)))
    wrong = wrong_tokens(outcome.logits, expected).any(0)
    for number, (start, turn) in enumerate(zip(program.starts, program.turns, strict=True)):
        end = start + turn.input_ids.shape[1]
        if bool(wrong[start:end].any()):
            real = None if program.real is None else program.real[:, :end]
            return replace(program, turns=program.turns[: number + 1], real=real), [number]
    return program, list(range(len(program.turns)))


def _probe_of(pair: Pair, sides: Sides, program: Program) -> torch.Tensor:
    """Each row's real tokens and some more, `[B, T]` with a T that nothing else in the port has."""
    taken = {size for tensor in sides.port.model.state_dict().values() for size in tensor.shape}
    values = (
        list(vars(getattr(sides.port.model, "config", object)).values()) if hasattr(sides.port.model, "config") else []
    )
    taken |= {value for value in values if isinstance(value, int)}
    taken |= {value for value in pair.reference.settings.values() if isinstance(value, int)}
    taken |= set(range(program.input_ids.shape[1] + 1))
    length = next(
        (size for size in range(pair.input_ids.shape[1], 0, -1) if size not in taken), pair.input_ids.shape[1]
    )
    return pair.input_ids[:, :length]


@dataclass(frozen=True)
class _Desk:
    """One program's wrong values being traced to lines. recurrent: modules of the port that keep a state."""

    astray: Astray
    code: Code
    verdict: Verdict | None
    recurrent: frozenset[str]

    def place(self, ref: Ref) -> _Place | None:
        """The line to mend for one value that is wrong though nothing behind it is."""
        blamed, cause = self._blamed(ref)
        step = self.astray.run.tape.steps[blamed.step]
        frames = self.code.frames(step)
        if not frames:
            return None
        return _Place(step.module, source_at(frames[0].file, self._line(step)), cause)

    def _blamed(self, ref: Ref) -> tuple[Ref, str]:
        """What to blame for a wrong value, and what it makes of a cache or a mask."""
        causes = {each.cause for each in self.verdict.hypotheses} if self.verdict else set()
        value = self.astray.run.tape.value(ref)
        whole = not (value.is_floating_point() or value.dtype == torch.bool)
        counted = self._counted(ref) if causes == {"position-ids"} else None
        if counted or whole:
            use = "position-ids" if counted else _USES[self.astray.makes(ref)]
            return counted or ref, use
        module = self.astray.run.tape.steps[ref.step].module
        if self.verdict is None and self.recurrent & {module, *parents(module)}:
            return self.astray.stale(ref) or ref, "ssm-state"  # its masks hide tokens of a chunk from each other
        needed = self.astray.needed(ref)
        lost = self.astray.lost_at(ref, needed) if needed else None
        if lost:
            return lost, "swa-cache"
        hiding = ref if value.dtype == torch.bool else self.astray.mask_behind(ref)
        if hiding is None and causes == {"attention-mask"}:
            return self.astray.attends(ref) or ref, "attention-mask"
        return (hiding, "attention-mask") if hiding else (ref, "unknown")

    def _counted(self, ref: Ref) -> Ref | None:
        """Where the positions that a wrong value was made with were counted."""
        tape = self.astray.run.tape
        number = self.astray.run.call(ref.step)
        for other in (ref, *self.astray.behind(ref)):
            step, value = tape.steps[other.step], tape.value(other)
            whole = not (value.is_floating_point() or value.dtype == torch.bool)
            if whole and step.frames and self.astray.run.call(other.step) == number and value.numel() > 0:
                return other
        return None

    def _line(self, step: Step) -> int:
        """The step's own line, or that on which a number that it is given got its value."""
        frame, *outer = self.code.frames(step)
        cells = self.astray.run.cells[self.astray.run.call(step.number)]
        known = {0, 1, cells.start, cells.so_far, cells.tokens}
        callers = tuple(each.line for each in outer if each.file == frame.file)
        use = Use(frame.file, frame.line, frame.span, step.scope, step.module, callers)
        for number in _numbers(step):
            if number not in known:
                return origin(use, number)
        named = (named_origin(use, kept) for kept in self._kept)
        return next((line for line in named if line is not None), frame.line)

    @property
    def _kept(self) -> list[int]:
        """How many tokens the cache keeps, if that is what is wrong."""
        names = [each.name for each in self.verdict.hypotheses] if self.verdict else []
        found = [re.match(r"cache=(\d+)", name) for name in names]
        return [int(each[1]) for each in found if each]


def _numbers(step: Step) -> list[int]:
    """The whole numbers that a step is given."""
    found: list[int] = []
    waiting: list[object] = [*step.arguments, *step.keywords.values()]
    for value in waiting:
        if isinstance(value, slice):
            waiting += [value.start, value.stop]
        elif isinstance(value, tuple | list) and not isinstance(value, Ref):
            waiting += value
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append(value)
    return found


def boundaries(sides: Sides, rung: Rung) -> tuple[Boundary, ...]:
    """One row for each program: its logits against those of the full forward."""
    return tuple(
        Boundary(
            stage=rung.stage,
            name=f"{rung.stage}: {outcome.program.name}",
            reference_module=type(sides.reference.model).__name__,
            port_module="Model",
            kind="output",
            max_abs=outcome.max_abs,
            mean_abs=outcome.mean_abs,
            own=outcome.agreed if outcome.follows else outcome.own,
            total=outcome.agreed if outcome.follows else outcome.own,
        )
        for outcome in rung.outcomes
        if outcome.raised is None
    )
