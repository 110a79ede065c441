"""`parity new`: a file to begin a port with, and what is known of it."""

import json
import keyword
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from parity import __version__
from parity.card.target import Target, find
from parity.errors import ParityError
from parity.names import shown, template
from parity.new import nearest as ranking
from parity.new import trial
from parity.new.code import Code
from parity.new.handed import Handed
from parity.new.marks import Difference, Marker
from parity.new.nearest import Candidate, Side
from parity.new.reading import Reading
from parity.new.trial import Outcome
from parity.new.weights import Places, places
from parity.new.write import MAP, Edit, Head, adapted, comment, replaced
from parity.new_records import Found, Mark, Ranked, Start
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.weights import Tensors
from parity.pipeline import check
from parity.records import Finding, Report

Progress = Callable[[str], object]


@dataclass(frozen=True)
class _Goal:
    """The architecture that a port is begun for, with its small reference and the shapes of its tensors."""

    name: str
    target: Target
    side: Side
    model: nn.Module
    shapes: Mapping[str, tuple[int, ...]]
    folder: Path

    @property
    def config(self) -> Path:
        """The config.json that the file is checked on."""
        return self.folder / "config.json"


def start(
    name: str,
    config: str,
    *,
    port: str | None = None,
    without: Collection[str] = (),
    output: Path | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Start, str]:
    """Begin a port.

    Args:
        name: what it is called.
        config: a config.json, a directory with one, a Hub id, or the name of a config that comes with Parity.
        port: the port to begin with; by default the nearest.
        without: ports to leave out of the choice.
        output: the file; by default NAME.py. It is not written here.
        progress: called with a phrase whenever something that takes time begins.

    Returns:
        What is known of the file, and its text.

    Raises:
        ParityError: bad input, or no port that could be begun with; says what to do next.
    """
    refuse_name(name)
    file = output or Path(f"{name}.py")
    refuse_file(file)
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        goal = _goal(name, config, Path(folder), progress)
        left: list[Ranked] = []
        if port is not None:
            found = [_chosen(port)]
        else:
            found, left = ranking.candidates(without, progress)
        ranked = ranking.ranked(goal.side, found)
        if not ranked:
            raise ParityError("no port is left to begin with", "Leave fewer out, or name one: --from PORT.")
        by_name = {each.port.name: each for each in found}
        refused: list[str] = []
        for each in ranked:
            try:
                return _begun(goal, by_name[each.name], each, (*ranked, *left), file, config, refused, progress)
            except ParityError as error:
                if port is not None:
                    raise
                refused.append(f"{each.name} could not be begun with: {error.problem}")
        raise ParityError(f"no port runs on this config; the nearest: {refused[0]}", "Write it from scratch.")


