"""The line: pair, compare, explain, report. Each stage takes frozen records and returns frozen records."""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from parity import __version__
from parity.compare import precision as precisions
from parity.compare import rungs, stages
from parity.compare.boundaries import UNSTABLE, boundaries, unmatched
from parity.errors import ParityError
from parity.explain import coverage, findings, load_findings, precision_findings, rounding, stateful
from parity.explain.explanation import explain
from parity.explain.finish import finish
from parity.explain.taps import among
from parity.explain.trace import TooLarge
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.records import DTYPES, STAGES, Boundary, Finding, Report, Stage, StageVerdict, Versions

RUNNABLE = ("weights", "forward", "precision", "cache", "batch")
Progress = Callable[[str], object]
Step = Callable[[int, int, str], object]


def check(
    port: object,
    *,
    config: str | Path | None = None,
    reference: str | Path | None = None,
    small_config: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    stage: Iterable[str] = (),
    pretrained: str | Path | None = None,
    revision: str | None = None,
    max_blocks: int | None = None,
    device: str = "cpu",
    prompt: str | None = None,
    tokens: str | Path | None = None,
    trust_remote_code: bool = False,
    progress: Progress = lambda _: None,
    step: Step = lambda *_: None,
) -> Report:
    """Compare a port with its reference, on random weights or on a real checkpoint.

    Args:
        port: a built-in name, a file, a dotted module, or an object that fulfils the contract of
            docs/writing-a-port.md.
        config: a config.json; by default that of `reference`, else the built-in one of the port's first model type.
        reference: a directory or Hub id whose config.json is used.
        small_config: shrink the config to small, pairwise distinct widths first.
        seed: of random weights and probe; the same seed gives the same report.
        dtype: float32, bfloat16 or float16: that of the weights, and of the runs that `max` and `mean` come from. The
            verdict comes from float64, of the same rounded weights. With `pretrained`, that of the runs: float64 by
            default, where the verdict needs no tolerance.
        stage: names of the stages to run, all by default.
        pretrained: a directory or Hub id whose weights are compared, block by block; what follows is for that alone.
        revision: branch, tag or commit on the Hub.
        max_blocks: compare the first blocks only.
        device: cpu, cuda or mps.
        prompt: text to run on; by default one of Parity's own.
        tokens: a file of token ids to run on.
        trust_remote_code: Python code of the checkpoint may be run, if its architecture needs it.
        progress: called with a phrase whenever something that takes time begins.
        step: called with the number of blocks done, that of all, and words about the worst boundary so far.

    Raises:
        ParityError: bad input; says what to do next.
    """
    asked = tuple(stage)
    unknown = [name for name in asked if name not in STAGES]
    if unknown:
        raise ParityError(f"there is no stage {unknown[0]!r}", f"Stages are {', '.join(STAGES)}.")
    if pretrained is not None:
        from parity import pretrained as checkpoints

        _refuse_beside_pretrained(reference, small_config)
        asked_for = checkpoints.Wanted(
            Path(config) if config else None,
            revision,
            seed,
            dtype or "float64",
            asked,
            max_blocks,
            device,
            prompt,
            Path(tokens) if tokens else None,
            trust_remote_code,
        )
        return checkpoints.check(port, str(pretrained), asked_for, progress, step)
    _refuse_without_pretrained(
        revision=revision, max_blocks=max_blocks, prompt=prompt, tokens=tokens, trust_remote_code=trust_remote_code,
        device=None if device == "cpu" else device,
    )  # fmt: skip
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise ParityError(f"there is no dtype {dtype!r} to compare in", f"Those are {', '.join(DTYPES)}.")
    wanted = [name for name in RUNNABLE if name in (asked or RUNNABLE)]
    with tempfile.TemporaryDirectory(prefix="parity-") as directory:
        began = time.perf_counter()
        progress("building both models")
        pair = pairs.make(
            port,
            Path(config) if config else None,
            str(reference) if reference else None,
            small_config,
            seed,
            Path(directory),
            getattr(torch, dtype),
        )
        progress("loading weights in float64")
        sides = stages.load(pair)
        loaded = time.perf_counter()
        progress("comparing boundaries")
        measured = stages.forward(pair, sides)
        compared = time.perf_counter()

        progress("explaining")
        misloaded = load_findings.weights(sides, measured) if "weights" in wanted else ()
        settled = [each.finding for each in misloaded]
        located = (*misloaded, *(findings.forward(sides, measured, settled) if "forward" in wanted else ()))
        explained = explain(pair, sides, measured, located)
        found = finish(pair, sides, measured, located, explained.findings)
        places = boundaries(sides, measured) if "forward" in wanted else ()
        failed = any(finding.stage == "forward" for finding in found) or any(
            place.verdict == "diff" for place in places
        )
        outcomes: dict[str, _Outcome] = {
            "weights": ("fail" if misloaded else "pass", "", loaded - began),
            "forward": ("fail" if failed else "pass", "; ".join(pair.notes), compared - loaded),
        }
        ladder = _climb(pair, sides, measured, wanted, dtype, progress)
        outcomes |= {name: rung.outcome for name, rung in ladder.items()}
        return Report(
            versions=Versions(__version__, torch.__version__, references.VERSION),
            port=pair.port.name,
            reference=pair.reference.class_name,
            weights="random",
            seed=seed,
            stages=tuple(
                Stage(name, *outcomes[name], requested=name in asked) if name in wanted else _left_out(name, asked)
                for name in STAGES
            ),
            boundaries=(
                *among(places, explained.taps),
                *(place for rung in ladder.values() for place in rung.boundaries),
            ),
            findings=(*found, *(finding for rung in ladder.values() for finding in rung.findings)),
            unmatched=unmatched(sides, measured),
            coverage=coverage.known(pair) if "forward" in wanted else None,
            notes=(*pair.notes, *(note for rung in ladder.values() for note in rung.notes)),
            dtype=dtype,
        )


