"""The line for a real checkpoint: pair, compare block by block, explain by the small config, report."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from parity import __version__
from parity.compare.boundaries import unmatched
from parity.compare.places import Place
from parity.compare.plan import Plan, habits, plan, reference_dtypes
from parity.compare.small import Small, small_check
from parity.compare.streaming import BlockResult, BlockWork, Both, Lockstep
from parity.compare.whole import whole
from parity.errors import ParityError
from parity.explain import findings, load_findings
from parity.explain.by_small import Failing, Told, explained_by_small, told_by
from parity.names import fold, template
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import prompt as prompts
from parity.pair import reference as references
from parity.pair import running
from parity.pair.checkpoint import Checkpoint, open_checkpoint
from parity.pair.device import device_of, told_when_full
from parity.pair.lifting import Lifter, Streamed
from parity.pair.mapped import Mapped, release
from parity.pair.port import Port
from parity.pair.reference import Reference
from parity.pair.streamed import reference_on, tensor_names
from parity.pair.streamed_port import Habits, port_on
from parity.pair.text_names import text_names
from parity.records import NOISE, STAGES, Boundary, Finding, Report, Stage, StageVerdict, Unmatched, Versions

Progress = Callable[[str], object]
Step = Callable[[int, int, str], object]
_RUNNABLE = ("weights", "forward")
_PROMOTED = "float64"


_UNMAPPED = (
    "Raise the limit on address space (ulimit -v): the files are mapped whole, and little of them is ever in memory."
)


@dataclass(frozen=True)
class Wanted:
    """What a user asks for, beside the port and the checkpoint; see `check`."""

    config: Path | None = None
    revision: str | None = None
    seed: int = 0
    dtype: str = _PROMOTED
    stage: tuple[str, ...] = ()
    max_blocks: int | None = None
    device: str = "cpu"
    prompt: str | None = None
    tokens: Path | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in NOISE:
            raise ParityError(f"there is no dtype {self.dtype!r} to compare in", f"Those are {', '.join(NOISE)}.")
        if self.max_blocks is not None and self.max_blocks < 1:
            raise ParityError(f"--max-blocks is {self.max_blocks}", "Give 1 or more.")

    @property
    def promoted(self) -> bool:
        """Whether runs are in promoted float64."""
        return self.dtype == _PROMOTED


@dataclass(frozen=True)
class _Setup:
    """Everything that is there before anything runs at full size."""

    wanted: Wanted
    target: object
    port: Port
    reference: Reference
    checkpoint: Checkpoint
    config: Path
    prompt: prompts.Prompt
    device: torch.device
    small: Small | None
    plan: Plan | None
    notes: tuple[str, ...]


@dataclass
class _Progressed:
    """What was compared by now; an interruption leaves it as it is."""

    places: list[tuple[Place, int | None]] = field(default_factory=list)
    blocks: list[tuple[str, str]] = field(default_factory=list)
    done: int = 0
    not_finite: list[str] = field(default_factory=list)
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def worst(self) -> str:
        """The boundary with the largest error so far, in words."""
        errors = [(place.total, place.name) for place, _ in self.places if place.total is not None]
        if not errors:
            return ""
        error, name = max(errors, key=lambda each: float("inf") if each[0] != each[0] else each[0])
        return f"largest relative error {error:.1e} at {name}"


def check(
    port: object, source: str, wanted: Wanted, progress: Progress = lambda _: None, step: Step = lambda *_: None
) -> Report:
    """Compare a port with its reference on a real checkpoint.

    Args:
        port: a built-in name, a file, a dotted module, or an object that fulfils the contract.
        source: a directory in the Hub's layout, or a Hub id.
        wanted: everything else.
        progress: called with a phrase whenever something that takes time begins.
        step: called with the number of blocks done, that of all, and words about the worst boundary so far.

    Raises:
        ParityError: bad input; says what to do next.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-")))
        setup = _set_up(port, source, wanted, folder, progress)
        progress("opening the checkpoint on both sides")
        with told_when_full("while the checkpoint was opened", setup.device, _UNMAPPED):
            reference, streamed, unused = _streamed(setup, folder)
        release()
        loaded = time.perf_counter()
        made = _Progressed(notes=list(setup.notes))
        try:
            _compare(setup, (reference, streamed), made, step)
        except KeyboardInterrupt:
            if not made.places:
                raise
            made.interrupted = True
            made.notes.append(f"interrupted after {made.done} of {len(made.blocks)} blocks")
        made.seconds = time.perf_counter() - loaded
        progress("explaining")
        try:
            found = _findings(setup, made, folder, progress)
        except KeyboardInterrupt:
            made.interrupted = True
            made.notes.append("interrupted while lines and causes were looked for")
            found = _findings(setup, made, folder, progress)
        return _report(setup, made, found, unused, loaded - began)


