"""What the gate hands on and its summary reads: frozen records, standard library only.

Verdicts are derived from the records below them, never stored twice.
"""

from dataclasses import dataclass
from typing import Literal

from parity.records import Report

Verdict = Literal["pass", "fail", "incomplete"]
TrialVerdict = Literal["seen", "blind", "untested"]
Loss = Literal["case", "stage", "boundary", "exact", "blind"]

EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "incomplete": 2}


@dataclass(frozen=True)
class Case:
    """One port on one config in one dtype.

    port: a name, a dotted module, or a file as seen from the project's directory. config: a file, None for the port's
    own. dtype: of the weights, None for what `parity check` does by itself.
    """

    port: str
    config: str | None = None
    dtype: str | None = None

    @property
    def name(self) -> str:
        """What the case is called everywhere, the baseline included."""
        more = [part for part in (self.config, self.dtype) if part]
        return f"{self.port} ({', '.join(more)})" if more else self.port


@dataclass(frozen=True)
class Wanted:
    """What every case is checked for; as the options of `parity check`."""

    stages: tuple[str, ...] = ()
    gradient: bool = False
    small_config: bool = True
    seed: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """The same, as given on the command line."""
        found = ["--small-config"] if self.small_config else []
        found += ["--gradient"] if self.gradient else []
        found += [f"--seed {self.seed}"] if self.seed else []
        return (*found, *(f"--stage {stage}" for stage in self.stages))


@dataclass(frozen=True)
class Lost:
    """Something that the baseline has and this run has not: a case, a stage, a boundary, exactness, or sight."""

    kind: Loss
    text: str


@dataclass(frozen=True)
class Result:
    """One case: its report, or the problem that it could not be compared for.

    seconds: of its own process. memory: the most that the process and its children held, in bytes. lost: against the
    baseline.
    """

    case: Case
    report: Report | None = None
    problem: str = ""
    seconds: float = 0.0
    memory: int = 0
    lost: tuple[Lost, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """A case whose cover shrank fails, even if everything that is left passes."""
        if self.lost or (self.report is not None and self.report.verdict == "fail"):
            return "fail"
        return "incomplete" if self.report is None else self.report.verdict


@dataclass(frozen=True)
class Trial:
    """One fault, put into a port on purpose to see whether the check notices it.

    fault: what was done to the port, in words. problem: why nothing could be learnt, if so.
    """

    case: Case
    stage: str
    fault: str
    seen: bool = False
    problem: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> TrialVerdict:
        """`untested` if the fault could not be put in."""
        if self.problem:
            return "untested"
        return "seen" if self.seen else "blind"


@dataclass(frozen=True)
class Gate:
    """The result of one gate.

    trials: what the self-test came to. lost: cases of the baseline that are not checked any more. skipped: cases left
    out because nothing of theirs changed since the revision `since`. problem: why the gate as a whole says nothing.
    seconds: from beginning to end. memory: the most that all processes held together, in bytes. jobs: how many ran side
    by side. interrupted: somebody stopped it. options: those of `parity check` that make the same check of a case.
    """

    results: tuple[Result, ...]
    trials: tuple[Trial, ...] = ()
    lost: tuple[Lost, ...] = ()
    skipped: tuple[Case, ...] = ()
    since: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    seconds: float = 0.0
    memory: int = 0
    jobs: int = 1
    interrupted: bool = False
    options: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst there is: a divergence, then what could not be compared or proved, then a pass."""
        verdicts = {result.verdict for result in self.results}
        if self.lost or "fail" in verdicts:
            return "fail"
        unproved = any(trial.verdict != "seen" for trial in self.trials)
        if self.problem or self.interrupted or unproved or "incomplete" in verdicts:
            return "incomplete"
        return "pass" if self.results or self.since else "incomplete"

    @property
    def exit_code(self) -> int:
        """0 all pass, 1 a divergence or less cover than the baseline has, 2 something could not be compared."""
        return EXIT_CODES[self.verdict]
