"""The lines around those that findings name, for people to read; read once, when all findings are settled."""

import linecache
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from parity.records import Finding, Source

_AROUND = 2
_OPENS = ("def ", "class ", "async def ")
_BEGINS = (*_OPENS, "@")


def with_context(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings whose lines of code come with the lines around them, where their files can still be read."""
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


def _around(lines: list[str], line: int) -> tuple[tuple[int, str], ...]:
    """A few lines before and after, not past the function's own first line nor into the next one."""
    first = line
    while first > max(1, line - _AROUND) and not _starts(lines[first - 1], _OPENS):
        first -= 1
    last = line
    while last < min(len(lines), line + _AROUND) and not _starts(lines[last], _BEGINS):
        last += 1
    while first < line and not lines[first - 1]:
        first += 1
    while last > line and not lines[last - 1]:
        last -= 1
    return tuple((number, lines[number - 1]) for number in range(first, last + 1))


def _starts(line: str, words: tuple[str, ...]) -> bool:
    return line.lstrip().startswith(words)
