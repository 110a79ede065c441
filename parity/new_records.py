"""What a start for a port consists of: plain frozen records, standard library only."""

from dataclasses import dataclass
from typing import Literal

Origin = Literal["card", "both", "check"]


@dataclass(frozen=True)
class Ranked:
    """A port that one could start from.

    facts: of the cards, that differ, numbers aside. missing: modules that would have to be written; spare: those that
    would have to go. why_not: why it is not in the choice; its distance is None then.
    """

    name: str
    distance: int | None
    facts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class Read:
    """A line of the reference: the class that it is in, the file, and the text."""

    name: str
    file: str
    line: int
    text: str = ""


@dataclass(frozen=True)
class Mark:
    """A place of the file that differs from the reference.

    where: the function, or the name that is assigned. line: of the statement below the mark, in the file as written.
    origin: whether the cards said so, or the check alone; both: the cards, and the check which line. causes: codes of
    the catalogue that may show there.
    """

    number: int
    what: str
    where: str
    line: int
    text: str
    reads: tuple[Read, ...]
    origin: Origin
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A finding of the check on the file as written, and the number of the mark at whose place it is, if at one.

    exact: at the very statement; else it names the module in whose class the mark is.
    """

    stage: str
    cause: str
    title: str
    line: int | None
    mark: int | None
    exact: bool = False


@dataclass(frozen=True)
class Start:
    """A file that was begun, and what is known of it.

    nearest: the port that it was begun with. shared: facts of both cards that are the same, numbers aside. loaded: how
    many of the reference's tensors have a place, of how many. lines: of the port that carry over.
    """

    name: str
    file: str
    source: str
    model_type: str
    reference: str
    nearest: str
    ranking: tuple[Ranked, ...]
    shared: tuple[str, ...]
    loaded: int
    tensors: int
    marks: tuple[Mark, ...]
    findings: tuple[Found, ...]
    verdict: str
    command: str
    transformers: str
    parity: str
    notes: tuple[str, ...] = ()

    @property
    def at_marks(self) -> int:
        """Findings at the place of a mark."""
        return sum(found.mark is not None for found in self.findings)
