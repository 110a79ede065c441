"""What every view of a start says in the same words: headline, rows of its tables, what to run next."""

from collections.abc import Iterator

from parity.new_records import Mark, Read, Start

ORIGINS = {"card": "cards", "both": "cards, line by the check", "check": "check"}
RANKING = ("port", "distance", "facts that differ", "to write", "to take out")
MARKS = ("", "line", "what differs", "read", "known from")
FINDINGS = ("mark", "stage", "line", "finding")


def headline(found: Start) -> str:
    """What was written, and how far it is."""
    return f"{found.file}: begun with {found.nearest}, {count(len(found.marks), 'place')} marked"


def circumstances(found: Start) -> str:
    """What it is held against, and what carries over."""
    return (
        f"{found.reference}, model type {found.model_type}, transformers {found.transformers}; {found.loaded} of "
        f"{found.tensors} tensors of the small config have a place"
    )


def checked(found: Start) -> str:
    """How the check on the small config went."""
    if not found.findings:
        return f"the check on the small config: {found.verdict}, no finding"
    apart = len(found.findings) - found.at_marks
    rest = "all at marks" if not apart else f"{apart} not at a mark"
    return f"the check on the small config: {found.verdict}, {count(len(found.findings), 'finding')}, {rest}"


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ranking(found: Start) -> Iterator[tuple[str, str, str, str, str]]:
    """A row for each port that one could begin with, the nearest first, then those that one could not."""
    for each in found.ranking:
        if each.distance is None:
            yield each.name, "none", each.why_not, "", ""
        else:
            yield each.name, str(each.distance), ", ".join(each.facts), _few(each.missing), _few(each.spare)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(name.partition(":")[0] if ": " in name else name for name in names))


def reads(mark: Mark) -> Iterator[str]:
    """Where to read in the reference."""
    yield from (read_at(each) for each in mark.reads)


def read_at(read: Read) -> str:
    """A class and a line."""
    place = f"{read.file}:{read.line}"
    return f"{read.name}, {place}" if read.name else place


def marks(found: Start) -> Iterator[tuple[str, str, str, str, str]]:
    """A row for each mark, in the order of the file."""
    for mark in found.marks:
        line = f"{mark.line}, {mark.where}"
        yield str(mark.number), line, mark.what, "; ".join(reads(mark)), ORIGINS[mark.origin]


def findings(found: Start) -> Iterator[tuple[str, str, str, str]]:
    """A row for each finding of the check."""
    for each in found.findings:
        number = "none" if each.mark is None else str(each.mark)
        cause = "" if each.cause == "unknown" else f" ({each.cause})"
        yield number, each.stage, "" if each.line is None else str(each.line), f"{each.title}{cause}"


def steps(found: Start) -> tuple[str, ...]:
    """What to run next."""
    return f"{found.command} --watch", f"parity ladder {found.file}{found.command.partition('--small-config')[2]}"
