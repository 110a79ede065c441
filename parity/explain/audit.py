"""The audit: which changes to the reference would a check of it fail to notice?

Every change of the catalogue, to the code as it runs, to the config and to what is loaded, is made to the reference, and
the changed reference is compared with the unchanged one as a port is: free, in promoted float64, at the logits. A port
whose logits are right passes, so a change that does not reach the logits is not noticed, whatever it does inside.

A change that goes unnoticed is either none, because it computes the same on any input, or a blind spot of this probe.
Which of the two is found by trying it on other grounds.
"""

from collections.abc import Callable, Iterator

import torch

from parity import __version__
from parity.errors import ParityError
from parity.explain.ground import Ground, other_grounds, own_ground
from parity.explain.trace import TooLarge
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.pair.promote import precision
from parity.records import (
    PROMOTED_NOISE,
    Audit,
    MutationVerdict,
    Versions,
)

Progress = Callable[[str], object]
Measure = Callable[[Ground], float | None]

NO_EFFECT = "no effect in the reference"
SILENT = "says nothing about the function"
_EACH = 50  # mutations from one word of progress to the next


@torch.no_grad()
def audit(pair: Pair, progress: Progress = lambda _: None) -> Audit:
    """Find out what a check of `pair` is able to notice. The port itself is not asked.

    Raises:
        ParityError: a run of the reference is too large to be recorded.
    """
    progress("recording the reference")
    grounds = _Grounds(pair)
    try:
        with precision(True):
            by_field = list(_config(grounds, progress))
            code = list(_code(grounds, progress))
    except TooLarge as error:
        problem = f"{pair.reference.class_name} is too large to be run a thousand times, each time with a change"
        raise ParityError(problem, "Use --small-config.") from error
    mutations = (*(tried for _, tried in by_field if tried.verdict), *code)
    return Audit(
        versions=Versions(__version__, torch.__version__, references.VERSION),
        port=pair.port.name,
        reference=pair.reference.class_name,
        seed=pair.seed,
        rows=pair.input_ids.shape[0],
        tokens=pair.input_ids.shape[1],
        fields=tuple(_fields(pair.reference, by_field)),
        causes=tuple(_causes(grounds.own, mutations)),
        mutations=mutations,
        notes=pair.notes,
    )


class _Grounds:
    """The check's own ground, and others that are made when something does not show there."""

    def __init__(self, pair: Pair):
        self.own = own_ground(pair)
        self._others: list[Ground] = []
        self._rest = other_grounds(pair)

    @property
    def others(self) -> Iterator[Ground]:
        """The other grounds, each made once."""
        yield from self._others
        for ground in self._rest:
            self._others.append(ground)
            yield ground

    def verdict(self, moved: float, measure: Measure) -> tuple[MutationVerdict, str]:
        """Whether a change is noticed, given how far it moves the logits on the check's own ground."""
        if not moved <= PROMOTED_NOISE:  # a NaN is a difference
            return "caught", ""
        for ground in self.others:
            again = measure(ground)
            if again is not None and not again <= PROMOTED_NOISE:
                return "missed", ground.sees
        return "equivalent", NO_EFFECT
