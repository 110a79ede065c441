"""`--format F[=FILE]`, repeatable, and `-o FILE`: what goes where, settled before the work and written after it."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from parity import console
from parity.errors import ParityError

if TYPE_CHECKING:
    from rich.text import Text

SUMMARY_LIMIT = 1024 * 1024  # bytes; GitHub drops a job summary that is larger
_SUMMARY = "GITHUB_STEP_SUMMARY"
Record = TypeVar("Record")


@dataclass(frozen=True)
class Target:
    """One format, and the file that it goes to; None is stdout."""

    form: str
    file: Path | None = None


def targets(asked: Sequence[str] | None, output: Path | None, known: Collection[str], what: str) -> tuple[Target, ...]:
    """What to write and where.

    Args:
        asked: formats as given, `F` or `F=FILE`; by default text.
        output: where a format goes that names no file.
        known: the formats that there are.
        what: they are formats of this, for people: "a check".

    Raises:
        ParityError: a format is unknown, a file cannot be written, or two formats go to one place.
    """
    named = [_named(each, known, what) for each in asked or ["text"]]
    bare = [each.form for each in named if each.file is None]
    if len(bare) > 1:
        place = output or "stdout"
        raise ParityError(f"{' and '.join(bare)} both go to {place}", f"Give one a file: --format {bare[-1]}=FILE.")
    if output is not None and not bare:
        raise ParityError(f"-o {output}: every format has a file already", "Leave -o out, or add --format text.")
    found = tuple(Target(each.form, each.file or output) for each in named)
    _apart([each.file for each in found if each.file is not None])
    summary = os.environ.get(_SUMMARY)
    if summary and any(each.form == "github" for each in found):
        console.writable(Path(summary))
    return found


def _named(asked: str, known: Collection[str], what: str) -> Target:
    form, equals, file = asked.partition("=")
    if form not in known:
        raise ParityError(f"there is no format {form!r} of {what}", f"Those are {', '.join(known)}.")
    if equals and not file:
        raise ParityError(f"--format {asked} names no file", f"Give one, or write --format {form} for stdout.")
    return Target(form, Path(file) if file else None)


def _apart(files: Iterable[Path]) -> None:
    """Each file once, and writable."""
    seen: list[Path] = []
    for file in files:
        if any(_same(file, other) for other in seen):
            raise ParityError(f"two formats go to {file}", "Give each a file of its own.")
        console.writable(file)
        seen.append(file)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def write(
    record: Record,
    wanted: Iterable[Target],
    known: Mapping[str, Callable[[Record], str]],
    lines: "Callable[[Record, int | None], Iterable[Text]]",
    summary: Callable[[Record, int], str] | None = None,
) -> None:
    """Write all that is wanted: all of it is made before any is written, files come before stdout.

    Args:
        record: what to tell.
        wanted: see `targets`.
        known: what makes a text of the record, by format.
        lines: the format text, styled, for a terminal of some width; None off a terminal.
        summary: the job summary that goes with the format github, in no more than so many bytes.
    """
    wanted = sorted(wanted, key=lambda each: each.file is None)
    made: list[str | list[Text]] = []
    for each in wanted:
        width = None if each.file else console.columns()
        made.append(list(lines(record, width)) if each.form == "text" else known[each.form](record))
    for each, text in zip(wanted, made, strict=True):
        if isinstance(text, str):
            console.put(text, each.file)
        else:
            console.show(text, each.file)
    if summary is not None and any(each.form == "github" for each in wanted):
        _summarise(lambda room: summary(record, room))


def _summarise(summary: Callable[[int], str]) -> None:
    """Append to the job summary, where GitHub asks for one."""
    name = os.environ.get(_SUMMARY)
    if name:
        path = Path(name)
        console.append(summary(SUMMARY_LIMIT - (path.stat().st_size if path.exists() else 0)), path)