def _set_up(target: object, source: str, wanted: Wanted, folder: Path, progress: Progress) -> _Setup:
    port = ports.resolve(target)
    progress(f"opening {source}")

    def accept(config: object) -> None:
        if wanted.config is None:
            _described(port, source, config)

    checkpoint = open_checkpoint(source, wanted.revision, wanted.trust_remote_code, accept, port.stand_ins)
    config = wanted.config or checkpoint.directory / "config.json"
    reference, notes = pairs.find_reference(port, config, None)
    pairs.refuse_part(reference, checkpoint.config)
    device = device_of(wanted.device, getattr(torch, wanted.dtype))
    prompt = prompts.make(
        checkpoint, reference.settings, wanted.prompt, wanted.tokens, wanted.seed, wanted.trust_remote_code
    )
    progress("comparing on the small config, for the alignment")
    small, said = _small(target, config, wanted, folder)
    found = plan(small.pair, small.sides, small.measured) if small else None
    if small and found is None:
        said = "no blocks that can be run alone were found: both models were run whole, and compared outside of blocks"
    if found is None and wanted.max_blocks is not None:
        raise ParityError(f"--max-blocks: {said}", "Leave it out.")
    pinned = [f"revision {checkpoint.revision}"] if checkpoint.revision else []
    rows, length = prompt.input_ids.shape
    told = [f"prompt of {length} tokens" + (f", {rows} rows" if rows > 1 else "")]
    return _Setup(
        wanted, target, port, reference, checkpoint, config, prompt, device, small, found,
        (*pinned, *checkpoint.notes, *notes, *told, *prompt.notes, *([said] if said else [])),
    )  # fmt: skip


def _described(port: Port, source: str, config: object) -> None:
    """Find out that a checkpoint is of another architecture before its weights are downloaded."""
    described = references.describe(references.text_part(config), port.stand_ins)  # type: ignore[arg-type]
    pairs.check_model_type(port, described.model_type)


def _small(target: object, config: Path, wanted: Wanted, folder: Path) -> tuple[Small | None, str]:
    """The small config, or why there is none."""
    dtype = torch.float32 if wanted.promoted else getattr(torch, wanted.dtype)
    problem = ""
    for name, deep in (("small", False), ("small-of-full-depth", True)):  # code may speak of a layer by its number
        directory = folder / name
        directory.mkdir()
        try:
            return small_check(target, config, wanted.seed, directory, dtype, deep), ""
        except ParityError as error:  # what is wrong at full size as well, is told there
            problem = problem or error.problem
    told = "the port cannot be shrunk, so that only the logits were compared, and nothing was explained"
    return None, f"{told}: {problem}"


def _streamed(setup: _Setup, folder: Path) -> tuple[Streamed, Streamed, tuple[str, ...]]:
    """Both models on the checkpoint, and the tensors in it that neither of them takes."""
    wanted, checkpoint, reference = setup.wanted, setup.checkpoint, setup.reference
    names = {name: name for name in checkpoint.entries}
    if references.text_part(checkpoint.config) is not checkpoint.config:
        names = text_names(tensor_names(reference), checkpoint.entries)
    tensors = Mapped(checkpoint.files, names)
    entries = {name: checkpoint.entries[stored] for name, stored in names.items()}
    known = habits(setup.small.pair, setup.small.sides) if setup.small else Habits()
    scratch = folder / "port"
    scratch.mkdir()
    owned = ports.resolve(setup.target, promoted=wanted.promoted)
    dropped = frozenset(name for name, target in ports.placed(owned, names) if target is None)
    ours = reference_on(reference, tensors, entries, wanted.promoted, dropped)
    theirs = port_on(owned, reference.config, tensors, wanted.promoted, wanted.seed, known, scratch, ours.spare)
    if setup.small and not wanted.promoted:
        kept = reference_dtypes(setup.small.pair)
        ours = replace(ours, dtypes={name: kept[template(name)] for name in ours.names if template(name) in kept})
    for side in (ours, theirs):
        side.tables_to(setup.device)
    spare = {names[name] for name in ours.spare - set(theirs.tensors.values())} if owned.weights else set()
    return ours, theirs, tuple(sorted({*dropped, *spare, *(set(checkpoint.entries) - set(names.values()))}))


