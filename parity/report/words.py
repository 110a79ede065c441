"""What every view of a report says in the same words: summary, circumstances, coverage, figures, gaps."""

from collections.abc import Iterable, Iterator, Sequence

from parity.names import block, fold
from parity.records import Boundary, Finding, Report

VERDICTS = {"pass": "PASS", "fail": "FAIL", "incomplete": "INCOMPLETE"}
_BLIND = 3  # config fields named in the headline
Row = tuple[str, str]


def headline(report: Report) -> str:
    """What was compared with what, and what came of it."""
    return f"{report.port} against {report.reference}: {_summary(report)}"


def _summary(report: Report) -> str:
    if report.findings:
        first = report.findings[0]
        place = first.port_module or first.reference_module or "the model"
        count = len(report.findings)
        return f"{count} finding{'s' * (count > 1)}, first in {place}"
    compared = [boundary for boundary in judged(report, "forward") if boundary.verdict != "not_compared"]
    if not compared:
        ran = [stage.name for stage in report.stages if stage.verdict != "not_run"]
        return f"nothing wrong in {' and '.join(ran)}" if ran else "nothing was compared"
    worst = max(compared, key=lambda boundary: boundary.relative or 0.0)
    bitwise = sum(boundary.verdict == "exact" for boundary in compared)
    if bitwise == len(compared):
        return f"{bitwise} boundaries equal in {precision(report)}, bitwise"
    return (
        f"{len(compared)} boundaries equal in {precision(report)}, {bitwise} of them bitwise, "
        f"largest relative error {figure(worst.relative)} at {worst.name}"
    )


def circumstances(report: Report) -> str:
    """Versions, weights and seed."""
    versions = report.versions
    made_with = f"transformers {versions.transformers}, torch {versions.torch}"
    weights = f"random {report.dtype} weights" if report.dtype else "random weights"
    if report.weights == "pretrained":
        weights = "pretrained weights" + (f" of revision {report.revision[:12]}" if report.revision else "")
    return f"{made_with}, {weights}, seed {report.seed}"


def coverage(report: Report) -> tuple[str, bool | None] | None:
    """What a pass is worth: how much of what could go wrong this check is able to notice, and whether that is all.

    None without the stage that it speaks of; (words, None) where nobody has audited.
    """
    if all(stage.verdict == "not_run" for stage in report.stages if stage.name == "forward"):
        return None
    found = report.coverage
    command = f"parity audit {report.port}" + (f" --seed {report.seed}" if report.seed else "")
    if found is None:
        return f"coverage: not audited; {command} says what a check on the small config would miss", None
    mutations, fields = found.mutations, found.fields
    text = f"coverage: sees {mutations.caught:,} of {mutations.applicable:,} mutations"
    text += f", {len(fields.seen)} of {len(fields.seen) + len(fields.blind)} config fields"
    if fields.blind:
        more = ", \N{HORIZONTAL ELLIPSIS}" if len(fields.blind) > _BLIND else ""
        text += f"; blind to {', '.join(fields.blind[:_BLIND])}{more}"
    whole = mutations.caught == mutations.applicable and not fields.blind
    return text + ("" if whole else f" ({command})"), whole


def plain(report: Report) -> str:
    """The runs that max and mean come from."""
    return f"two {report.dtype} runs" if report.dtype else "two plain runs"


def precision(report: Report) -> str:
    """What the verdict's runs are in."""
    if report.weights == "pretrained" and not report.dtype:
        return "what it ran in"
    lower = report.weights == "pretrained" and report.dtype != "float64"
    return f"{report.dtype}, as far as its rounding lets one see" if lower else "promoted float64"


def details(finding: Finding) -> tuple[Row, ...]:
    """Where a finding is and what explains it, as labels and values; the lines of code come after these."""
    return (
        ("port", finding.port_module or "(no module of its own)"),
        ("reference", finding.reference_module or "(no counterpart)"),
        ("cause", finding.cause),
        *(("why", explanation.text) for explanation in finding.explanations[:1]),
    )


def evidence(finding: Finding) -> tuple[Row, ...]:
    """What speaks for a finding, and where else it is, as labels and values; the lines of code come before these."""
    return (
        *(("evidence", line) for line in finding.evidence if not line.startswith("also ")),
        *(("also in", name) for name in fold(also(finding))),
    )


def also(finding: Finding) -> tuple[str, ...]:
    """Modules of the reference in which the same finding shows again."""
    return tuple(line.removeprefix("also ") for line in finding.evidence if line.startswith("also "))


def judged(report: Report, stage: str) -> tuple[Boundary, ...]:
    """The boundaries that a stage's verdict comes from; values inside modules of the full forward are details of it."""
    return tuple(each for each in of_stage(report, stage) if stage != "forward" or each.kind != "tap")


def of_stage(report: Report, stage: str) -> tuple[Boundary, ...]:
    """The boundaries of one stage, in the order data flows."""
    return tuple(boundary for boundary in report.boundaries if boundary.stage == stage)


def group(boundary: Boundary) -> str:
    """What a boundary is told with: its block, its module if that is in none, or itself if it is a whole run."""
    module = boundary.reference_module
    return block(module) if module and module in boundary.name else boundary.name


def inner(boundary: Boundary) -> bool:
    """Whether it is inside a block."""
    return block(boundary.reference_module) != boundary.reference_module


def own(boundary: Boundary) -> bool:
    """Whether the port is wrong here by itself."""
    return boundary.verdict == "diff" and not boundary.inherited


def figures(boundary: Boundary) -> str:
    """The errors of a boundary that was compared."""
    text = f"max={figure(boundary.max_abs)}, mean={figure(boundary.mean_abs)}, rel={figure(boundary.relative)}"
    if boundary.ratio:
        text += f", error {boundary.ratio:.2f} times the reference's"
    return text + (", inherited" if boundary.inherited else "")


def uncompared(boundary: Boundary) -> str:
    """Why a boundary was not compared."""
    return f"not compared, {boundary.note or 'no value on one side'}"


def figure(value: float | None) -> str:
    """An error, for people."""
    return "-" if value is None else "0" if value == 0.0 else f"{value:.1e}"


def gaps(report: Report) -> Iterator[str]:
    """What the verdict does not speak of, a sentence each."""
    yield from report.notes
    reasons: dict[str, list[str]] = {}
    for stage in report.stages:
        if stage.verdict == "not_run":
            reasons.setdefault(stage.reason, []).append(stage.name)
    for reason, names in reasons.items():
        yield f"stage{'s' * (len(names) > 1)} {', '.join(names)}: {reason}"
    yield from unmatched(report)


def unmatched(report: Report) -> Iterator[str]:
    """What has no counterpart, a sentence for each kind."""
    yield from _named("reference modules with no counterpart in the port", report.unmatched.reference)
    yield from _named("port modules with no counterpart in the reference", report.unmatched.port)
    yield from _named("checkpoint tensors that are not in the port", report.unmatched.tensors)


def _named(what: str, names: Iterable[str]) -> Iterator[str]:
    folded: Sequence[str] = fold(names)
    if folded:
        yield f"{what}: {', '.join(folded)}"
