"""One mutant or rewrite, checked, and how the report compares with what is expected of it."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import parity
from bench.bugs.mutant import Benign, Mutant, Several
from bench.bugs.training import TRAINING
from parity.records import Finding, Report

LOW_PRECISION = "bfloat16"


@dataclass(frozen=True)
class Seen:
    """What one finding says: where, which line, why."""

    module: str
    cause: str
    title: str
    line: int | None
    text: str


@dataclass(frozen=True)
class Outcome:
    """A bug, and what Parity said of it. error: why there is no report, if so. findings: all, in order."""

    key: str
    port: str
    cause: str
    guilty: tuple[str, ...]
    lines: tuple[int, ...]
    detected: bool
    localised: bool
    exact: bool
    explained: bool
    error: str
    findings: tuple[Seen, ...]


@dataclass(frozen=True)
class SeveralOutcome:
    """Several bugs at once, and how many of them Parity named by place, line and cause."""

    key: str
    port: str
    causes: tuple[str, ...]
    detected: bool
    placed: tuple[bool, ...]
    explained: tuple[bool, ...]
    error: str
    findings: tuple[Seen, ...]


@dataclass(frozen=True)
class Alarm:
    """An equivalent rewrite. complaint: what was said against it, empty if it passed, None if not run."""

    key: str
    port: str
    complaint: str | None
    complaint_low: str | None


def has_low_precision() -> bool:
    """Whether `parity.check` can be asked to compare in bfloat16."""
    return "dtype" in inspect.signature(parity.check).parameters


def judge(mutant: Mutant) -> Outcome:
    """Check one mutant."""
    with _folder() as folder:
        written = mutant.write(folder)
        checked = _check(written.path, written.config, gradient=mutant in TRAINING)
        seen = _seen(checked.report, written.path)
    first = seen[0] if seen else None
    return Outcome(
        key=mutant.key,
        port=mutant.port,
        cause=mutant.cause,
        guilty=mutant.guilty,
        lines=written.lines,
        detected=checked.failed,
        localised=first is not None and mutant.at(first.module),
        exact=first is not None and first.line in written.lines,
        explained=first is not None and mutant.named_by(first.cause),
        error=checked.error,
        findings=seen,
    )


def judge_several(several: Several) -> SeveralOutcome:
    """Check one port with several bugs; each bug needs a finding of its own place, and one of its cause there."""
    with _folder() as folder:
        written = several.write(folder)
        checked = _check(written.path, written.config)
        seen = _seen(checked.report, written.path)
    return SeveralOutcome(
        key=several.key,
        port=several.port,
        causes=tuple(bug.cause for bug in several.bugs),
        detected=checked.failed,
        placed=tuple(any(bug.at(found.module) for found in seen) for bug in several.bugs),
        explained=tuple(
            any(bug.at(found.module) and bug.named_by(found.cause) for found in seen) for bug in several.bugs
        ),
        error=checked.error,
        findings=seen,
    )


def judge_benign(benign: Benign) -> Alarm:
    """Check one equivalent rewrite, in both precisions if there are two."""
    with _folder() as folder:
        written = benign.write(folder)
        stages = ("weights", "forward", "precision") if benign.full_only else ()
        plain = _complaint(_check(written.path, written.config, stages=stages))
        low = _complaint(_check(written.path, written.config, LOW_PRECISION, stages)) if has_low_precision() else None
    return Alarm(benign.key, benign.port, plain, low)


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="parity-bugs-") as name:
        yield Path(name)


@dataclass(frozen=True)
class _Checked:
    """The report, or why there is none. failed: the bug did not pass unnoticed."""

    report: Report | None
    error: str
    failed: bool


def _check(path: Path, config: Path, dtype: str = "", stages: Sequence[str] = (), gradient: bool = False) -> _Checked:
    """Check one file; a port that Parity refuses failed, a crash of Parity's own is no merit."""
    options: dict[str, Any] = {"dtype": dtype} if dtype else {}
    try:
        report = parity.check(path, config=config, small_config=True, stage=stages, gradient=gradient, **options)
    except parity.ParityError as error:
        return _Checked(None, str(error), True)
    except Exception as error:  # whatever it is, the other cases go on
        return _Checked(None, f"internal error: {type(error).__name__}: {error}", False)
    broken = next((line for found in report.findings for line in found.evidence if "fault of Parity's" in line), "")
    return _Checked(report, broken, report.verdict == "fail")


def _complaint(checked: _Checked) -> str:
    report = checked.report
    if report is None:
        return checked.error
    if report.findings:
        return f"{report.findings[0].reference_module}: {report.findings[0].title}"
    return "" if report.verdict == "pass" else f"verdict {report.verdict}"


def _seen(report: Report | None, path: Path) -> tuple[Seen, ...]:
    return tuple(_one(finding, path) for finding in report.findings) if report is not None else ()


def _one(finding: Finding, path: Path) -> Seen:
    """A finding with its line, if that is in the mutated file."""
    source = finding.port_source
    inside = source is not None and Path(source.file).name == path.name
    return Seen(
        module=finding.reference_module,
        cause=finding.cause,
        title=finding.title,
        line=source.line if source is not None and inside else None,
        text=source.text.strip() if source is not None else "",
    )
