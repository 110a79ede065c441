"""Error maps: where in a wrong tensor the error sits, by token position and by head, key or feature.

Made of boundaries that differ by themselves alone, so that a check that passes pays nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.compare import isolate as isolation
from parity.compare.boundaries import name_of
from parity.compare.capture import LOGITS, Endpoint, Trace
from parity.compare.measure import relative_error
from parity.compare.precision import Lowered
from parity.compare.rungs import Outcome, Rung, expected_of
from parity.compare.sides import Side
from parity.compare.stages import Forward, Sides
from parity.compare.wires import Wire, by_endpoint
from parity.pair.pair import Pair
from parity.records import Boundary, Columns, ErrorMap

MOST = 40  # of one report, the first in the order of its boundaries
_ROWS, _COLUMNS = 32, 48
_OVER_KEYS = ("mask", "scores", "probabilities", "index_scores")  # taps whose last axis is that of the keys
_LEAST_RANK = 2


@dataclass(frozen=True)
class Widths:
    """What shapes are read by: rows and positions of the probe; how many heads there may be, and features of each.

    hidden: features of a token between blocks, which are no heads, whatever they divide by.
    """

    rows: int
    tokens: int
    heads: tuple[int, ...] = ()
    head: int = 0
    hidden: int = 0


def widths(shape: Sequence[int], settings: Mapping[str, Any]) -> Widths:
    """Of a probe `[B, T]` and a config."""
    numbers = {name: value for name, value in settings.items() if isinstance(value, int)}
    heads, hidden = numbers.get("num_attention_heads", 0), numbers.get("hidden_size", 0)
    several = tuple(count for count in (heads, numbers.get("num_key_value_heads", 0)) if count > 1)
    return Widths(shape[0], shape[1], several, numbers.get("head_dim") or hidden // max(1, heads), hidden)


def of_forward(pair: Pair, sides: Sides, measured: Forward) -> tuple[ErrorMap, ...]:
    """The boundaries of a full forward that differ by themselves."""
    runs = _Runs("forward", "", sides.reference, sides.reference.trace, measured.isolated.trace)
    return runs.maps(isolation.failing(measured.isolated), measured.wires, pair.reference.settings)


def of_precision(pair: Pair, sides: Sides, low: Lowered, places: Sequence[Boundary]) -> tuple[ErrorMap, ...]:
    """The same of runs in low precision; places: the boundaries that were compared in it."""
    wrong = {place.name for place in places if place.verdict == "diff"}
    if not wrong:
        return ()
    dtype = str(low.pair.dtype).removeprefix("torch.")
    runs = _Runs("precision", f"{dtype}: ", sides.reference, low.reference, low.port)
    wires = low.measured.isolated.wires
    ends = (end for end in (*by_endpoint(wires, "reference"), LOGITS) if runs.name(end) in wrong)
    return runs.maps(frozenset(ends), wires, pair.reference.settings)


@dataclass(frozen=True)
class _Runs:
    """Two runs, the reference's and the port's, and how their boundaries are named in a report."""

    stage: str
    prefix: str
    side: Side
    ours: Trace
    theirs: Trace

    def name(self, end: Endpoint) -> str:
        """The name of a boundary."""
        return self.prefix + ("logits" if end == LOGITS else name_of(self.side, end))

    def maps(
        self, failing: frozenset[Endpoint], wires: Sequence[Wire], settings: Mapping[str, Any]
    ) -> tuple[ErrorMap, ...]:
        """Maps of the first boundaries of some."""
        meeting = by_endpoint(wires, "reference")
        known = widths(self.ours.logits.shape, settings)
        ends = sorted(failing, key=self.side.trace.event)[:MOST]
        found = (self._map(end, meeting.get(end, ()), known) for end in ends)
        return tuple(each for each in found if each is not None)

    def _map(self, end: Endpoint, wires: Sequence[Wire], known: Widths) -> ErrorMap | None:
        values = _logits(self.ours, self.theirs) if end == LOGITS else _farthest(wires, self.ours, self.theirs)
        return None if values is None else error_map(self.stage, self.name(end), *values, known)


def _logits(ours: Trace, theirs: Trace) -> tuple[Tensor, Tensor] | None:
    """Both logits less each token's mean: a constant per token makes no difference."""
    expected = isolation.fitted(ours.logits, theirs.logits)
    return None if expected is None else (_centred(theirs.logits), _centred(expected))