def _compare(setup: _Setup, sides: tuple[Streamed, Streamed], made: _Progressed, step: Step) -> None:
    """Compare as much as is wanted; `made` holds what was done by then."""
    wanted, device = setup.wanted, setup.device
    input_ids = setup.prompt.input_ids.to(device)
    lifter = Lifter(getattr(torch, wanted.dtype), device)

    def ours(ids: Tensor) -> Tensor:
        return references.logits(sides[0].model, ids)

    def theirs(ids: Tensor) -> Tensor:
        return running.call(setup.port, sides[1].model, ids)

    if setup.plan is None:
        with told_when_full("while the models were run whole", device):
            wires = setup.small.measured.wires if setup.small else ()
            elsewhere = setup.small.measured.isolated.elsewhere if setup.small else frozenset()
            places, broken = whole(sides, (ours, theirs), wires, elsewhere, input_ids, lifter, wanted.promoted)
        made.places += [(place, None) for place in places]
        made.not_finite += broken
        return
    vocabulary = setup.reference.settings["vocab_size"]
    both = Both(*sides, (ours, theirs), setup.plan, lifter, vocabulary, wanted.promoted, NOISE[wanted.dtype])
    _blocks(Lockstep(both), input_ids, setup, made, step)


def _blocks(lockstep: Lockstep, input_ids: Tensor, setup: _Setup, made: _Progressed, step: Step) -> None:
    """What comes before the blocks, the blocks one by one, and what comes after them."""
    wanted, device = setup.wanted, setup.device
    made.blocks += lockstep.blocks
    count = min(len(made.blocks), wanted.max_blocks or len(made.blocks))
    with told_when_full("before the first block", device):
        start = lockstep.start(input_ids)
    made.places += [(place, None) for place in start.places]
    reference_state, port_state = start.reference_state, start.port_state
    isolated_state = None
    last: BlockResult | None = None
    for index in range(count):
        step(index, count, made.worst)
        free = port_state if wanted.promoted else None
        work = BlockWork(index, start.arguments[index], reference_state, free, isolated_state)
        with told_when_full(f"in block {index + 1} of {count}", device):
            last = lockstep.block(work)
        made.places += [(place, index) for place in last.places]
        made.done = index + 1
        made.not_finite[:] = lockstep.not_finite
        if made.not_finite:
            made.notes.append(f"not compared from block {index + 1} on: the checkpoint is not finite there")
            return
        reference_state, port_state, isolated_state = last.reference_state, last.port_state, last.isolated_state
    step(count, count, made.worst)
    if lockstep.unlike:
        kinds = ", ".join(lockstep.unlike)
        made.notes.append(f"unlike any block of the small config, so that only the ends were compared: {kinds}")
    if count < len(made.blocks):
        made.notes.append(f"{count} of {len(made.blocks)} blocks compared, as asked")
        return
    assert last is not None
    with told_when_full("after the last block", device):
        made.places += [(place, None) for place in lockstep.end(input_ids, start, last)]
    made.not_finite[:] = lockstep.not_finite


def _findings(setup: _Setup, made: _Progressed, folder: Path, progress: Progress) -> tuple[Finding, ...]:
    """What to mend: weights that mean nothing first, then what the small config explains, then what nothing does."""
    found = [_not_finite(name, made) for name in made.not_finite]
    noise = NOISE[setup.wanted.dtype]
    failing = [
        Failing(place, block) for place, block in made.places if place.own is not None and not place.own <= noise
    ]
    if made.not_finite:  # what follows from that is no fault of the port's
        failing = [each for each in failing if each.place.own == each.place.own]
    quick = made.interrupted or setup.small is None
    told = None if quick or not (failing or _misloads(setup)) else told_by(setup.small, _small_blocks(setup))  # type: ignore[arg-type]

    def deep() -> Told:
        progress("explaining, with all layers")
        directory = folder / "deep"
        directory.mkdir()
        small = small_check(setup.target, setup.config, setup.wanted.seed, directory, deep=True)
        return told_by(small, _block_names(setup, small))

    return (*found, *explained_by_small(failing, made.blocks, told, deep))


def _misloads(setup: _Setup) -> bool:
    """Whether the small config shows a fault in loading, which then is one here as well."""
    return bool(setup.small and load_findings.weights(setup.small.sides, setup.small.measured))


