"""The line: pair, compare, explain, report. Each stage takes frozen records and returns frozen records."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from parity import __version__, ladder
from parity.compare import error_maps, stages
from parity.compare.boundaries import boundaries, unmatched
from parity.errors import ParityError
from parity.explain import coverage, findings, load_findings
from parity.explain.context import with_context
from parity.explain.explanation import explain
from parity.explain.finish import finish
from parity.explain.taps import among
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.kept import Kept
from parity.pair.modules import Modules
from parity.pair.pair import Pair
from parity.records import DTYPES, STAGES, Boundary, Finding, Report, Stage, Unmatched, Versions

ON_REQUEST = ("gradient",)
Progress = Callable[[str], object]
Step = Callable[[int, int, str], object]
Early = Callable[[Report], object]


def check(
    port: object,
    *,
    config: str | Path | None = None,
    reference: str | Path | None = None,
    small_config: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    stage: Iterable[str] = (),
    gradient: bool = False,
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
        stage: names of the stages to run, by default all but gradient.
        gradient: compare gradients as well.
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
    _refuse_unknown(asked)
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
    with Session(
        port,
        config=config,
        reference=reference,
        small_config=small_config,
        seed=seed,
        dtype=dtype,
        stage=asked,
        gradient=gradient,
        keeps=False,
    ) as once:
        return once.check(progress)


@dataclass(frozen=True)
class _Asked:
    """What is compared on random weights, whatever the port is at the time."""

    port: object
    config: Path | None
    reference: str | None
    small_config: bool
    seed: int
    dtype: str
    stage: tuple[str, ...]
    gradient: bool

    @property
    def wanted(self) -> list[str]:
        """The stages to run."""
        found = [name for name in STAGES if name in self.stage or (not self.stage and name not in ON_REQUEST)]
        return found + (["gradient"] if self.gradient and "gradient" not in found else [])

    def is_requested(self, stage: str) -> bool:
        """Whether a stage was asked for by name."""
        return stage in self.stage or (self.gradient and stage == "gradient")


class Session:
    """Checks of one port on random weights, one after another, as its files change.

    What belongs to the reference alone (its models, its weights on disk, its runs, recorded ones included) is made in
    the first check and kept; the port and the modules of its own that it brings in are imported anew in each. A report
    is what a session of its own would give.
    """

    def __init__(
        self,
        port: object,
        *,
        config: str | Path | None = None,
        reference: str | Path | None = None,
        small_config: bool = False,
        seed: int = 0,
        dtype: str | None = None,
        stage: Iterable[str] = (),
        gradient: bool = False,
        keeps: bool = True,
    ):
        """Arguments are those of `check`; keeps: for more than one check.

        Raises:
            ParityError: an unknown stage or dtype.
        """
        asked, dtype = tuple(stage), dtype or "float32"
        _refuse_unknown(asked)
        if dtype not in DTYPES:
            raise ParityError(f"there is no dtype {dtype!r} to compare in", f"Those are {', '.join(DTYPES)}.")
        from_file, named = Path(config) if config else None, str(reference) if reference else None
        self._asked = _Asked(port, from_file, named, small_config, seed, dtype, asked, gradient)
        self._kept = Kept(keeps)
        self._modules = Modules(port) if keeps else None
        self._directory = tempfile.TemporaryDirectory(prefix="parity-")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *raised: object) -> None:
        self._directory.cleanup()

    @property
    def files(self) -> frozenset[Path]:
        """The files of the port, as far as they are known by now."""
        return self._modules.files if self._modules else frozenset()

    def check(self, progress: Progress = lambda _: None, early: Early = lambda _: None) -> Report:
        """Compare the port as it is now.

        Args:
            progress: called with a phrase whenever something that takes time begins.
            early: called, if the full forward fails, with what is known by then: its verdict and the places. The line
                and the cause are yet to be found, and the stages above yet to be run.

        Raises:
            ParityError: bad input; says what to do next. The session goes on all the same.
        """
        with self._modules.anew() if self._modules else nullcontext():
            return _line(self._asked, Path(self._directory.name), self._kept, progress, early)


def _line(asked: _Asked, directory: Path, kept: Kept, progress: Progress, early: Early = lambda _: None) -> Report:
    """The line itself."""
    began = time.perf_counter()
    progress("building both models")
    pair = pairs.make(
        asked.port,
        asked.config,
        asked.reference,
        asked.small_config,
        asked.seed,
        directory,
        getattr(torch, asked.dtype),
        kept=kept,
    )
    wanted = asked.wanted
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
    places = boundaries(sides, measured) if "forward" in wanted else ()
    apart = any(place.verdict == "diff" for place in places)
    if misloaded or apart:
        seen: dict[str, ladder.Outcome] = {
            "weights": ("fail" if misloaded else "pass", "", loaded - began),
            "forward": ("fail" if apart else "pass", "", compared - loaded),
        }
        early(_report(asked, pair, seen, places, tuple(each.finding for each in located)))
    explained = explain(pair, sides, measured, located)
    found = finish(pair, sides, measured, located, explained.findings)
    failed = apart or any(finding.stage == "forward" for finding in found)
    outcomes: dict[str, ladder.Outcome] = {
        "weights": ("fail" if misloaded else "pass", "", loaded - began),
        "forward": ("fail" if failed else "pass", "; ".join(pair.notes), compared - loaded),
    }
    own = error_maps.of_forward(pair, sides, measured) if "forward" in wanted else ()
    tapped = (tap.map for tap in explained.taps if tap.map is not None)
    climbed = ladder.climb(pair, sides, measured, wanted, asked.dtype, progress)
    lines = (
        *among(places, explained.taps),
        *(place for rung in climbed.values() for place in rung.boundaries),
    )
    outcomes |= {name: rung.outcome for name, rung in climbed.items()}
    above = with_context(finding for rung in climbed.values() for finding in rung.findings)
    return replace(
        _report(asked, pair, outcomes, lines, (*found, *above)),
        unmatched=unmatched(sides, measured),
        coverage=coverage.known(pair) if "forward" in wanted else None,
        notes=(*pair.notes, *(note for rung in climbed.values() for note in rung.notes)),
        maps=error_maps.first((*own, *tapped, *(each for rung in climbed.values() for each in rung.maps)), lines),
    )


def _report(
    asked: _Asked,
    pair: Pair,
    outcomes: Mapping[str, ladder.Outcome],
    lines: tuple[Boundary, ...],
    found: tuple[Finding, ...],
) -> Report:
    """What was compared, and how; a stage without an outcome was not run."""
    return Report(
        versions=Versions(__version__, torch.__version__, references.VERSION),
        port=pair.port.name,
        reference=pair.reference.title,
        weights="random",
        seed=asked.seed,
        stages=tuple(
            Stage(name, *outcomes[name], requested=asked.is_requested(name))
            if name in asked.wanted and name in outcomes
            else _left_out(name, asked)
            for name in STAGES
        ),
        boundaries=lines,
        findings=found,
        unmatched=Unmatched(),
        dtype=asked.dtype,
    )


def _refuse_unknown(stages: Iterable[str]) -> None:
    unknown = [name for name in stages if name not in STAGES]
    if unknown:
        raise ParityError(f"there is no stage {unknown[0]!r}", f"Stages are {', '.join(STAGES)}.")


def _left_out(name: str, asked: _Asked) -> Stage:
    reason = "on request: --gradient" if name in ON_REQUEST else "not asked for"
    return Stage(name, "not_run", "not run yet" if name in asked.wanted else reason, requested=name in asked.stage)


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
