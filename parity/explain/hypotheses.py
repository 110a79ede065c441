"""Why a port decodes or pads wrongly: the reference is told other positions and masks until it gives the same.

Whatever a cache does wrong, each token is left with a position and with keys that it sees. The reference is run in one
full forward with such positions and such masks; those under which its logits are the port's are the cause.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from parity.compare.rungs import Outcome, wrong_tokens
from parity.explain.wrong_views import Grid, Hypothesis, positions, views, window_in
from parity.pair import oracle
from parity.pair.promote import precision
from parity.records import Explanation

_PAIRED = 4  # of each kind, those that get most tokens right


@dataclass(frozen=True)
class Verdict:
    """The hypotheses, one or two, under which the reference is the port, and how near it comes."""

    hypotheses: tuple[Hypothesis, ...]
    residual: float

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """For the report."""
        return tuple(Explanation(each.cause, each.name, self.residual, each.text) for each in self.hypotheses)


@dataclass(frozen=True)
class Trial:
    """The reference, and what the port gave, `[B, T, V]`."""

    model: torch.nn.Module
    outcome: Outcome
    grid: Grid

    def logits(self, hypotheses: Sequence[Hypothesis]) -> Tensor:
        """What the reference gives under some hypotheses, `[B, T, V]`."""
        places = next((each.positions for each in hypotheses if each.positions is not None), None)
        sees = [each.see for each in hypotheses if each.see is not None]

        def see(_: str, mask: Tensor) -> Tensor:
            windows = window_in(mask)
            for change in sees:
                mask = change(self.grid, mask, windows)
            return mask

        with precision(True):
            return oracle.execute_seeing(self.model, self.outcome.program, places, see, self.grid.so_far)

    def score(self, hypotheses: Sequence[Hypothesis]) -> tuple[int, float]:
        """How many tokens are as the port has them, and the relative error of all."""
        assert self.outcome.logits is not None
        given, expected = self.outcome.logits, self.logits(hypotheses)
        if self.outcome.program.last:
            expected = expected[:, [int(end) - 1 for end in torch.unique(self.grid.end)]]
        real = self.grid.real if not self.outcome.program.last else torch.ones(given.shape[:2], dtype=torch.bool)
        wrong = int((wrong_tokens(given, expected) & real).sum())
        error = torch.linalg.vector_norm((given - expected)[real]) / torch.linalg.vector_norm(expected[real])
        return int(real.sum()) - wrong, float(error)

    @cached_property
    def tokens(self) -> int:
        """How many tokens there are to get right."""
        rows, calls = self.grid.real.shape[0], len(self.outcome.program.turns)
        return rows * calls if self.outcome.program.last else int(self.grid.real.sum())

    def holds(self, names: Sequence[str]) -> bool:
        """Whether hypotheses of these names give what the port gives."""
        every = (*positions(self.grid, self.outcome), *views(self.grid, self.outcome))
        named = [next((each for each in every if each.name == name), None) for name in names]
        found = [each for each in named if each is not None]
        return len(found) == len(names) and self.score(found)[0] == self.tokens


@torch.no_grad()
def explained(model: torch.nn.Module, outcomes: Sequence[Outcome]) -> Verdict | None:
    """Why programs come out wrong; None if no hypothesis, nor two of different kinds, gives what the port gives in all.

    Args:
        model: the reference in promoted float64.
        outcomes: of programs that have logits, the same fault in all of them.
    """
    trials = [Trial(model, outcome, Grid.of(outcome)) for outcome in outcomes if outcome.logits is not None]
    if not trials:
        return None
    first, *others = trials
    kinds = [list(positions(first.grid, first.outcome)), list(views(first.grid, first.outcome))]
    best: list[list[tuple[int, Hypothesis]]] = [[], []]
    for kind, found in zip(kinds, best, strict=True):
        for hypothesis in kind:
            right, error = first.score([hypothesis])
            if right == first.tokens and all(other.holds([hypothesis.name]) for other in others):
                return Verdict((hypothesis,), error)
            found.append((right, hypothesis))
    likely = [[each for _, each in sorted(found, key=lambda one: -one[0])[:_PAIRED]] for found in best]
    for pair in product(*likely):
        right, error = first.score(pair)
        if right == first.tokens and all(other.holds([each.name for each in pair]) for other in others):
            return Verdict(tuple(pair), error)
    return None