def _small_blocks(setup: _Setup) -> list[tuple[str, str]]:
    """The reference's and the port's blocks on the small config."""
    return _block_names(setup, setup.small) if setup.small else []


def _block_names(setup: _Setup, small: Small) -> list[tuple[str, str]]:
    if setup.plan is None:
        return []
    models = small.sides.reference.model, small.sides.port.model
    return list(zip(*(chain.names(model) for chain, model in zip(setup.plan.chains, models, strict=True)), strict=True))


def _not_finite(name: str, made: _Progressed) -> Finding:
    """A tensor of the checkpoint that holds what is no number."""
    module = name.rpartition(".")[0]
    ports = [place.port for place, _ in made.places if place.reference.module == module]
    evidence = "whatever comes out of it means nothing on either side; what follows was not compared"
    title = f"{name} of the checkpoint holds a NaN or an infinity"
    return Finding("weights", "unknown", title, module, next(iter(ports), ""), evidence=(evidence,))


def _report(
    setup: _Setup, made: _Progressed, found: Sequence[Finding], unused: Sequence[str], seconds: float
) -> Report:
    wanted, noise = setup.wanted, NOISE[setup.wanted.dtype]
    places = tuple(_boundary(place, setup, noise) for place, _ in made.places)
    notes = (*made.notes, *_unseen(setup, found, places))
    wrong = any(place.verdict == "diff" for place in places) or any(each.stage == "forward" for each in found)
    outcomes: dict[str, tuple[StageVerdict, str, float]] = {
        "weights": ("fail" if any(each.stage == "weights" for each in found) else "pass", "", seconds),
        "forward": ("fail" if wrong else "pass", "; ".join(notes), made.seconds),
    }
    asked = wanted.stage or _RUNNABLE
    reason = "not part of a check on a real checkpoint: run parity check with --small-config"
    stages = tuple(
        Stage(name, *outcomes[name], requested=name in wanted.stage)
        if name in outcomes and name in asked
        else Stage(name, "not_run", "not asked for" if name in outcomes else reason, requested=name in wanted.stage)
        for name in STAGES
    )
    told = {stage.name for stage in stages if stage.verdict != "not_run"}
    return Report(
        versions=Versions(__version__, torch.__version__, references.VERSION),
        port=setup.port.name,
        reference=setup.reference.title,
        weights="pretrained",
        seed=wanted.seed,
        stages=stages,
        boundaries=places if "forward" in told else (),
        findings=tuple(each for each in found if each.stage in told),
        unmatched=_unmatched(setup, unused),
        notes=notes,
        dtype=wanted.dtype,
        revision=setup.checkpoint.revision,
        interrupted=made.interrupted,
    )


def _boundary(place: Place, setup: _Setup, noise: float) -> Boundary:
    end = place.reference
    logits = place.name == "logits"
    return Boundary(
        stage="forward",
        name=place.name,
        reference_module=setup.reference.class_name if logits else end.module,
        port_module="Model" if logits else place.port,
        kind=end.kind,
        max_abs=place.largest,
        mean_abs=place.mean,
        own=place.own,
        total=place.total,
        note=place.note,
        noise=noise,
    )


def _unseen(setup: _Setup, found: Sequence[Finding], places: Sequence[Boundary]) -> list[str]:
    """What this run cannot have seen, or did not compare."""
    notes = []
    if setup.plan and setup.plan.resized:
        apart = fold(pair.reference for pair in setup.plan.resized)
        notes.append(f"not compared, because the port orders their features otherwise: {', '.join(apart)}")
    if setup.small and not found and not any(place.verdict == "diff" for place in places):
        located = findings.forward(setup.small.sides, setup.small.measured, ())
        if located:
            notes.append(
                f"the small config shows {len(located)} fault(s) that this checkpoint and prompt do not, first: "
                f"{located[0].finding.title}; see parity check {setup.port.name} --small-config"
            )
    return notes


def _unmatched(setup: _Setup, unused: Sequence[str]) -> Unmatched:
    """What has no counterpart, by the names of the small config; tensors by those of the checkpoint."""
    if setup.small is None:
        return Unmatched(tensors=tuple(unused))
    small = unmatched(setup.small.sides, setup.small.measured)
    kinds = {template(name) for name in small.tensors}
    tensors = {*unused, *(name for name in setup.checkpoint.entries if template(name) in kinds)}
    return replace(small, tensors=tuple(sorted(tensors)))
