"""The chart of quantised caches: relative errors by layer, as an SVG that needs nothing else.

On the left keys and values as stored, on the right what comes out of each block.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from math import ceil, floor, isfinite, log10

from markupsafe import Markup

from parity.cache_records import CacheLoss, Caches
from parity.report import cache_words as words

_WIDTH, _HEIGHT = 860, 340
_TOP, _BOTTOM = 40, 44
_PANELS = (62, 352), (452, 742)  # from the left: where each begins and ends
_GAP = 15  # between labels at the ends of lines
_COLOURS = 6
_STYLE = """
.errors { --ink: #1d2023; --dim: #5a6066; --line: #dfdfda; --c0: #1f4fb8; --c1: #b3540a; --c2: #17693a; --c3: #7d3fb0;
  --c4: #a3195b; --c5: #0e6d77; }
@media screen and (prefers-color-scheme: dark) {
  .errors { --ink: #e4e4e0; --dim: #a2a8ae; --line: #343940; --c0: #8fb4ff; --c1: #f2a35e; --c2: #7ed49a; --c3: #c08ff0;
    --c4: #f58bb8; --c5: #6fd0da; }
}
.errors text { font: 12px system-ui, sans-serif; fill: var(--dim); }
.errors .grid { stroke: var(--line); }
.errors path, .errors circle { fill: none; stroke-width: 2; stroke-linejoin: round; }
.errors .values { stroke-dasharray: 2 4; }
.errors text.head { fill: var(--ink); font-weight: 600; }
"""
_COLOUR = ".errors .c{0} {{ stroke: var(--c{0}); }} .errors text.c{0} {{ fill: var(--c{0}); stroke: none; }}\n"
_Line = tuple[str, str, list[tuple[int, float]]]  # class, name, points of layers and errors


def svg(caches: Caches) -> Markup:
    """The chart as an element; nothing if there is no error to show, or a single layer only."""
    stored = [line for at, loss in enumerate(caches.losses) for line in _stored(caches, loss, at)]
    outputs = [_line(f"c{at % _COLOURS}", loss.dtype, _outputs(loss)) for at, loss in enumerate(caches.losses)]
    outputs = [line for line in outputs if line[2]]
    errors = [error for _, _, points in (*stored, *outputs) for _, error in points]
    if not errors or len(caches.layers) < 2:
        return Markup("")
    axes = _Axes(caches.layers[0], caches.layers[-1], min(errors), max(errors))
    body = [*_panel(axes, _PANELS[0], "keys, and dotted values, as stored", stored, not outputs)]
    if outputs:
        body += _panel(axes, _PANELS[1], "output of each block", outputs, True)
    width = _WIDTH if outputs else _PANELS[0][1] + _WIDTH - _PANELS[1][1]
    title = f"relative error by layer: {', '.join(loss.dtype for loss in caches.losses)}"
    style = _STYLE + "".join(_COLOUR.format(at) for at in range(_COLOURS))
    drawn = "\n".join(body)
    return Markup(
        f'<svg class="errors" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n{drawn}\n</svg>"
    )


def _stored(caches: Caches, loss: CacheLoss, at: int) -> Iterator[_Line]:
    for part, role in enumerate(("keys", "values")):
        points = [(layer, caches.of_layer(loss, layer)[part]) for layer in caches.layers]
        line = _line(f"c{at % _COLOURS} {role}", loss.dtype, points)
        if line[2]:
            yield line


def _outputs(loss: CacheLoss) -> list[tuple[int, float | None]]:
    return [(block.layer, block.error) for block in loss.blocks]


def _line(kind: str, name: str, points: Sequence[tuple[int, float | None]]) -> _Line:
    """Without what a logarithm has no place for."""
    return (
        kind,
        name,
        [(layer, error) for layer, error in points if error is not None and error > 0 and isfinite(error)],
    )


class _Axes:
    """Where layers and errors are; errors by powers of ten."""

    def __init__(self, first: int, last: int, least: float, most: float):
        self.first, self.last = first, last
        self.least, self.most = floor(log10(least)), max(ceil(log10(most)), floor(log10(least)) + 1)

    def x(self, layer: int, panel: tuple[int, int]) -> float:
        """From the left."""
        return panel[0] + (layer - self.first) / (self.last - self.first) * (panel[1] - panel[0])

    def y(self, error: float) -> float:
        """From the top."""
        return _HEIGHT - _BOTTOM - (log10(error) - self.least) / (self.most - self.least) * (_HEIGHT - _TOP - _BOTTOM)


def _panel(axes: _Axes, panel: tuple[int, int], title: str, lines: Sequence[_Line], named: bool) -> Iterator[str]:
    left, right = panel
    yield f'<text class="head" x="{left}" y="{_TOP - 18}">{escape(title)}</text>'
    for power in range(axes.least, axes.most + 1):
        y = axes.y(10.0**power)
        yield f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * 10.0**power:g} %</text>'
    step = ceil((axes.last - axes.first + 1) / 12)
    for layer in range(axes.first, axes.last + 1, step):
        x = axes.x(layer, panel)
        yield f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{layer}</text>'
    yield f'<text x="{(left + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">layer</text>'
    for kind, name, points in lines:
        yield from _drawn(kind, name, points, lambda layer, error: (axes.x(layer, panel), axes.y(error)))
    if named:
        yield from _names(axes, lines, right)


def _drawn(
    kind: str, name: str, points: Sequence[tuple[int, float]], place: Callable[[int, float], tuple[float, float]]
) -> Iterator[str]:
    spots = [place(*point) for point in points]
    if len(spots) > 1:
        yield f'<path class="{kind}" d="M{" L".join(f"{x:.1f},{y:.1f}" for x, y in spots)}"/>'
    for (layer, error), (x, y) in zip(points, spots, strict=True):
        told, colour = f"{name}, layer {layer}: {words.percent(error)} %", kind.partition(" ")[0]
        yield f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2"><title>{escape(told)}</title></circle>'


def _names(axes: _Axes, lines: Sequence[_Line], right: int) -> Iterator[str]:
    """At the ends of lines, each a little below the one above it; moved up again at the bottom."""
    ends: dict[str, tuple[float, str]] = {}
    for kind, name, points in lines:
        ends.setdefault(name, (axes.y(points[-1][1]), kind.partition(" ")[0]))
    ordered = sorted((y, kind, name) for name, (y, kind) in ends.items())
    places = [y for y, _, _ in ordered]
    for at in range(1, len(places)):
        places[at] = max(places[at], places[at - 1] + _GAP)
    over = max(places[-1] - (_HEIGHT - _BOTTOM), 0.0)
    for y, (_, kind, name) in zip(places, ordered, strict=True):
        yield f'<text class="{kind}" x="{right + 8}" y="{y - over + 4:.1f}">{escape(name)}</text>'
