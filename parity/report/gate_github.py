"""A gate as workflow commands of GitHub: the first finding of each case first, as only so many are shown."""

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from parity.gate_records import Gate, Result
from parity.report import gate_words, words
from parity.report.github import SHOWN, command, commands
from parity.report.markdown import fitting


def render(gate: Gate) -> str:
    """The gate as commands, a line each."""
    return "".join(f"{line}\n" for line in _lines(gate))


def summary(gate: Gate, room: int) -> str:
    """The gate as Markdown for a job summary, in at most `room` bytes."""
    from parity.report.gate_markdown import blocks

    return fitting(blocks(gate, 2), room)


def _lines(gate: Gate) -> Iterator[str]:
    told = [command("error", "Parity: the gate", each, {}) for each in gate_words.problems(gate)]
    turns = zip_longest(*(list(_errors(result)) for result in gate.results if result.verdict != "pass"))
    errors = [each for each in (*told, *chain.from_iterable(turns)) if each is not None]
    yield from errors[:SHOWN]
    if len(errors) > SHOWN:
        yield command("notice", "Parity", f"{len(errors) - SHOWN} more, after the first {SHOWN}", {})
    title = f"Parity: {words.VERDICTS[gate.verdict]}"
    yield command("notice", title, "\n".join([gate_words.headline(gate), *gate.notes]), {})


def _errors(result: Result) -> Iterator[str]:
    prefix = f"{result.case.name}: "
    if result.report is None:
        yield command("error", f"{prefix}Parity could not compare", result.problem, _file(result))
        return
    if result.report.verdict != "pass":
        yield from (each for each in commands(result.report, prefix) if each.startswith("::error"))
    for each in result.lost:
        yield command("error", f"{prefix}less cover than the baseline", each.text, _file(result))


def _file(result: Result) -> dict[str, str]:
    path = result.case.port.partition(".py:")[0] + ".py" if ".py:" in result.case.port else result.case.port
    return {"file": path} if path.endswith(".py") and Path(path).is_file() else {}
