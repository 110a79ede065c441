"""`parity source`: the reference's code as it runs, beside the line that compares."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rich.syntax import Syntax
from rich.text import Text
from torch import nn

from parity.errors import ParityError
from parity.explain.source import Flattened, Piece, Resolved, class_place, flatten
from parity.names import fold, template
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.reference import ConfigRejected, Reference

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Entry:
    """Modules of one class in one place of the model, their numbers folded."""

    name: str
    class_name: str
    file: str
    line: int


@dataclass(frozen=True)
class Listing:
    """What `parity source` shows: an overview in entries, or the code asked for, with the names that share it."""

    reference: str
    version: str
    notes: tuple[str, ...]
    entries: tuple[Entry, ...] = ()
    codes: tuple[tuple[str, Flattened], ...] = ()


def source(
    port: object,
    module: str | None = None,
    *,
    config: str | Path | None = None,
    reference: str | Path | None = None,
    progress: Progress = lambda _: None,
) -> Listing:
    """The code of the reference that a port is compared with.

    Args:
        port: a built-in name, a file, a dotted module, or an object that fulfils the contract.
        module: a name in the reference, one with `{}` for its numbers, the end of a name, or a class; None for a list.
        config: a config.json; by default that of `reference`, else the built-in one of the port's first model type.
        reference: a directory or Hub id whose config.json is used.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: bad input, or no such module; says what to do next.
    """
    progress("building the reference")
    described, notes = pairs.find_reference(
        ports.resolve(port), Path(config) if config else None, str(reference) if reference else None
    )
    model = _build_small(described)
    if module is None:
        return Listing(described.class_name, references.VERSION, tuple(notes), entries=_overview(model))
    progress("reading the code")
    codes: dict[Flattened, list[str]] = {}
    for name, found in _find(model, module):
        codes.setdefault(flatten(found), []).append(name)
    shown = tuple((", ".join(fold(names)), code) for code, names in codes.items())
    return Listing(described.class_name, references.VERSION, tuple(notes), codes=shown)


def _build_small(described: Reference) -> nn.Module:
    """The reference on the small config, which has the same code as on the real one."""
    try:
        return references.build(references.on(described, pairs.shrunk(described).config), promoted=False)
    except ConfigRejected:
        faithful = pairs.shrunk(described, adversarial=False)
        return references.build(references.on(described, faithful.config), promoted=False)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that run, by name; the model itself is at the empty name, lists of modules are left out."""
    return {
        name: module for name, module in model.named_modules() if not isinstance(module, nn.ModuleList | nn.ModuleDict)
    }


def _overview(model: nn.Module) -> tuple[Entry, ...]:
    kinds: dict[tuple[str, type], list[str]] = {}
    for name, module in _modules(model).items():
        kinds.setdefault((template(name), type(module)), []).append(name)
    return tuple(Entry(fold(names)[0], kind.__name__, *class_place(kind)) for (_, kind), names in kinds.items())


def _find(model: nn.Module, wanted: str) -> list[tuple[str, nn.Module]]:
    """The modules that `wanted` stands for: one, or those that differ in their numbers only, or those of a class."""
    modules = _modules(model)
    if wanted in modules:
        return [(wanted, modules[wanted])]
    ways: list[Callable[[str], bool]] = [
        lambda name: template(name) == wanted,
        lambda name: f".{name}".endswith(f".{wanted}"),
        lambda name: f".{template(name)}".endswith(f".{wanted}"),
        lambda name: type(modules[name]).__name__ == wanted,
    ]
    found = next(filter(None, ([name for name in modules if fits(name)] for fits in ways)), [])
    if not found:
        raise ParityError(f"{type(model).__name__} has no module {wanted!r}", _hint(modules, wanted))
    places = list(dict.fromkeys(template(name) for name in found))
    if len(places) > 1 and type(modules[found[0]]).__name__ != wanted:
        raise ParityError(
            f"{wanted!r} stands for {len(places)} modules of {type(model).__name__}", f"Name one: {', '.join(places)}."
        )
    return [(name, modules[name]) for name in found]


def _hint(modules: dict[str, nn.Module], wanted: str) -> str:
    """Names like it, whole or by their ends; without one, where to look."""
    whole = {template(name): template(name) for name in modules if name}
    if template(wanted) in whole:  # another number than the small config has
        return f"Did you mean {template(wanted)}?"
    ends = {place.rpartition(".")[2]: place for place in whole.values()}
    classes = {type(module).__name__: type(module).__name__ for module in modules.values()}
    near = get_close_matches(template(wanted), [*whole, *classes], 3) or get_close_matches(wanted, ends, 3)
    known = ends | classes | whole
    if not near:
        return "Leave the module out to list all there are."
    return f"Did you mean {' or '.join(known[name] for name in near)}?"


def render(listing: Listing) -> Iterator[Text]:
    """The listing line by line, styled."""
    for note in listing.notes:
        yield Text(f"Note: {note}", "dim")
    if listing.entries:
        yield from _rendered_overview(listing)
    for number, (names, code) in enumerate(listing.codes):
        if number:
            yield Text()
        yield from _rendered_code(listing, names, code)


def _rendered_overview(listing: Listing) -> Iterator[Text]:
    yield Text.assemble((listing.reference, "bold"), f", transformers {listing.version}, small config")
    yield Text("Add a module to see its code: the end of its name will do, or its class.\n", "dim")
    rows = [(entry.name or "(the model)", entry.class_name, _at(entry.file, entry.line)) for entry in listing.entries]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, class_name, place in rows:
        yield Text.assemble(f"{name:<{widths[0]}}  ", (f"{class_name:<{widths[1]}}  ", "bold"), (place, "dim"))


def _rendered_code(listing: Listing, names: str, code: Flattened) -> Iterator[Text]:
    yield Text.assemble((names or listing.reference, "bold"), f": {code.class_name}, {_at(code.file, code.line)}")
    yield Text(f"transformers {listing.version}, eager attention; docstrings left out", "dim")
    width = max((len(str(piece.lines[-1][0])) for piece in code.pieces), default=0)
    for piece in code.pieces:
        yield Text()
        yield from _rendered_piece(piece, width)
    if code.not_shown:
        yield Text("\nCalled as well, not shown", "bold")
        yield from _rendered_names(code.not_shown)
    for line in code.missing:
        yield Text(f"\nNot shown: {line}", "yellow")


def _rendered_piece(piece: Piece, width: int) -> Iterator[Text]:
    inherited = f", inherited from {piece.inherited_from}" if piece.inherited_from else ""
    yield Text.assemble((f"# {piece.name}", "bold"), f"  {_at(piece.file, piece.line)}{inherited}")
    coloured = Syntax("", "python", theme="ansi_dark").highlight("\n".join(text for _, text in piece.lines))
    for (number, _), text in zip(piece.lines, coloured.split("\n", allow_blank=True), strict=False):
        yield Text.assemble((f"{number:>{width}}", "dim"), "  ", text) if text else Text(f"{number:>{width}}", "dim")
    if piece.resolved:
        yield Text("where", "dim")
        yield from _rendered_names(piece.resolved)


def _rendered_names(names: tuple[Resolved, ...]) -> Iterator[Text]:
    for each in names:
        place = f", {_at(each.file, each.line)}" if each.file else ""
        said = "" if each.expression == each.name else f"{each.expression} is "
        yield Text.assemble(f"  {said}{each.name}", (place, "dim"))


def _at(file: str, line: int) -> str:
    return f"{file}:{line}" if file else "not written in Python"