def _centred(logits: Tensor) -> Tensor:
    value = logits.double()
    return value - value.mean(-1, keepdim=True)


def _farthest(wires: Sequence[Wire], ours: Trace, theirs: Trace) -> tuple[Tensor, Tensor] | None:
    """The port's and the reference's values at a boundary; where several tensors meet, those farthest apart."""
    pairs = [pair for wire in wires if (pair := wire.compared(theirs, ours)) is not None]
    return max(pairs, key=lambda pair: _or_infinite(relative_error(*pair)), default=None)


def _or_infinite(error: float) -> float:
    return error if error == error else float("inf")  # noqa: PLR0124 (NaN)


def of_rung(sides: Sides, rung: Rung) -> tuple[ErrorMap, ...]:
    """The logits of each way of running the port that comes to something else than its full forward."""
    found = []
    for outcome in rung.failing:
        values = _of_outcome(sides, outcome)
        name = f"{rung.stage}: {outcome.program.name}"
        made = None if values is None else error_map(rung.stage, name, *values, Widths(*values[0].shape[:2]))
        found += [] if made is None else [made]
    return tuple(found)


def _of_outcome(sides: Sides, outcome: Outcome) -> tuple[Tensor, Tensor] | None:
    """What a program gave and what it should have given, without padding."""
    if outcome.logits is None:
        return None
    expected = expected_of(sides, outcome.program)
    if expected.shape != outcome.logits.shape:
        return None
    padding = expected.isnan().all(-1, keepdim=True)
    own, right = (_centred(value.masked_fill(padding, 0.0)) for value in (outcome.logits, expected))
    return own, right


def of_tap(name: str, tap: str, own: Tensor, expected: Tensor, known: Widths) -> ErrorMap | None:
    """Of a value inside a module; tap: what it is, which may say that its last axis counts keys."""
    over_keys = tap in _OVER_KEYS and own.ndim >= _LEAST_RANK and own.shape[-2] == known.tokens
    return error_map("forward", name, own, expected, known, over_keys)


def error_map(
    stage: str, name: str, own: Tensor, expected: Tensor, known: Widths, over_keys: bool = False
) -> ErrorMap | None:
    """Where one tensor differs from another of its shape; None where no axis is that of the tokens.

    Args:
        stage: of the boundary.
        name: of the boundary.
        own: the port's value, in the reference's layout.
        expected: the reference's.
        known: what the shape is read by.
        over_keys: the last two axes are tokens and keys.
    """
    apart, size = _squares(own, expected.expand_as(own))
    grid = _over_keys(apart, size) if over_keys else _grid(apart, size, known)
    if grid is None:
        return None
    columns, (apart, size) = grid
    rows, across = _bins(apart.shape[0], _ROWS), _bins(apart.shape[1], _COLUMNS)
    wrong, whole = _pooled(apart, rows, across), _pooled(size, rows, across)
    values = (wrong / whole).sqrt() if own.is_floating_point() else wrong / whole
    values = values.masked_fill(wrong == 0, 0.0)
    return ErrorMap(
        stage,
        name,
        columns,
        _labels(apart.shape[0], rows),
        _labels(apart.shape[1], across),
        tuple(tuple(value if value < float("inf") else None for value in row) for row in values.tolist()),
    )


