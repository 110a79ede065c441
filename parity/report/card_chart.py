"""The chart of a card: memory over context lengths, both axes by doubling, as an SVG that needs nothing else."""

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log2

from markupsafe import Markup

from parity.card_records import Card
from parity.report import card_words as words

_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 176, 16, 44
_GAP = 15  # between labels at the ends of lines
_STYLE = """
.chart { --ink: #1d2023; --dim: #5a6066; --line: #dfdfda; }
.chart { --c0: #1f4fb8; --c1: #b3540a; --c2: #17693a; --c3: #7d3fb0; }
@media screen and (prefers-color-scheme: dark) {
  .chart { --ink: #e4e4e0; --dim: #a2a8ae; --line: #343940; }
  .chart { --c0: #8fb4ff; --c1: #f2a35e; --c2: #7ed49a; --c3: #c08ff0; }
}
.chart text { font: 12px system-ui, sans-serif; fill: var(--dim); }
.chart .grid { stroke: var(--line); }
.chart path { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .all { stroke: var(--ink); } .chart text.all { fill: var(--ink); font-weight: 600; stroke: none; }
.chart .weights { stroke: var(--dim); stroke-dasharray: 5 4; } .chart text.weights { stroke: none; }
.chart .asked { stroke: var(--dim); stroke-width: 1; stroke-dasharray: 2 3; }
.chart .c0 { stroke: var(--c0); } .chart .c1 { stroke: var(--c1); }
.chart .c2 { stroke: var(--c2); } .chart .c3 { stroke: var(--c3); }
.chart text.c0 { fill: var(--c0); stroke: none; } .chart text.c1 { fill: var(--c1); stroke: none; }
.chart text.c2 { fill: var(--c2); stroke: none; } .chart text.c3 { fill: var(--c3); stroke: none; }
"""
_Line = tuple[str, str, list[tuple[int, int]]]  # class, name, points of tokens and bytes


def render(card: Card) -> str:
    """The chart as the text of an SVG file."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg(card)}\n'


def svg(card: Card) -> Markup:
    """The chart as an element; nothing if nothing grows."""
    lengths = [length for length, _ in card.memory.points]
    return _picture(list(_lines(card)), lengths, _title(card), card.memory.context)


def beside(left: Card, right: Card) -> Markup:
    """The caches of two architectures in one chart."""
    lines = [
        (f"c{at}", card.name, [(length, sum(parts)) for length, parts in card.memory.points])
        for at, card in enumerate((left, right))
        if any(sum(parts) for _, parts in card.memory.points)
    ]
    lengths = sorted({length for _, _, points in lines for length, _ in points})
    return _picture(lines, lengths, f"cache of {left.name} and {right.name} by tokens of context", None)


def _picture(lines: Sequence[_Line], lengths: Sequence[int], title: str, asked: int | None) -> Markup:
    if not lines or len(lengths) < 2:
        return Markup("")
    sizes = [size for _, _, points in lines for _, size in points]
    axes = _Axes(min(lengths), max(lengths), min(sizes), max(sizes))
    body = "\n".join([*_grid(axes, lengths, asked), *_drawn(axes, lines)])
    return Markup(
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n{body}\n</svg>"
    )


def _title(card: Card) -> str:
    memory = card.memory
    batch = f", batch of {memory.batch}" if memory.batch > 1 else ""
    return f"{card.name}: cache in {memory.cache_dtype} by tokens of context{batch}, beside the weights"


def _lines(card: Card) -> Iterator[_Line]:
    memory = card.memory
    grown = [at for at in range(len(card.kv_cache.kinds)) if any(parts[at] for _, parts in memory.points)]
    for number, at in enumerate(grown):
        points = [(length, parts[at]) for length, parts in memory.points]
        yield f"c{min(number, 3)}", card.kv_cache.kinds[at].name, points
    if len(grown) > 1:
        yield "all", "whole cache", [(length, sum(parts)) for length, parts in memory.points]
    if grown and memory.weights:
        yield "weights", f"weights, {words.size(memory.weights)}", [(n, memory.weights) for n, _ in memory.points]


class _Axes:
    """Where tokens and bytes are on the picture; both by doubling, bytes in whole powers of four."""

    def __init__(self, first: int, last: int, least: int, most: int):
        self.first, self.last = first, max(last, first + 1)
        self.least, self.most = 2 * floor(log2(max(least, 1)) / 2), 2 * ceil(log2(max(most, 2)) / 2 + 0.01)

    def x(self, tokens: int) -> float:
        """From the left."""
        share = log2(tokens / self.first) / log2(self.last / self.first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, size: float) -> float:
        """From the top."""
        share = (log2(max(size, 1)) - self.least) / (self.most - self.least)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(axes: _Axes, contexts: Sequence[int], asked: int | None) -> Iterator[str]:
    step = 2 * ceil((axes.most - axes.least) / 16)
    for power in range(axes.least, axes.most + 1, step):
        y = axes.y(2.0**power)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{words.size(2**power)}</text>'
    lengths = [length for length in contexts if length & (length - 1) == 0]
    for length in lengths[:: ceil(len(lengths) / 9)]:
        text = f'<text x="{axes.x(length):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
        yield f"{text}{words.tokens(length)}</text>"
    yield f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">tokens of context</text>'
    if asked is None:
        return
    x = axes.x(asked)
    yield f'<line class="asked" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'


def _drawn(axes: _Axes, lines: Sequence[_Line]) -> Iterator[str]:
    for kind, _, points in lines:
        path = " L".join(f"{axes.x(tokens):.1f},{axes.y(size):.1f}" for tokens, size in points)
        yield f'<path class="{kind}" d="M{path}"/>'
    ends = sorted((axes.y(points[-1][1]), kind, name) for kind, name, points in lines)
    for y, kind, name in _apart(ends):
        yield f'<text class="{kind}" x="{_WIDTH - _RIGHT + 8}" y="{y + 4:.1f}">{escape(name)}</text>'


def _apart(ends: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Labels moved down as far as it takes not to stand on each other, and up again at the bottom."""
    places = [y for y, _, _ in ends]
    for at in range(1, len(places)):
        places[at] = max(places[at], places[at - 1] + _GAP)
    over = max(places[-1] - (_HEIGHT - _BOTTOM), 0.0)
    return [(y - over, kind, name) for y, (_, kind, name) in zip(places, ends, strict=True)]
