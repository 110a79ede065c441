"""The stages above the full forward: low precision, decoding, padded rows, gradients, each with its findings."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from parity.compare import error_maps, gradients, rungs, stages
from parity.compare import precision as precisions
from parity.compare.boundaries import UNSTABLE
from parity.compare.capture import LOGITS
from parity.explain import gradient_findings, precision_findings, rounding, stateful
from parity.explain.trace import TooLarge
from parity.pair.pair import Pair
from parity.pair.port import DoesNotFit
from parity.records import PROMOTED_NOISE, Boundary, ErrorMap, Finding, StageVerdict

Progress = Callable[[str], object]
_BELOW = ("weights", "forward")
Outcome = tuple[StageVerdict, str, float]


@dataclass(frozen=True)
class Climbed:
    """One stage above the full forward, and what the report says of it."""

    outcome: Outcome
    boundaries: tuple[Boundary, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    maps: tuple[ErrorMap, ...] = ()


def climb(
    pair: Pair, sides: stages.Sides, measured: stages.Forward, wanted: Sequence[str], dtype: str, progress: Progress
) -> dict[str, Climbed]:
    """Run the stages above the full forward, of those wanted.

    Args:
        pair: what is compared.
        sides: both models in promoted float64.
        measured: what the full forward measured.
        wanted: names of stages.
        dtype: of the weights; float32 leaves the choice to the stage `precision`.
        progress: called with a phrase whenever something that takes time begins.
    """
    found: dict[str, Climbed] = {}
    if measured.shape:
        return {name: Climbed(("not_run", measured.shape, 0.0)) for name in wanted if name not in _BELOW}
    if "precision" in wanted:
        progress("comparing in low precision")
        found["precision"] = _lowered(pair, sides, measured, dtype)
    if "cache" in wanted:
        progress("decoding with the cache")
        found["cache"] = _climbed(pair, sides, measured, lambda: rungs.cache(pair, sides))
    if "batch" in wanted:
        progress("running padded rows")
        decodes = "cache" not in found or found["cache"].outcome[0] != "fail"
        found["batch"] = _climbed(pair, sides, measured, lambda: rungs.batch(pair, sides, decodes))
    if "gradient" in wanted:
        progress("comparing gradients")
        found["gradient"] = _differentiated(pair, sides, measured)
    return found


def _lowered(pair: Pair, sides: stages.Sides, measured: stages.Forward, dtype: str) -> Climbed:
    began = time.perf_counter()
    if measured.unstable:
        return Climbed(("not_run", UNSTABLE, 0.0))
    found = []
    for each in precisions.dtypes_of(pair, dtype):
        try:
            low = precisions.measure(pair, sides, measured, each)
        except DoesNotFit as error:  # its loader, say, knows no such dtype
            return Climbed(("not_run", f"the port does not load in {_name(each)}: {error.problem}", 0.0))
        found.append((low, _rounded(low, sides)))
    seconds = time.perf_counter() - began
    places: list[Boundary] = []
    maps: list[ErrorMap] = []
    for low, rounded in found:
        judged = precision_findings.boundaries(sides, low, rounded)
        places += judged
        maps += error_maps.of_precision(pair, sides, low, judged)
    told = [finding for low, rounded in found for finding in precision_findings.findings(low, rounded)]
    notes = [note for low, rounded in found for note in precision_findings.notes(low, rounded)]
    raised = next((low.raised for low, _ in found if low.raised is not None), None)
    if raised is not None:
        return Climbed(("not_run", f"the port does not run in {_name(low.pair.dtype)}: {raised.problem}", 0.0))
    if not places:
        return Climbed(("not_run", "no boundary of the full forward is right, so that none can be judged", 0.0))
    failed = bool(told) or any(place.verdict == "diff" for place in places)
    verdict: StageVerdict = "fail" if failed else "pass"
    return Climbed((verdict, "", seconds), tuple(places), tuple(told), tuple(notes), tuple(maps))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rounded(low: precisions.Lowered, sides: stages.Sides) -> tuple[rounding.Rounded, ...]:
    try:
        return rounding.explained(low, sides.reference.model)
    except TooLarge:
        return ()


def _differentiated(pair: Pair, sides: stages.Sides, measured: stages.Forward) -> Climbed:
    began = time.perf_counter()
    if not measured.total.get(LOGITS, float("inf")) <= PROMOTED_NOISE:
        return Climbed(("not_run", "the full forward is wrong, and gradients with it", 0.0))
    slopes = gradients.measure(pair, sides, measured)
    seconds = time.perf_counter() - began
    if all(slope.error is None for slope in (*slopes.values, *slopes.parameters)):
        return Climbed(("not_run", "no gradient could be compared", 0.0))
    told = gradient_findings.findings(pair, sides, slopes)
    verdict: StageVerdict = "fail" if slopes.failing else "pass"
    return Climbed((verdict, "", seconds), gradient_findings.boundaries(sides, slopes), told)


def _climbed(pair: Pair, sides: stages.Sides, measured: stages.Forward, run: Callable[[], rungs.Rung]) -> Climbed:
    began = time.perf_counter()
    rung = run()
    if not rung.outcomes:
        return Climbed(("not_run", rung.reason, 0.0))
    seconds = time.perf_counter() - began
    verdict: StageVerdict = "fail" if rung.failing else "pass"
    told = stateful.findings(pair, sides, measured, rung)
    maps = error_maps.of_rung(sides, rung)
    return Climbed((verdict, "", seconds), stateful.boundaries(sides, rung), told, rung.notes, maps)