def _squares(own: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences and squared sizes; of integers and masks, whether they differ, of one each."""
    if not own.is_floating_point():
        return (own != expected).double(), torch.ones(own.shape, dtype=torch.float64)
    apart = (own.double() - expected.double()).masked_fill(own == expected, 0.0)  # minus infinity twice
    return apart.square(), expected.double().masked_fill(expected.isinf() & (own == expected), 0.0).square()


Grid = tuple[Columns, tuple[Tensor, Tensor]]


def _over_keys(apart: Tensor, size: Tensor) -> Grid:
    tokens, keys = apart.shape[-2:]
    return "key", (apart.reshape(-1, tokens, keys).sum(0), size.reshape(-1, tokens, keys).sum(0))


def _grid(apart: Tensor, size: Tensor, known: Widths) -> Grid | None:
    """Both summed to `[positions, columns]`."""
    shape = _with_rows(apart.shape, known)
    axis = _token_axis(shape, known)
    if axis is None:
        return None
    rest = [place for place in range(len(shape)) if place != axis]
    heads = _head_axis(shape, axis, known)
    columns: Columns = "feature" if heads is None else "head"
    kept = heads if heads is not None else next(iter(rest[::-1]), None)
    if kept == 0 and len(shape) > _LEAST_RANK:  # rows of the probe are no features
        kept = None
    flat, flat_size = (_summed(value.reshape(shape), axis, kept) for value in (apart, size))
    return columns, (flat, flat_size)


def _with_rows(shape: Sequence[int], known: Widths) -> tuple[int, ...]:
    """A shape with rows and positions apart, and with heads apart where features are those of heads side by side."""
    found = list(shape)
    if found[0] == known.rows * known.tokens and known.rows > 1:
        found = [known.rows, known.tokens, *found[1:]]
    flat = len(found) == 3 and found[-1] != known.hidden and found[-1] != known.head
    if flat and known.head and found[-1] // known.head in known.heads and found[-1] % known.head == 0:
        found = [*found[:-1], found[-1] // known.head, known.head]
    return tuple(found)


def _token_axis(shape: Sequence[int], known: Widths) -> int | None:
    """The axis of the tokens: the first after that of the rows, if there is a choice."""
    fitting = [axis for axis, size in enumerate(shape) if size == known.tokens]
    return min(fitting, key=lambda axis: (axis == 0 and len(shape) > _LEAST_RANK, axis), default=None)


def _head_axis(shape: Sequence[int], tokens: int, known: Widths) -> int | None:
    """The axis of the heads of a value with one for rows, tokens, heads and features each, in whatever order."""
    if len(shape) != 4 or tokens == 0:
        return None
    others = [axis for axis in (1, 2, 3) if axis != tokens]
    heads = [axis for axis in others if shape[axis] in known.heads and shape[sum(others) - axis] == known.head]
    return heads[0] if heads else None


def _summed(value: Tensor, rows: int, columns: int | None) -> Tensor:
    """`[positions, columns]`; one column where no axis is that of the columns."""
    moved = value.movedim(rows, 0).unsqueeze(-1) if columns is None else value.movedim((rows, columns), (0, -1))
    return moved.reshape(moved.shape[0], -1, moved.shape[-1]).sum(1)


def _bins(count: int, most: int) -> int:
    """How many entries one cell takes together."""
    return -(-count // most)


def _pooled(value: Tensor, rows: int, columns: int) -> Tensor:
    height, width = _bins(value.shape[0], rows), _bins(value.shape[1], columns)
    whole = value.new_zeros(height * rows, width * columns)
    whole[: value.shape[0], : value.shape[1]] = value
    return whole.reshape(height, rows, width, columns).sum((1, 3))


def _labels(count: int, together: int) -> tuple[str, ...]:
    """Which entries each cell stands for: `4`, or `4-7`."""
    starts = range(0, count, together)
    return tuple(str(first) if together == 1 else _range(first, min(first + together, count) - 1) for first in starts)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def first(maps: Iterable[ErrorMap], boundaries: Sequence[Boundary]) -> tuple[ErrorMap, ...]:
    """The maps of a report: of its first boundaries that have one."""
    known = {(each.stage, each.name): each for each in maps}
    found = (known.get((boundary.stage, boundary.name)) for boundary in boundaries)
    return tuple(each for each in found if each is not None)[:MOST]
