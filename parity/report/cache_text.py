"""Quantised caches in the text of a generation: verdicts, a table, errors by layer, where texts become others."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from parity.cache_records import CacheLoss, Caches
from parity.generation_records import Generation
from parity.report import cache_words as words
from parity.report.beside import visible

_STYLES = {"LOSSY": "bold yellow", "WITHIN": "bold green", "BEYOND": "bold red", "LOSSLESS": "bold"}
_INDENT = "  "
_CELL = 7  # columns of a figure in the table of layers
_SHOWN = 60  # letters of a text that became another


def render(generation: Generation, caches: Caches, width: int | None) -> Iterator[Text]:
    """Line by line, styled; width: of the terminal, None off a terminal."""
    yield Text.assemble((f"\n{words.TITLE}", "bold"), (f"  {words.along(generation, caches)}", "dim"))
    for loss in caches.losses:
        word = words.verdict(caches, loss)
        yield Text.assemble(_INDENT, (f"{word:<8}", _STYLES[word]), f" {words.sentence(caches, loss)}")
    yield Text()
    yield from _table([words.HEAD, *words.rows(caches)])
    yield Text(f"{_INDENT}{words.KEY}", "dim")
    yield from _layers(caches, width)
    yield from _parted(generation, caches)
    yield Text()
    yield from (Text(f"{_INDENT}{line}", "dim") for line in words.places(caches))


def _table(lines: Sequence[Sequence[str]]) -> Iterator[Text]:
    """Columns as wide as they have to be; names on the left, figures on the right."""
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = [line[0].ljust(wide[0]), *(cell.rjust(room) for cell, room in zip(line[1:], wide[1:], strict=True))]
        yield Text((_INDENT + "  ".join(cells)).rstrip(), "" if number else "dim")


def _layers(caches: Caches, width: int | None) -> Iterator[Text]:
    if not caches.layers:
        return
    side = max(len("layer"), *(len(str(layer)) for layer in caches.layers))
    keeps = max(len("keeps"), *(len(words.kept(caches, layer)) for layer in caches.layers))
    before, each = len(_INDENT) + side + 2 + keeps, 1 + _CELL * len(words.LAYER_HEAD)
    count = len(caches.losses) if width is None else max(1, (width - before) // each)
    yield Text("\nError by layer, in %", "bold")
    for at in range(0, len(caches.losses), count):
        yield from _some(caches, caches.losses[at : at + count], side, keeps)


def _some(caches: Caches, losses: Sequence[CacheLoss], side: int, keeps: int) -> Iterator[Text]:
    room = _CELL * len(words.LAYER_HEAD)
    names = "".join(f" {loss.dtype:>{room}}" for loss in losses)
    yield Text(f"{_INDENT}{'':{side}}  {'':{keeps}}{names}", "dim")
    heads = "".join(" " + "".join(f"{head:>{_CELL}}" for head in words.LAYER_HEAD) for _ in losses)
    yield Text(f"{_INDENT}{'layer':{side}}  {'keeps':>{keeps}}{heads}", "dim")
    for layer, kept, *cells in words.layers(caches, losses):
        figures = "".join(f"{' ' * (at % len(words.LAYER_HEAD) == 0)}{cell:>{_CELL}}" for at, cell in enumerate(cells))
        yield Text(f"{_INDENT}{layer:>{side}}  {kept:>{keeps}}{figures}")


def _parted(generation: Generation, caches: Caches) -> Iterator[Text]:
    found = list(words.parted(generation, caches))
    if not found:
        return
    yield Text("\nWhere texts become others", "bold")
    texts = {
        row: full.port_text for loss in caches.losses for row, full in zip(loss.rows, generation.rows, strict=True)
    }
    for name, flip, row in found:
        yield Text(f"{_INDENT}{name}: {words.flip(flip)}", "yellow")
        rest = " ".join(visible(words.rest(texts[row], row.text)).split())
        if rest:
            yield Text(f"{_INDENT}  goes on: {rest[:_SHOWN]}{' ...' if len(rest) > _SHOWN else ''}", "dim")
