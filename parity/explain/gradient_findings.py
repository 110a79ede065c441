"""Findings and boundaries of the stage `gradient`."""

import ast
import sys
from collections.abc import Iterator
from types import FrameType

import torch

from parity.compare.boundaries import name_of
from parity.compare.gradients import Cuts, Slope, Slopes
from parity.compare.stages import Sides
from parity.explain.locate import source_at
from parity.explain.record import code_files
from parity.explain.syntax import around_at
from parity.pair import running
from parity.pair.pair import Pair
from parity.pair.promote import precision
from parity.records import Boundary, Finding, Source

_STAGE = "gradient"


def findings(pair: Pair, sides: Sides, slopes: Slopes) -> tuple[Finding, ...]:
    """What to mend: the last value, as data flows, whose gradient is wrong, for all before it inherit that."""
    if not slopes.failing:
        return ()
    wrong = [slope for slope in slopes.values if not slope.right]
    guilty = wrong[-1] if wrong else slopes.failing[0]
    line = _cut(pair, sides)
    blocked = line is not None or any(slope.blocked for slope in slopes.failing)
    names = [slope.port for slope in slopes.parameters if not slope.right]
    which = f"{guilty.reference} {guilty.endpoint.kind}" if guilty.endpoint else guilty.reference
    more = "" if len(names) < 2 else f" and {len(names) - 1} more"
    evidence = [f"the gradient of {which} is {guilty.error:.1e} off, relative"]
    if names:
        evidence.append(f"parameters with another gradient: {names[0]}{more}")
    return (
        Finding(
            stage=_STAGE,
            cause="gradient-blocked" if blocked else "unknown",
            title=f"{'no' if guilty.blocked else 'another'} gradient arrives at {guilty.reference}",
            reference_module=guilty.reference if guilty.endpoint else guilty.reference.rpartition(".")[0],
            port_module=guilty.port if guilty.endpoint else guilty.port.rpartition(".")[0],
            port_source=line,
            evidence=tuple(evidence),
        ),
    )


def _cut(pair: Pair, sides: Sides) -> Source | None:
    """The first line of the port that makes a value without a gradient of values that have one."""
    model = sides.port.model
    files = {file for file in code_files(model) if not file.startswith("<")}
    seen: list[Source] = []

    def note() -> None:
        if seen:
            return
        frames = [frame for frame in _frames(sys._getframe(2)) if frame.f_code.co_filename in files]
        lines = [(frame.f_code.co_filename, frame.f_lineno) for frame in frames]
        switched_off = [] if torch.is_grad_enabled() else [(f, around_at(f, line, ast.With)) for f, line in lines]
        file, line = next(((f, line) for f, line in switched_off if line is not None), next(iter(lines), ("", None)))
        source = source_at(file, line) if line is not None else None
        if source is not None:
            seen.append(source)

    with torch.enable_grad(), precision(True, Cuts(note)):
        running.execute(pair.port, model, pair.program)
    return seen[0] if seen else None


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def boundaries(sides: Sides, slopes: Slopes) -> tuple[Boundary, ...]:
    """Every gradient that was compared, and every parameter whose gradient could not be."""
    wrong = [slope for slope in slopes.values if not slope.right]
    last = wrong[-1] if wrong else None
    values = [_boundary(sides, slope, inherited=last is not None and slope is not last) for slope in slopes.values]
    return (*values, *(_boundary(sides, slope, inherited=last is not None) for slope in slopes.parameters))


def _boundary(sides: Sides, slope: Slope, inherited: bool) -> Boundary:
    end = slope.endpoint
    return Boundary(
        stage=_STAGE,
        name=f"gradient of {name_of(sides.reference, end) if end else slope.reference or slope.port}",
        reference_module=end.module if end else slope.reference.rpartition(".")[0],
        port_module=slope.port if end else slope.port.rpartition(".")[0],
        kind=end.kind if end else "tap",
        max_abs=slope.max_abs,
        mean_abs=slope.mean_abs,
        own=0.0 if inherited and slope.error is not None and not slope.right else slope.error,
        total=slope.error,
        note=_note(slope),
    )


def _note(slope: Slope) -> str:
    """Why a gradient could not be compared."""
    if slope.error is not None:
        return ""
    if slope.reference:
        return "no gradient reaches it in the reference"
    return "the loader computed it, so that its entries are not the checkpoint's"
