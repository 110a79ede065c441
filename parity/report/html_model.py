"""The model as a column: blocks and modules in the order data flows, each with the state and colour of its error."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from parity.names import block
from parity.records import Boundary, Report
from parity.report import words

State = Literal["exact", "ok", "diff", "inherited", "not_compared"]

# Marks and words beside the colours, so that nothing is told by colour alone.
MARKS: dict[State, tuple[str, str]] = {
    "exact": ("=", "equal, bit by bit"),
    "ok": ("\N{ALMOST EQUAL TO}", "equal up to rounding"),
    "diff": ("\N{MULTIPLICATION X}", "differs"),
    "inherited": ("\N{DOWNWARDS ARROW}", "inherited"),
    "not_compared": ("?", "not compared"),
}
_WORST: tuple[State, ...] = ("diff", "inherited", "not_compared", "ok", "exact")
_LEAST = 1e-16  # where the scale begins; it ends at 1
_MANY = 1e3  # in low precision the scale is that of the multiple of the reference's error, and ends here
COLD, HOT = 4, 6  # colours of errors up to the noise, and above it
_BY_MODULE = ("forward", "precision", "gradient")  # stages that have a row for every boundary
_ENDS = {"input": "in", "output": "out", "tap": ""}
_OPEN = 2  # blocks shown open from the start: the first that differ


@dataclass(frozen=True)
class Row:
    """One line of the column: a boundary, or a module's input and output after one another.

    number: counts rows. places: numbers of its boundaries in the report. outer, inner: the module's name, up to its
    last part and that. own, total: the largest errors, as text. elsewhere: stages in which the same place differs.
    """

    number: int
    places: tuple[int, ...]
    state: State
    colour: str
    outer: str
    inner: str
    kind: str
    own: str
    total: str
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stripe:
    """Rows after one another of one colour."""

    colour: str
    rows: int


@dataclass(frozen=True)
class Group:
    """A block, or what stands between two blocks, or the rows of one more way to run the model.

    name: empty for what is in no block. differing: how many rows are wrong by themselves.
    """

    name: str
    rows: tuple[Row, ...]
    state: State
    stripes: tuple[Stripe, ...]
    differing: int
    open: bool = False


def state_of(boundary: Boundary) -> State:
    """The verdict, inherited errors apart."""
    return "inherited" if boundary.inherited else boundary.verdict


def colour_of(boundary: Boundary) -> str:
    """The class of the colour: own error on a log scale from 1e-16 to 1, with a break at the noise.

    What is too inaccurate in low precision has the colour of how many times the reference's error it has.
    """
    state = state_of(boundary)
    if state in ("inherited", "not_compared") or boundary.own is None:
        return state
    if boundary.own == 0.0:
        return "exact"
    if state == "ok":
        return f"cold{_step(boundary.own, _LEAST, boundary.noise, COLD)}"
    if boundary.ratio is not None:
        return f"hot{_step(boundary.ratio, 1.0, _MANY, HOT)}"
    return f"hot{_step(boundary.own, boundary.noise, 1.0, HOT)}"


def _step(value: float, least: float, most: float, steps: int) -> int:
    """On which of some equal steps of a log scale a value is; what is not finite is on the last."""
    if not math.isfinite(value):
        return steps - 1
    part = math.log(max(value, least) / least) / math.log(most / least)
    return min(steps - 1, int(part * steps))


def shown(report: Report) -> str | None:
    """The stage that the column shows: the full forward, another one if that did not run."""
    return next((stage for stage in _BY_MODULE if words.of_stage(report, stage)), None)


def column(report: Report) -> tuple[Group, ...]:
    """The rows of one stage by block."""
    stage = shown(report)
    if stage is None:
        return ()
    elsewhere = _elsewhere(report, stage)
    rows: list[Row] = []
    groups: list[Group] = []
    opened = 0
    places = [(number, each) for number, each in enumerate(report.boundaries) if each.stage == stage]
    for name, members in groupby(places, key=lambda each: _block(each[1])):
        found = tuple(_rows(list(members), len(rows), elsewhere))
        rows += found
        group = _group(name, found)
        opens = bool(name) and group.differing > 0 and opened < _OPEN
        opened += opens
        groups.append(_group(name, found, opens))
    return tuple(groups)


def others(report: Report, first: int) -> tuple[Group, ...]:
    """A group for each other way to run the model; first: the number of its first row.

    Of stages with a row for every boundary what differs or was not compared: the rest stands with its module.
    """
    groups = []
    for stage in dict.fromkeys(boundary.stage for boundary in report.boundaries):
        places = [(number, each) for number, each in enumerate(report.boundaries) if each.stage == stage]
        if stage in _BY_MODULE:
            places = [(number, each) for number, each in places if state_of(each) in ("diff", "not_compared")]
        if stage == shown(report) or not places:
            continue
        rows = tuple(
            _row(first + place, [each], each[1].name.removeprefix(f"{stage}: "), {})
            for place, each in enumerate(places)
        )
        first += len(rows)
        found = _group(stage, rows)
        groups.append(_group(stage, rows, found.differing > 0))
    return tuple(groups)


def _block(boundary: Boundary) -> str:
    name = block(boundary.reference_module)
    return name if name != boundary.reference_module or name[-1:].isdigit() else ""


def _elsewhere(report: Report, shown: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The other stages in which a module's input or output differs by itself."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for each in report.boundaries:
        key = each.reference_module, each.kind
        if each.stage in _BY_MODULE and each.stage != shown and words.own(each):
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), each.stage)))
    return found


Numbered = tuple[int, Boundary]


def _rows(places: Sequence[Numbered], first: int, elsewhere: dict[tuple[str, str], tuple[str, ...]]) -> Iterable[Row]:
    waiting = list(places)
    number = first
    while waiting:
        taken = 2 if len(waiting) > 1 and _in_and_out(waiting[0][1], waiting[1][1]) else 1
        yield _row(number, waiting[:taken], None, elsewhere)
        waiting = waiting[taken:]
        number += 1


def _in_and_out(before: Boundary, after: Boundary) -> bool:
    """Whether two boundaries are the two ends of one call of a module."""
    return before.kind == "input" and after.kind == "output" and before.reference_module == after.reference_module


def _row(
    number: int, places: Sequence[Numbered], name: str | None, elsewhere: dict[tuple[str, str], tuple[str, ...]]
) -> Row:
    boundaries = [each for _, each in places]
    state = worst(state_of(each) for each in boundaries)
    deciding = [each for each in boundaries if state_of(each) == state]
    chosen = max(deciding, key=lambda each: _size(each.own))
    last = boundaries[-1]
    named = name or last.name.removesuffix(" (input)")
    outer, inner = ("", named) if name else _parted(named)
    told = (elsewhere.get((each.reference_module, each.kind), ()) for each in boundaries)
    return Row(
        number,
        tuple(place for place, _ in places),
        state,
        colour_of(chosen),
        outer,
        inner,
        "" if name or len(places) > 1 or last.reference_module not in last.name else _ENDS[last.kind],
        words.figure(_largest(each.own for each in boundaries)),
        words.figure(_largest(each.total for each in boundaries)),
        tuple(dict.fromkeys(stage for stages in told for stage in stages)),
    )


def _parted(name: str) -> tuple[str, str]:
    """A name without that of its block, its last part apart; of a value inside a module what it is.

    In front of a module's name may be what is said of it, a dtype or that it is a gradient.
    """
    said, _, named = name.rpartition(" ")
    bare, _, tap = named.partition(":")
    front = f"{said} " if said else ""
    own = block(bare)
    rest = bare[len(own) :].removeprefix(".") if own != bare else bare
    if tap:
        return f"{front}{rest}:", tap
    if own == bare and bare[-1:].isdigit():
        return front, "block"
    outer, dot, inner = rest.rpartition(".")
    return front + outer + dot, inner


def worst(states: Iterable[State]) -> State:
    """The one to look at first."""
    return min(states, key=_WORST.index)


def _group(name: str, rows: tuple[Row, ...], opens: bool = False) -> Group:
    stripes = tuple(
        Stripe(colour, len(list(members))) for colour, members in groupby(rows, key=lambda each: each.colour)
    )
    differing = sum(row.state == "diff" for row in rows)
    return Group(name, rows, worst(row.state for row in rows), stripes, differing, opens)


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, key=_size, default=None)


def _size(value: float | None) -> float:
    """For comparing: what is no number counts as the worst, what was not measured as the least."""
    return -1.0 if value is None else math.inf if math.isnan(value) else value
