"""The code around the lines that findings name, for people to read; read once, when all findings are settled."""

import ast
import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from parity.records import Finding, Source

_AROUND = 2  # lines before and after, of what is in no function or in one that is too long to be shown
_LONGEST = 60  # lines of a function that is shown whole

Function = ast.FunctionDef | ast.AsyncFunctionDef


def with_context(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings whose lines of code come with the function around them, where their files can still be read."""
    return tuple(
        replace(
            finding,
            port_source=_surrounded(finding.port_source),
            reference_source=_surrounded(finding.reference_source),
        )
        for finding in findings
    )


def _surrounded(source: Source | None) -> Source | None:
    if source is None:
        return None
    for path in _paths(source.file):
        lines = linecache.getlines(path)
        if source.line <= len(lines) and lines[source.line - 1].strip() == source.text:
            return replace(source, context=_around([line.rstrip() for line in lines], source.line))
    return source


def _paths(shown: str) -> Iterator[str]:
    """Where a file named as briefly as it could be found by may be; some are in no folder, only known to linecache."""
    yield shown
    yield str(Path.cwd() / shown)
    for folder in sys.path:
        yield str(Path(folder) / shown)


def _around(lines: Sequence[str], line: int) -> tuple[tuple[int, str], ...]:
    """The function around a line, else a few lines before and after; none that belong to another function."""
    whole = _functions(lines)
    own = [(first, last) for first, last in whole if first <= line <= last]
    innermost = max(own, default=None)
    if innermost is not None and innermost[1] - innermost[0] < _LONGEST:
        first, last = innermost
    else:
        first, last = _few(len(lines), line, innermost, whole)
    while first < line and not lines[first - 1]:
        first += 1
    while last > line and not lines[last - 1]:
        last -= 1
    return tuple((number, lines[number - 1]) for number in range(first, last + 1))


def _functions(lines: Sequence[str]) -> list[tuple[int, int]]:
    """First and last line of every function, decorators included; none of what is no Python."""
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return []
    return [
        (min([node.lineno, *(each.lineno for each in node.decorator_list)]), node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, Function)
    ]


def _few(count: int, line: int, own: tuple[int, int] | None, whole: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The numbers of the first and last of a few lines around one, of a file with `count` of them."""
    first, last = own or (1, count)
    before = [end + 1 for _, end in whole if end < line]
    after = [begin - 1 for begin, _ in whole if begin > line]
    return max(first, line - _AROUND, *before), min(last, line + _AROUND, *after)
