"""Both models traced: the reference as it runs freely, the port in isolation, each from its constructor on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor, nn

from parity.compare import isolate as isolation
from parity.compare.capture import LOGITS, renumbered, run
from parity.compare.precision import Lowered
from parity.compare.stages import Forward, Sides
from parity.explain.fills import together
from parity.explain.trace import Frame, Ref, Session, Tape
from parity.pair import oracle, running
from parity.pair import pair as pairs
from parity.pair.pair import Pair
from parity.pair.program import Program
from parity.pair.promote import precision


@dataclass(frozen=True)
class Tapes:
    """What both models did, operation by operation.

    port_model is the model that the port's tape was made with; own_code and files are where it is written; parameters
    says which step last wrote into each of them. asked: from where its loader asked for each tensor of the checkpoint.
    """

    reference: Tape
    port: Tape
    port_model: nn.Module
    own_code: tuple[str, ...]
    files: tuple[str, ...] = ()
    parameters: Mapping[str, Ref] = field(default_factory=dict)
    asked: Mapping[str, list[tuple[Frame, ...]]] = field(default_factory=dict)


@torch.no_grad()
def tapes(pair: Pair, sides: Sides, measured: Forward) -> Tapes:
    """Build, load and run both models once more, watched.

    Raises:
        TooLarge: more values than can be kept.
    """
    reference_tape = pair.kept.once("tape", lambda: _reference_tape(pair))
    theirs = Session()
    loaded = pairs.promoted_port_model(pair, theirs.mode, theirs.ask if pair.port.load_weights else None)
    theirs.name(loaded.model)
    written = theirs.written(loaded.model)
    with precision(True, theirs.mode):
        port = isolation.rerun(
            measured.isolated,
            sides.reference.trace,
            loaded.model,
            lambda: _returned(theirs, running.execute(pair.port, loaded.model, pair.program)),
            theirs,
        )
        port_tape = together(_ending(theirs.tape(port.logits)))
    files = tuple(file for file in code_files(loaded.model) if not file.startswith("<"))
    folders = tuple(sorted({str(Path(file).parent) for file in files}))
    return Tapes(reference_tape, port_tape, loaded.model, folders, files, written, theirs.asked)


def _reference_tape(pair: Pair) -> Tape:
    session = Session()
    model = pairs.promoted_reference(pair, session.mode)
    session.name(model)
    with precision(True, session.mode):
        return _of_reference(session, model, pair)


def _of_reference(session: Session, model: nn.Module, pair: Pair) -> Tape:
    trace = run(model, lambda: _returned(session, oracle.execute(model, pair.program)), observer=session)
    return _ending(session.tape(trace.logits).renumbered(renumbered(trace)))


def _low_tape(pair: Pair) -> Tape:
    session, model = Session(promoted=False), pair.reference_model
    session.name(model)
    with precision(False, session.mode):
        return _of_reference(session, model, pair)


@torch.no_grad()
def lowered(low: Lowered) -> Tapes:
    """Both models run once more in low precision, watched.

    Raises:
        TooLarge: more values than can be kept.
    """
    theirs = Session(promoted=False)
    pair, port_model = low.pair, low.pair.port_model.model
    reference_tape = pair.kept.once(("tape", pair.dtype), lambda: _low_tape(pair))
    theirs.name(port_model)
    with precision(False, theirs.mode):
        forward = lambda: _returned(theirs, running.execute(pair.port, port_model, pair.program))  # noqa: E731
        port = isolation.rerun(low.measured.isolated, low.reference, port_model, forward, theirs)
        port_tape = _ending(theirs.tape(port.logits))
    files = tuple(file for file in code_files(port_model) if not file.startswith("<"))
    folders = tuple(sorted({str(Path(file).parent) for file in files}))
    return Tapes(reference_tape, port_tape, port_model, folders, files)


@torch.no_grad()
def executed(pair: Pair, model: nn.Module, program: Program) -> tuple[Tape, tuple[int, ...]]:
    """A promoted port's run of a program, watched, and the step with which each call begins.

    Raises:
        TooLarge: more values than can be kept.
    """
    session = Session()
    session.name(model)
    starts: list[int] = []

    def forward() -> Tensor:
        calls = running.turns(pair.port, model, program)
        given: list[Tensor] = []
        for _ in program.turns:
            starts.append(len(session.recorder.steps))
            logits = next(calls)
            session.passed(LOGITS._replace(number=len(given)), (logits,))
            given.append(logits)
        with torch._C.DisableTorchFunction():
            return program.joined(given)

    with precision(True, session.mode):
        trace = run(model, forward, observer=session)
        return session.tape(trace.logits), tuple(starts)


def _returned(session: Session, logits: Tensor) -> Tensor:
    """The logits themselves are marked: a run hands on a copy of them, which nobody computed."""
    session.passed(LOGITS, (logits,))
    return logits


def _ending(tape: Tape) -> Tape:
    return replace(tape, logits=tape.at(LOGITS) or tape.logits)


def code_files(model: nn.Module) -> tuple[str, ...]:
    """The files that a model's own classes are written in; names like `<string>` for code that was in none."""
    found: dict[str, None] = {}
    for kind in dict.fromkeys(type(module) for module in model.modules()):
        if not kind.__module__.startswith("torch."):
            code = [value.__code__ for value in vars(kind).values() if isinstance(value, FunctionType)]
            found |= dict.fromkeys(each.co_filename for each in code)
    return tuple(found)
