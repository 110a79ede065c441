"""What a ladder of the whole workflow consists of: plain frozen records, standard library only."""

from dataclasses import dataclass
from typing import Literal

State = Literal["done", "failed", "not_run", "not_possible"]

RUNGS = (
    "config", "card", "nearest port", "weights", "forward", "precision", "cache", "batch", "gradient", "pretrained",
    "text",
)  # fmt: skip


@dataclass(frozen=True)
class Rung:
    """One step of the workflow.

    why: what came of it in a line; for a failure, where it shows first and its cause. command: runs this one alone.
    """

    name: str
    state: State
    why: str
    command: str


@dataclass(frozen=True)
class Workflow:
    """How far a port is. next: what to run now, empty if nothing is left."""

    port: str
    source: str
    reference: str
    rungs: tuple[Rung, ...]
    next: str
    transformers: str
    parity: str
    notes: tuple[str, ...] = ()

    def rung(self, name: str) -> Rung:
        """One of them by its name."""
        return next(each for each in self.rungs if each.name == name)

    @property
    def exit_code(self) -> int:
        """0 if all that ran holds, 1 if something diverges, 2 if the port could not be compared."""
        if any(each.state == "failed" for each in self.rungs):
            return 1
        return 2 if self.rung("forward").state == "not_possible" else 0