def refuse_name(name: str) -> None:
    """Refuse what is no name of a Python module.

    Raises:
        ParityError: it is none.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        better = "".join(each if each.isalnum() else "_" for each in name.removesuffix(".py")).strip("_")
        better = better if better.isidentifier() and not keyword.iskeyword(better) else "my_port"
        raise ParityError(f"{name!r} is no name of a Python module", f"Take one such as {better}.")


def refuse_file(file: Path) -> None:
    """Refuse to write over a file.

    Raises:
        ParityError: it exists.
    """
    if file.exists():
        raise ParityError(f"{file} exists already", "Take another name, or --output FILE; nothing is written over.")


def _chosen(port: str) -> Candidate:
    try:
        return ranking.candidate(port)
    except ParityError as error:
        raise ParityError(f"{port} cannot be begun with: {error.problem}", error.next_step) from error


def _goal(name: str, config: str, folder: Path, progress: Progress) -> _Goal:
    progress("reading the config")
    target = find(config)
    side = ranking.side(target.name, target.config)
    (folder / "config.json").write_text(json.dumps(side.reference.config), encoding="utf-8")
    progress("building the small reference")
    small = references.on(side.reference, side.small)
    model = references.build(small, promoted=False)
    stored = folder / "stored"
    references.save(model, stored, small.config)
    tensors = Tensors(stored, promoted=False)
    shapes = {each: tuple(tensors[each].shape) for each in tensors}
    return _Goal(name, target, side, model, shapes, folder)


def _begun(
    goal: _Goal,
    candidate: Candidate,
    ranked: Ranked,
    table: tuple[Ranked, ...],
    file: Path,
    config: str,
    refused: Sequence[str],
    progress: Progress,
) -> tuple[Start, str]:
    """The file begun with one port."""
    progress(f"fitting {candidate.port.name}")
    handed, outcome = _fitted(goal, candidate)
    assert outcome.model is not None
    placed = places(candidate.port, outcome.model, goal.shapes, goal.side, candidate.side)
    command = f"parity check {file} --small-config{_with_config(goal, config)}"
    reference = goal.side.reference
    head = Head(goal.name, candidate.file.name, reference.class_name, (reference.model_type,), command)
    text = adapted(candidate.file.read_text(encoding="utf-8"), head, handed, placed)
    code = Code(text)
    marker = Marker(code, outcome.model, goal.side, candidate, placed, Reading(goal.model))
    known = marker.differences(ranked, handed, outcome)
    progress("checking the file")
    report = _checked(goal, text)
    differences = _attached(marker, code, known, report.findings)
    marked, marks = _marked(text, differences)
    progress("checking the marks")
    final = _checked(goal, marked)
    found = _found(Code(marked), marks, differences, final.findings, marker)
    return _told(goal, candidate, table, file, placed, marks, found, final, command, refused), marked


def _fitted(goal: _Goal, candidate: Candidate) -> tuple[tuple[Handed, ...], Outcome]:
    whole, small = goal.side.reference.config, goal.side.small
    handed, now = trial.fitted(candidate.port, candidate.side.small, whole, small)

    def loaded(model: nn.Module) -> int:
        return places(candidate.port, model, goal.shapes, goal.side, candidate.side).loaded

    handed, now = trial.leaner(candidate.port, candidate.side.small, goal.side, handed, now)
    handed, now = trial.closer(candidate.port, whole, small, handed, now, loaded)
    return trial.with_defaults(candidate.port, goal.side, candidate.side, handed, now)


def _with_config(goal: _Goal, config: str) -> str:
    """What a check needs to be told of the config; nothing where it is the one that comes with Parity."""
    default = pairs.default_config(goal.side.reference.model_type)
    if default == goal.target.config:
        return ""
    path = Path(config)
    if path.is_dir() or not (path.exists() or find(config).source.endswith(".json")):
        return f" --reference {config}"
    return f" --config {config if path.exists() else shown(str(pairs.shipped(goal.target.source)))}"


def _checked(goal: _Goal, text: str) -> Report:
    """The check of a file with this text, on the small config."""
    with tempfile.TemporaryDirectory(dir=goal.folder) as folder:
        path = Path(folder) / f"{goal.name}.py"
        path.write_text(text, encoding="utf-8")
        return check(str(path), config=goal.config, small_config=True)


def _attached(
    marker: Marker, code: Code, known: Sequence[Difference], findings: Sequence[Finding]
) -> tuple[Difference, ...]:
    """Differences with the findings: one of a cause goes to the finding's line, a finding that has none is one more."""
    found = list(known)
    for finding in findings:
        if _at(found, finding, marker) is not None:
            continue
        spot = marker.of_finding(finding)
        if spot is None:
            continue
        moved = next(
            (number for number, each in enumerate(found)
             if each.origin == "card" and finding.cause in each.causes and each.spot.where != MAP),
            None,
        )  # fmt: skip
        if moved is not None:
            found[moved] = replace(found[moved], spot=spot, origin="both")
        else:
            found.append(marker.unmarked(finding, spot))
    return tuple(sorted(found, key=lambda each: each.spot.line))


