"""Findings made ready for people: how the error is shaped, what was not followed, and the code around each line."""

from collections.abc import Sequence

from parity.compare.stages import Forward, Sides
from parity.explain.context import with_context
from parity.explain.findings import Located
from parity.explain.follow import admitted
from parity.explain.shape import described
from parity.pair.pair import Pair
from parity.records import Finding


def finish(
    pair: Pair, sides: Sides, measured: Forward, located: Sequence[Located], found: Sequence[Finding]
) -> tuple[Finding, ...]:
    """The findings that the report shows; `located` are the same before they were explained."""
    if not found:
        return ()
    shaped = described(sides, measured, pair.reference.settings, located, found)
    return with_context(admitted(pair, sides, shaped))