_Outcome = tuple[StageVerdict, str, float]


@dataclass(frozen=True)
class _Climbed:
    """One stage above the full forward, and what the report says of it."""

    outcome: _Outcome
    boundaries: tuple[Boundary, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def _climb(
    pair: Pair, sides: stages.Sides, measured: stages.Forward, wanted: Sequence[str], dtype: str, progress: Progress
) -> dict[str, _Climbed]:
    """The stages above the full forward, of those wanted."""
    found: dict[str, _Climbed] = {}
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
    return found


def _lowered(pair: Pair, sides: stages.Sides, measured: stages.Forward, dtype: str) -> _Climbed:
    began = time.perf_counter()
    if measured.unstable:
        return _Climbed(("not_run", UNSTABLE, 0.0))
    found = []
    for each in precisions.dtypes_of(pair, dtype):
        with tempfile.TemporaryDirectory(prefix="parity-") as directory:
            low = precisions.measure(pair, sides, measured, each, Path(directory))
            found.append((low, _rounded(low, measured, sides)))
    seconds = time.perf_counter() - began
    places = [place for low, rounded in found for place in precision_findings.boundaries(sides, low, rounded)]
    told = [finding for low, rounded in found for finding in precision_findings.findings(low, rounded)]
    notes = [note for low, rounded in found for note in precision_findings.notes(low, rounded)]
    if not places:
        return _Climbed(("not_run", "no boundary of the full forward is right, so that none can be judged", 0.0))
    failed = bool(told) or any(place.verdict == "diff" for place in places)
    verdict: StageVerdict = "fail" if failed else "pass"
    return _Climbed((verdict, "", seconds), tuple(places), tuple(told), tuple(notes))


def _rounded(low: precisions.Lowered, measured: stages.Forward, sides: stages.Sides) -> tuple[rounding.Rounded, ...]:
    try:
        return rounding.explained(low, measured, sides.reference.model)
    except TooLarge:
        return ()


def _climbed(pair: Pair, sides: stages.Sides, measured: stages.Forward, run: Callable[[], rungs.Rung]) -> _Climbed:
    began = time.perf_counter()
    rung = run()
    if not rung.outcomes:
        return _Climbed(("not_run", rung.reason, 0.0))
    seconds = time.perf_counter() - began
    verdict: StageVerdict = "fail" if rung.failing else "pass"
    told = stateful.findings(pair, sides, measured, rung)
    return _Climbed((verdict, "", seconds), stateful.boundaries(sides, rung), told, rung.notes)


def _refuse_beside_pretrained(reference: str | Path | None, small_config: bool) -> None:
    """What contradicts a checkpoint."""
    if small_config:
        raise ParityError("--small-config and --pretrained are both given", "Real weights fit the real config alone.")
    if reference is not None:
        raise ParityError("--reference and --pretrained are both given", "The checkpoint brings its own config.json.")


def _refuse_without_pretrained(**options: object) -> None:
    """What only a checkpoint gives a meaning."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ParityError(f"--{given[0].replace('_', '-')} is for a real checkpoint", "Add --pretrained DIR_OR_HUB_ID.")


def _left_out(name: str, asked: tuple[str, ...]) -> Stage:
    reason = (
        "not asked for" if name in RUNNABLE else "not part of this version, which compares weights and one full forward"
    )
    return Stage(name, "not_run", reason, requested=name in asked)