def _at(found: Sequence[Difference], finding: Finding, marker: Marker) -> tuple[int, bool] | None:
    """The difference at whose place a finding is, and whether it is at the very statement.

    At the map of weights it has to be about the same tensors as well. A finding that names a module is at a mark in
    the class of that module, if it has no line of its own or the mark's cause.
    """
    spot, module = marker.of_finding(finding), marker.of_module(finding)
    for number, each in enumerate(found):
        about = each.spot.where != MAP or set(each.names) & set(_named(finding.title)) or finding.title == each.what
        if spot is not None and each.spot == spot and about:
            return number, finding.port_source is not None
    for number, each in enumerate(found):
        inside = module is not None and _around(each.spot.where) == _around(module.where)
        if inside and (finding.port_source is None or finding.cause in each.causes):
            return number, False
    return None


def _around(where: str) -> str:
    """The class of a function, but for that of the whole."""
    return where if where.startswith(("Model.", "Config.")) else where.partition(".")[0]


def _named(title: str) -> list[str]:
    return [template(word.strip(",.:;")) for word in title.split() if "." in word]


def _marked(text: str, differences: Sequence[Difference]) -> tuple[str, tuple[Mark, ...]]:
    """The text with a comment above each statement that differs, and the marks with the lines that they have there."""
    lines = text.splitlines()
    edits, marks, added = [], [], 0
    for number, each in enumerate(differences, 1):
        first = lines[each.spot.line - 1]
        indent = first[: len(first) - len(first.lstrip())]
        reads = [f"{read.name}, {read.file}:{read.line}".removeprefix(", ") for read in each.reads]
        told = comment(number, each.what, reads, indent)
        edits.append((each.spot.line, told))
        added += len(told)
        marks.append(
            Mark(number, each.what, each.spot.where, each.spot.line + added, first.strip(), each.reads, each.origin,
                 each.causes)
        )  # fmt: skip
    above: dict[int, tuple[str, ...]] = {}
    for line, told in edits:
        above[line] = (*above.get(line, ()), *told)
    also = [
        Edit(each.also.line, each.also.line, (f"{lines[each.also.line - 1]}  # DIFFERS {number}",))
        for number, each in enumerate(differences, 1)
        if each.also is not None
    ]
    marked = replaced(text, [*also, *(Edit(line, line - 1, told) for line, told in above.items())])
    below = {line: max(mark.line for mark, each in zip(marks, differences, strict=True) if each.spot.line == line)
             for line in above}  # fmt: skip
    return marked, tuple(
        replace(mark, line=below[each.spot.line]) for mark, each in zip(marks, differences, strict=True)
    )


def _found(
    code: Code, marks: Sequence[Mark], differences: Sequence[Difference], findings: Sequence[Finding], marker: Marker
) -> tuple[Found, ...]:
    """The findings on the file as written, each with the mark at whose place it is."""
    now = [replace(each, spot=code.at(mark.line) or each.spot) for mark, each in zip(marks, differences, strict=True)]
    made = marker.over(code)
    told = []
    for finding in findings:
        at = _at(now, finding, made)
        number, exact = (None, False) if at is None else (marks[at[0]].number, at[1])
        line = None if finding.port_source is None else finding.port_source.line
        told.append(Found(finding.stage, finding.cause, finding.title, line, number, exact))
    return tuple(told)


def _told(
    goal: _Goal,
    candidate: Candidate,
    table: tuple[Ranked, ...],
    file: Path,
    placed: Places,
    marks: tuple[Mark, ...],
    found: tuple[Found, ...],
    report: Report,
    command: str,
    refused: Sequence[str],
) -> Start:
    reference = goal.side.reference
    part = references.text_part(goal.target.config)
    notes = [] if part is goal.target.config else [f"the text part of {goal.target.source} is used, the rest left out"]
    return Start(
        name=goal.name,
        file=str(file),
        source=goal.target.source,
        model_type=reference.model_type,
        reference=reference.class_name,
        nearest=candidate.port.name,
        ranking=table,
        shared=tuple(ranking.shared(goal.side, candidate.side)),
        loaded=placed.loaded,
        tensors=placed.tensors,
        marks=marks,
        findings=found,
        verdict=report.verdict,
        command=command,
        transformers=references.VERSION,
        parity=__version__,
        notes=(*notes, *refused),
    )
