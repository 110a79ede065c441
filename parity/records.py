"""What the stages hand on and the report reads: plain frozen records, standard library only.

`Report` is schema 1 of the JSON report. Verdicts are derived from the records below them, never stored twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StageVerdict = Literal["pass", "fail", "not_run"]
BoundaryVerdict = Literal["exact", "ok", "diff", "not_compared"]
Kind = Literal["input", "output", "tap"]
FieldVerdict = Literal["seen", "blind", "no_effect", "untried", "silent"]
CauseVerdict = Literal["seen", "blind", "untried", "not_applicable", "elsewhere"]
MutationVerdict = Literal["caught", "missed", "equivalent"]
Columns = Literal["feature", "head", "key"]

DTYPES = ("float32", "bfloat16", "float16")
STAGES = ("weights", "forward", "precision", "cache", "batch", "gradient")

# Relative error, in promoted float64, from which two boundaries differ. Rounding leaves 6e-15 and less on the 22 small
# references tried, the weakest known bug (an eps) 4e-8 and more; constants written out to nine digits leave 1e-10.
PROMOTED_NOISE = 1e-9

# Error in low precision, as a multiple of the reference's, from which a port is worse. Equivalent rewrites came to 1.5
# and less, tables of positions in bfloat16 to 1.4 and more: below this, only a rounding that can be named counts.
WORSE = 2.0

# The same for runs in the dtype itself, of one stretch between two boundaries on the reference's own input. Rounding
# leaves less; a fault has to be larger than this to show, which is why a verdict should come from float64.
NOISE = {"float64": PROMOTED_NOISE, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


@dataclass(frozen=True)
class Versions:
    """The reference changes between releases, so every report says which one it speaks of."""

    parity: str
    torch: str
    transformers: str


@dataclass(frozen=True)
class Source:
    """A line of code, and the lines around it with their numbers, for people; itself among them, if there are any."""

    file: str
    line: int
    text: str
    context: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Explanation:
    """One change to the reference that reproduces the port, up to `residual`."""

    cause: str
    mutation: str
    residual: float
    text: str


@dataclass(frozen=True)
class Finding:
    """Something to mend, with what speaks for it."""

    stage: str
    cause: str
    title: str
    reference_module: str
    port_module: str
    port_source: Source | None = None
    reference_source: Source | None = None
    explanations: tuple[Explanation, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Boundary:
    """One place where port and reference were, or could not be, compared.

    max_abs and mean_abs are the differences of two plain runs in the report's dtype. own and total are relative errors
    (L2) in promoted float64: own with the reference's values handed on at every other boundary, total as the port runs
    by itself. None stands for not measured. noise: the error from which values differ, another one where runs were not
    promoted.

    ratio, in low precision alone: the port's error against the promoted truth, as a multiple of the reference's. There
    own and total are the relative difference from the reference, and misplaced says that it comes of a rounding that
    the reference does elsewhere, or not at all.
    """

    stage: str
    name: str
    reference_module: str
    port_module: str
    kind: Kind
    max_abs: float | None = None
    mean_abs: float | None = None
    own: float | None = None
    total: float | None = None
    note: str = ""
    noise: float = PROMOTED_NOISE
    ratio: float | None = None
    misplaced: bool = False

    @property
    def verdict(self) -> BoundaryVerdict:
        """Whether the port is right here, its own error or one that came in counted alike."""
        if self.own is None or self.total is None:
            return "not_compared"
        if self.ratio is not None:
            worse = self.misplaced or not self.ratio <= WORSE
            return "exact" if self.own == 0.0 else "diff" if worse else "ok"
        if not (self.own <= self.noise and self.total <= self.noise):  # a NaN is a difference
            return "diff"
        return "exact" if self.own == 0.0 == self.total else "ok"

    @property
    def inherited(self) -> bool:
        """A difference that only came in from upstream."""
        return self.ratio is None and self.verdict == "diff" and self.own is not None and self.own <= self.noise

    @property
    def relative(self) -> float | None:
        """The promoted relative error that the verdict speaks of."""
        return self.total if self.verdict != "diff" or self.inherited else self.own


@dataclass(frozen=True)
class ErrorMap:
    """Where in the tensor of one boundary the port is wrong: its own error by token position and feature, head or key.

    stage, name: of the boundary. columns: what the columns stand for. Labels say which positions and which features,
    heads or keys a cell takes together. values: one row per label; the L2 norm of the difference in the cell over that
    of the reference's values there, None where that is not finite; of a mask, the share of entries that differ.
    """

    stage: str
    name: str
    columns: Columns
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Stage:
    """One rung of the ladder."""

    name: str
    verdict: StageVerdict
    reason: str = ""
    seconds: float = 0.0
    requested: bool = False


@dataclass(frozen=True)
class Unmatched:
    """What has no counterpart on the other side."""

    reference: tuple[str, ...] = ()
    port: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class FieldCoverage:
    """Config fields that the probe can and cannot see."""

    seen: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()


@dataclass(frozen=True)
class MutationCoverage:
    """Mutations of the reference that the probe notices."""

    caught: int = 0
    applicable: int = 0
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """What this check is able to notice."""

    fields: FieldCoverage = field(default_factory=FieldCoverage)
    mutations: MutationCoverage = field(default_factory=MutationCoverage)


@dataclass(frozen=True)
class TriedMutation:
    """One change to the reference, and whether the check would notice it.

    equivalent: the logits stay the same on every probe tried, so that there is nothing to notice.
    """

    name: str
    cause: str
    verdict: MutationVerdict
    reason: str = ""


@dataclass(frozen=True)
class AuditedField:
    """A field of the config, and whether the check would notice another value.

    no_effect: nor would any other check of this reference. untried: no other value is known that it accepts. silent: it
    says nothing about the function from tokens to logits.
    """

    name: str
    verdict: FieldVerdict
    reason: str = ""


@dataclass(frozen=True)
class AuditedCause:
    """A cause, and how many of the mutations that stand for it the check would notice.

    untried: the reference has what can go wrong there, and no mutation of it is known. elsewhere: it does not show in
    one full forward.
    """

    code: str
    verdict: CauseVerdict
    caught: int = 0
    applicable: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Audit:
    """What a check of one reference on one config and one probe is able to notice; see `parity/report/audit-1.json`."""

    versions: Versions
    port: str
    reference: str
    seed: int
    rows: int
    tokens: int
    fields: tuple[AuditedField, ...]
    causes: tuple[AuditedCause, ...]
    mutations: tuple[TriedMutation, ...]
    notes: tuple[str, ...] = ()

    def named(self, verdict: MutationVerdict) -> tuple[TriedMutation, ...]:
        """The mutations of one verdict."""
        return tuple(each for each in self.mutations if each.verdict == verdict)

    @property
    def coverage(self) -> Coverage:
        """What a report says of it. A field that nobody knows another value for counts as blind; one without any effect
        in the reference counts as neither, since there is nothing to see.
        """
        caught, missed = self.named("caught"), self.named("missed")
        return Coverage(
            FieldCoverage(
                tuple(each.name for each in self.fields if each.verdict == "seen"),
                tuple(each.name for each in self.fields if each.verdict in ("blind", "untried")),
            ),
            MutationCoverage(len(caught), len(caught) + len(missed), tuple(each.name for each in missed)),
        )


@dataclass(frozen=True)
class Report:
    """The result of one check; see `parity/report/schema-1.json`.

    dtype is that of the weights, and of the runs that people's figures come from. revision: the commit of a checkpoint
    from the Hub. interrupted: somebody stopped it. maps: of boundaries that differ by themselves.
    """

    versions: Versions
    port: str
    reference: str
    weights: Literal["random", "pretrained"]
    seed: int
    stages: tuple[Stage, ...]
    boundaries: tuple[Boundary, ...]
    findings: tuple[Finding, ...]
    unmatched: Unmatched
    coverage: Coverage | None = None
    notes: tuple[str, ...] = ()
    dtype: str = "float32"
    revision: str | None = None
    interrupted: bool = False
    maps: tuple[ErrorMap, ...] = ()

    @property
    def verdict(self) -> Literal["pass", "fail", "incomplete"]:
        """`fail` if any stage failed, `incomplete` if a stage asked for could not run or nothing was compared.

        A check that was interrupted is `incomplete`, whatever it found by then.
        """
        if self.interrupted:
            return "incomplete"
        ran = [stage.verdict for stage in self.stages if stage.verdict != "not_run"]
        if "fail" in ran:
            return "fail"
        if not ran or any(stage.requested and stage.verdict == "not_run" for stage in self.stages):
            return "incomplete"
        return "pass"

    @property
    def exit_code(self) -> int:
        """0 parity, 1 divergence, 2 could not compare."""
        return {"pass": 0, "fail": 1, "incomplete": 2}[self.verdict]


@dataclass(frozen=True)
class Listed:
    """A port that can be named on the command line, and how it did at each stage in the versions named.

    where: the module that it is. Nothing but that is known of the ports of other packages.
    """

    name: str
    where: str
    model_types: tuple[str, ...] = ()
    reference: str = ""
    stages: Mapping[str, StageVerdict] = field(default_factory=dict)
    versions: Versions | None = None
