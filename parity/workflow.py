"""`parity ladder`: the whole workflow of one port, what of it holds, and what to run next.

The card and the stages on the small config are run. A checkpoint is looked at only if one is given. Nothing is kept
from one call to the next, so what is told is what is so now.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity import __version__
from parity.card.card import of
from parity.card.facts import billions
from parity.card.target import Target
from parity.card_records import Card
from parity.errors import ParityError
from parity.generation import generate
from parity.generation_records import Generation, Phrases
from parity.names import shown
from parity.new import nearest
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.port import Port
from parity.pair.reference import Reference
from parity.pipeline import check
from parity.records import STAGES, Finding, Report, Stage
from parity.workflow_records import RUNGS, Rung, State, Workflow

Progress = Callable[[str], object]
_STATES: Mapping[str, State] = {"pass": "done", "fail": "failed", "not_run": "not_possible"}


@dataclass(frozen=True)
class _Asked:
    """What is asked of a ladder; see `ladder`."""

    port: str
    config: Path | None
    reference: str | None
    pretrained: str | None
    gradient: bool
    seed: int

    @property
    def tail(self) -> str:
        """What every check of this port is told beside its name."""
        config = f" --config {self.config}" if self.config else ""
        reference = f" --reference {self.reference}" if self.reference else ""
        return f"{config}{reference}" + (f" --seed {self.seed}" if self.seed else "")

    def command(self, rung: str) -> str:
        """What runs one rung alone."""
        checkpoint = self.pretrained or "DIR_OR_HUB_ID"
        if rung in STAGES:
            stage = " --gradient" if rung == "gradient" else f" --stage {rung}"
            return f"parity check {self.port} --small-config{self.tail}{stage}"
        return {
            "pretrained": f"parity check {self.port} --pretrained {checkpoint}",
            "text": f"parity generate {self.port} --pretrained {checkpoint} --compare-hf",
        }.get(rung, f"parity card {self.config or self.reference or self.port}")


def ladder(
    port: str,
    *,
    config: Path | None = None,
    reference: str | None = None,
    pretrained: str | None = None,
    gradient: bool = False,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Workflow:
    """Go through the workflow of a port, as far as it can be gone.

    Args:
        port: a built-in name, a file or a dotted module.
        config: a config.json; else that of `reference`, else the built-in one of the port's first model type.
        reference: a directory or Hub id whose config.json is used.
        pretrained: a directory or Hub id whose weights are compared and generated with.
        gradient: compare gradients as well.
        seed: of random weights and tokens.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: no such port, or no config for it; says what to do next.
    """
    asked = _Asked(port, config, reference, pretrained, gradient, seed)
    found = ports.resolve(port)
    progress("reading the config")
    described, notes = pairs.find_reference(found, config, reference)
    source = str(config or reference or pairs.config_of_port(found)[0])
    rungs = [
        _rung(asked, "config", "done", f"{source}, model type {described.model_type}"),
        *_cards(asked, found, described, source, progress),
        *_stages(asked, progress),
        *_checkpoint(asked, progress),
    ]
    ordered = tuple(sorted(rungs, key=lambda each: RUNGS.index(each.name)))
    return Workflow(
        port=port,
        source=source,
        reference=described.class_name,
        rungs=ordered,
        next=_next(ordered),
        transformers=references.VERSION,
        parity=__version__,
        notes=tuple(notes),
    )


def _rung(asked: _Asked, name: str, state: State, why: str) -> Rung:
    return Rung(name, state, why, asked.command(name))


def _cards(asked: _Asked, port: Port, described: Reference, source: str, progress: Progress) -> Iterator[Rung]:
    """The card, and which other port is the nearest."""
    progress("making the card")
    try:
        card = of(lambda: Target(port.name, source, described.config, None)).card
        yield _rung(asked, "card", _holds(card), _of_card(card))
    except ParityError as error:
        yield _rung(asked, "card", "not_possible", error.problem)
    try:
        own = nearest.side(port.name, described.config)
        others = [
            each
            for each in nearest.candidates((), progress)[0]
            if not set(each.port.model_types) & set(port.model_types)
        ]
        first = next(iter(nearest.ranked(own, others)), None)
        why = "there is no other" if first is None else f"{first.name}, at a distance of {first.distance}"
        beside = asked.command("card") if first is None else f"parity diff {asked.port} {first.name}"
        yield Rung("nearest port", "done", why, beside)
    except ParityError as error:
        yield _rung(asked, "nearest port", "not_possible", error.problem)


def _holds(card: Card) -> State:
    """A card whose figures do not agree with what its reference has is no use."""
    measured = card.kv_cache.measured
    return "failed" if card.parameters.agree is False or (measured and not measured.agree) else "done"


def _of_card(card: Card) -> str:
    kept = card.kv_cache.per_token()
    return (
        f"{billions(card.parameters.total)} parameters, {kept / 1024:,.4g} KiB of cache per token in bfloat16"
        if kept
        else f"{billions(card.parameters.total)} parameters"
    )


def _stages(asked: _Asked, progress: Progress) -> Iterator[Rung]:
    """The stages on the small config."""
    progress("checking on the small config")
    try:
        report = check(
            asked.port,
            config=asked.config,
            reference=asked.reference,
            small_config=True,
            seed=asked.seed,
            gradient=asked.gradient,
            progress=progress,
        )
    except ParityError as error:
        yield _rung(asked, "weights", "not_possible", error.problem)
        yield from (_rung(asked, name, "not_possible", "the port does not run") for name in STAGES[1:])
        return
    for stage in report.stages:
        if stage.name == "gradient" and not asked.gradient:
            yield _rung(asked, stage.name, "not_run", "on request: --gradient")
        else:
            yield _rung(asked, stage.name, _STATES[stage.verdict], _of_stage(report, stage))


def _of_stage(report: Report, stage: Stage) -> str:
    if stage.verdict == "fail":
        own = [finding for finding in report.findings if finding.stage == stage.name]
        return _of_findings(own) if own else "boundaries differ"
    if stage.verdict == "not_run":
        return stage.reason
    compared = [each for each in report.boundaries if each.stage == stage.name and each.verdict != "not_compared"]
    return f"{len(compared)} boundaries hold" if compared else "nothing wrong"


def _of_findings(found: Sequence[Finding]) -> str:
    """Where the first one is, and its cause."""
    first = found[0]
    source = first.port_source
    place = f"{shown(source.file)}:{source.line}: " if source is not None else ""
    cause = "" if first.cause == "unknown" else f", {first.cause}"
    more = f"; {len(found) - 1} more" if len(found) > 1 else ""
    return f"{place}{' '.join(first.title.split())}{cause}{more}"


def _checkpoint(asked: _Asked, progress: Progress) -> Iterator[Rung]:
    """Real weights, and text of them."""
    if asked.pretrained is None:
        yield _rung(asked, "pretrained", "not_run", "needs a checkpoint: --pretrained DIR_OR_HUB_ID")
        yield _rung(asked, "text", "not_run", "needs a checkpoint: --pretrained DIR_OR_HUB_ID")
        return
    yield _tried(asked, "pretrained", lambda: _weights(asked, progress))
    yield _tried(asked, "text", lambda: _text(asked, progress))


def _tried(asked: _Asked, name: str, run: Callable[[], tuple[State, str]]) -> Rung:
    try:
        return _rung(asked, name, *run())
    except ParityError as error:
        return _rung(asked, name, "not_possible", error.problem)


def _weights(asked: _Asked, progress: Progress) -> tuple[State, str]:
    report = check(asked.port, config=asked.config, pretrained=asked.pretrained, seed=asked.seed, progress=progress)
    if report.verdict == "fail":
        return "failed", _of_findings(report.findings) if report.findings else "boundaries differ"
    if report.verdict == "incomplete":
        return "not_possible", "; ".join(stage.reason for stage in report.stages if stage.reason) or "not compared"
    compared = sum(each.verdict != "not_compared" for each in report.boundaries)
    return "done", f"{compared} boundaries hold"


def _text(asked: _Asked, progress: Progress) -> tuple[State, str]:
    made = generate(asked.port, compare_hf=True, pretrained=asked.pretrained, watcher=Phrases(progress))
    return ("done" if made.verdict == "pass" else "failed"), _of_text(made)


def _of_text(made: Generation) -> str:
    """Where the text goes wrong first, or how much of it there is."""
    wrong = next((finding.title for finding in made.findings if finding.fault), None)
    row = next((row for row in made.rows if row.fault or row.off), None)
    if wrong is not None or row is None:
        return wrong or f"{sum(len(each.port) for each in made.rows)} new tokens hold"
    first, along = row.first_difference, row.teacher_forced
    if first is not None and first.verdict == "fault":
        told = f"another text from new token {first.index + 1} on"
    elif along is not None and along.faults:
        told = f"another choice at new token {along.faults[0].index + 1}, along the reference's text"
    else:
        told = "logits further apart than rounding explains"
    return f"{told}; {row.blame.text}" if row.blame is not None else told


def _next(rungs: Sequence[Rung]) -> str:
    """The command of the first rung that fails, else of the first that has not been run."""
    for state in ("failed", "not_possible", "not_run"):
        for rung in rungs:
            if rung.state == state and not (state == "not_possible" and rung.name not in ("weights", "pretrained")):
                return rung.command
    return ""
