"""What generation hands on and its report reads: plain frozen records, standard library only.

Tokens are counted from 0 in the records and the JSON, from 1 in the text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from parity.cache_records import Caches
from parity.records import Versions

Side = Literal["port", "reference"]
Choice = Literal["near_tie", "fault"]

# How many times the rounding at a place two candidates may be apart, on either side, for the choice to be a near-tie.
# Two right runs choose differently only where the true margin is smaller than what rounding moved: two candidates in
# two runs, each of the four logits by no more than the largest rounding error that the reference shows at that place.
# Neither run's own margin is then larger than all four together.
NEAR_TIE = 4.0

# How many times the rounding at a place two logits may differ there. Equivalent ports came to 2.8 in float32 and to 3.3
# in bfloat16; the wrong form of GELU to 2,000 in float32, and in bfloat16 to no more than rounding.
BEYOND = 8.0


@dataclass(frozen=True)
class Token:
    """An id of the vocabulary and what it stands for; the piece is empty without a tokenizer."""

    id: int
    piece: str = ""


@dataclass(frozen=True)
class Prompt:
    """What is continued. text: as given, None for ids from a file; rendered: what the chat template made of it."""

    tokens: tuple[Token, ...]
    text: str | None = None
    rendered: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids, without padding."""
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True)
class TokenFinding:
    """Something about the way from text to ids. fault: of the port's; else of the checkpoint's own files."""

    title: str
    fault: bool
    cause: str = "input-tokens"


@dataclass(frozen=True)
class Difference:
    """A place where both chose different tokens after the same ones.

    index: of the new token. The logits are (of the reference's choice, of the port's). rounding: the largest error at
    that place of the reference's own logits against promoted float64 of the same weights.
    """

    index: int
    reference: Token
    port: Token
    reference_logits: tuple[float, float]
    port_logits: tuple[float, float]
    rounding: float

    @property
    def reference_margin(self) -> float:
        """By how much the reference prefers its choice to the port's."""
        return self.reference_logits[0] - self.reference_logits[1]

    @property
    def port_margin(self) -> float:
        """By how much the port prefers its choice to the reference's."""
        return self.port_logits[1] - self.port_logits[0]

    @property
    def verdict(self) -> Choice:
        """A near-tie if rounding explains both margins, else, and with a NaN, a fault."""
        most = NEAR_TIE * self.rounding
        return "near_tie" if self.reference_margin <= most and self.port_margin <= most else "fault"


@dataclass(frozen=True)
class TeacherForced:
    """Both along the reference's tokens to their end, so that one difference does not hide the rest.

    largest: difference of two logits; rounding: error of the reference's logits, the largest at any place. beyond: the
    first new token at which logits differ by more than rounding explains, None if they never do. mean_kl: of the port's
    next-token distribution from the reference's, in nats.
    """

    tokens: int
    differences: tuple[Difference, ...]
    largest: float
    rounding: float
    beyond: int | None
    mean_kl: float

    @property
    def agreeing(self) -> int:
        """Places where both choose the same token."""
        return self.tokens - len(self.differences)

    @property
    def faults(self) -> tuple[Difference, ...]:
        """Differences that rounding does not explain."""
        return tuple(each for each in self.differences if each.verdict == "fault")


@dataclass(frozen=True)
class Blame:
    """Where to look first for a fault: a stage of `parity check`, why, and the command that says more."""

    stage: str
    text: str
    next_step: str


@dataclass(frozen=True)
class Row:
    """One prompt continued; the reference's part is empty where only the port ran. stopped: why the port ended."""

    port: tuple[Token, ...]
    port_text: str
    stopped: str
    reference: tuple[Token, ...] = ()
    reference_text: str = ""
    first_difference: Difference | None = None
    teacher_forced: TeacherForced | None = None
    blame: Blame | None = None

    @property
    def fault(self) -> bool:
        """Whether the port chose a token that rounding does not explain."""
        first = self.first_difference is not None and self.first_difference.verdict == "fault"
        return first or bool(self.teacher_forced and self.teacher_forced.faults)

    @property
    def off(self) -> bool:
        """Whether the logits are further apart than rounding explains, whatever tokens come of them."""
        return self.teacher_forced is not None and self.teacher_forced.beyond is not None


@dataclass(frozen=True)
class Speed:
    """Of one side, all rows together: seconds of the prompts, and new tokens a second; None for not measured."""

    prefill: float | None = None
    cached: float | None = None
    uncached: float | None = None


@dataclass(frozen=True)
class Generation:
    """The result of one `parity generate`; see `parity/report/generation-1.json`.

    reference: class of the reference, empty if only the port ran. cached: how the port's text was made. caches: what
    other ways to store its cache come to, which has verdicts of its own.
    """

    versions: Versions
    port: str
    reference: str
    checkpoint: str
    revision: str | None
    dtype: str
    device: str
    cached: bool
    prompts: tuple[Prompt, ...]
    rows: tuple[Row, ...]
    port_speed: Speed
    reference_speed: Speed
    findings: tuple[TokenFinding, ...] = ()
    notes: tuple[str, ...] = ()
    caches: Caches | None = None

    @property
    def compared(self) -> bool:
        """Whether the reference ran too."""
        return bool(self.reference)

    @property
    def verdict(self) -> Literal["pass", "fail"] | None:
        """`fail` for another text, other tokens of the prompt, or choices or logits along the reference's text that
        rounding does not explain; None if all is well and nothing was compared.
        """
        if any(finding.fault for finding in self.findings) or any(row.fault or row.off for row in self.rows):
            return "fail"
        return "pass" if self.compared else None

    @property
    def exit_code(self) -> int:
        """0 the same text but for near-ties, 1 divergence, or a quantised cache beyond its limits."""
        return 1 if self.verdict == "fail" or (self.caches is not None and self.caches.beyond) else 0


def ratio(port: float | None, reference: float | None) -> float | None:
    """How many times as fast the port is."""
    if port is None or not reference or not math.isfinite(port / reference):
        return None
    return port / reference


class Watcher:
    """Somebody who is told how a generation goes; by itself it does nothing with it."""

    def progress(self, phrase: str) -> None:
        """Something that takes time begins."""

    def begin(self, prompts: Sequence[Prompt], sides: Sequence[Side]) -> None:
        """The tokens of these prompts come next."""

    def tokens(self, row: int, side: Side, text: str) -> None:
        """A side's text of one prompt as far as it has come; its ids, if there is no tokenizer."""


class Phrases(Watcher):
    """Somebody who wants to know what is being done, and none of the text."""

    def __init__(self, say: Callable[[str], object]):
        self._say = say

    def progress(self, phrase: str) -> None:
        """Passed on."""
        self._say(phrase)
