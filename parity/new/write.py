"""The text of a file that is begun: a port's source, made to take another config and its checkpoint."""

import ast
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parity.new.handed import Handed
from parity.new.weights import Places

CARRIED = "_carried_over"
MAP = "WEIGHTS"
_WIDTH = 118
_TYPES = "MODEL_TYPES"


@dataclass(frozen=True)
class Head:
    """What the file says of itself, and the names that it goes by."""

    name: str
    nearest: str
    reference: str
    model_types: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Edit:
    """Lines from first to last, numbered from 1, with others in their place; last = first - 1 puts them before."""

    first: int
    last: int
    lines: tuple[str, ...]


def adapted(source: str, head: Head, handed: Sequence[Handed], places: Places) -> str:
    """The source with another head, other model types, what is handed over otherwise, and a map that fits."""
    tree = ast.parse(source)
    edits = [*_head(tree, source, head), *_types(tree, head.model_types), *_map(tree, source, places)]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    config, model = classes["Config"], classes["Model"]
    edits += _docstring(config, f"What {head.name} reads from config.json.")
    edits += _docstring(model, f"{head.name} for causal language modelling.")
    if handed:
        first = min([config.lineno, *(each.lineno for each in config.decorator_list)])
        edits.append(Edit(first, first - 1, (*_function(handed), "", "")))
        read = next(node for node in config.body if isinstance(node, ast.FunctionDef) and node.name == "from_hf")
        line = read.body[1 if ast.get_docstring(read) is not None else 0].lineno
        edits.append(Edit(line, line - 1, (f"        {read.args.args[1].arg} = {CARRIED}({read.args.args[1].arg})",)))
    return replaced(source, edits)


def replaced(source: str, edits: Iterable[Edit]) -> str:
    """The source with its edits, none of which overlap."""
    lines = source.splitlines()
    for edit in sorted(edits, key=lambda each: (each.first, each.last), reverse=True):
        lines[edit.first - 1 : edit.last] = edit.lines
    return "\n".join(lines) + "\n"


def comment(number: int, what: str, reads: Sequence[str], indent: str) -> tuple[str, ...]:
    """A mark as lines of the file."""
    where = f" Read {'; '.join(reads)}." if reads else ""
    told = f"DIFFERS {number}: {what.rstrip('.')}.{where}"
    return tuple(f"{indent}# {line}" for line in textwrap.wrap(told, _WIDTH - len(indent) - 2, break_on_hyphens=False))


def _head(tree: ast.Module, source: str, head: Head) -> Iterable[Edit]:
    own = ast.get_docstring(tree) or ""
    shapes = [part for part in own.split("\n\n") if "Shapes:" in part]
    kept = shapes[0][shapes[0].index("Shapes:") :].splitlines() if shapes else []
    lines = (
        f'"""{head.name}, from scratch: begun with {head.nearest}, to be held against {head.reference}.',
        "",
        "Each place that is known to differ from the reference has a comment with the word DIFFERS and a number, and",
        "says what to read. Take the comment away when its place is right.",
        "",
        f"    {head.command}",
        *(["", *kept] if kept else []),
        '"""',
    )
    first = tree.body[0]
    if own:
        yield Edit(first.lineno, first.end_lineno or first.lineno, lines)
    else:
        yield Edit(1, 0, (*lines, ""))


def _types(tree: ast.Module, model_types: tuple[str, ...]) -> Iterable[Edit]:
    told = ", ".join(f'"{each}"' for each in model_types) + ("," if len(model_types) == 1 else "")
    line = f"{_TYPES} = ({told})"
    found = next((node for node in tree.body if _TYPES in _targets(node)), None)
    if found is not None:
        yield Edit(found.lineno, found.end_lineno or found.lineno, (line,))
    else:
        after = _first_of_map(tree)
        yield Edit(after, after - 1, (line, ""))


def _targets(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {each.id for each in targets if isinstance(each, ast.Name)}


def _first_of_map(tree: ast.Module) -> int:
    return next(node.lineno for node in tree.body if MAP in _targets(node))


def _docstring(node: ast.ClassDef, text: str) -> Iterable[Edit]:
    if ast.get_docstring(node) is not None:
        first = node.body[0]
        yield Edit(first.lineno, first.end_lineno or first.lineno, (f'    """{text}"""',))


def _function(handed: Sequence[Handed]) -> tuple[str, ...]:
    lines = [
        f"def {CARRIED}(hf: Mapping[str, Any]) -> dict[str, Any]:",
        '    """The config as the code below takes it: what it does not implement is left out, or given otherwise."""',
        "    carried = dict(hf)",
    ]
    for each in handed:
        place = f'carried["{each.name}"] = {each.expression}' + (f"  # {each.why}" if each.default else "")
        lines.append(f'    carried.pop("{each.name}", None)' if each.expression is None else f"    {place}")
    return (*lines, "    return carried")


def _map(tree: ast.Module, source: str, places: Places) -> Iterable[Edit]:
    """Entries that do not fit are taken out, and those that were found by what modules do are put in."""
    nodes = [node for node in tree.body if MAP in _targets(node)]
    lines = source.splitlines()
    literal, taken = nodes[0], set()
    for number in range(literal.lineno, (literal.end_lineno or literal.lineno) + 1):
        found = re.fullmatch(r'\s*"([^"]+)":\s*"[^"]*",', lines[number - 1])
        if found and found[1] in places.removed:
            taken.add(found[1])
            yield Edit(number, number, ())
    end = nodes[-1].end_lineno or nodes[-1].lineno
    left = [name for name in places.removed if name not in taken]
    more = [f'del {MAP}["{name}"]' for name in left]
    if places.added:
        if len(nodes) == 1 and lines[end - 1].strip() == "}":
            yield Edit(end, end - 1, tuple(f'    "{name}": "{place}",' for name, place in places.added.items()))
        else:
            more += [f'{MAP} |= {{"{name}": "{place}"}}' for name, place in places.added.items()]
    if more:
        yield Edit(end + 1, end, tuple(more))
