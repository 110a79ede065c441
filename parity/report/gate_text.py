"""A gate's summary for people: the verdict, a table of the cases, what is wrong with each, notes."""

import io
import shlex
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.gate_records import Gate, Result
from parity.report import gate_words, words

_STYLES = {"pass": "green", "fail": "bold red", "incomplete": "bold yellow"}
_SHOWN = 8  # sentences of one case
_WIDE = 100_000  # columns: nothing is cut off a terminal


def render(gate: Gate, width: int | None = None) -> Iterator[Text]:
    """The summary line by line, styled; `width` of the terminal, None off one."""
    yield Text.assemble((words.VERDICTS[gate.verdict], _STYLES[gate.verdict]), f"  {gate_words.headline(gate)}")
    if not gate.results and not gate.lost:
        yield from _notes(gate)
        return
    yield Text(f"      {gate_words.circumstances(gate)}", "dim")
    if gate.trials:
        whole = all(trial.verdict == "seen" for trial in gate.trials)
        yield Text(f"      {gate_words.self_test(gate)}", "dim" if whole else "bold yellow")
    yield Text()
    yield from _table(gate)
    for problem in gate_words.problems(gate):
        yield Text.assemble("\n", (problem, "bold"))
    for result in gate.results:
        yield from _details(result, gate.options)
    yield from _notes(gate)


def _notes(gate: Gate) -> Iterator[Text]:
    if gate.notes:
        yield Text("\nNotes", "bold")
        yield from (Text(f"  {note}") for note in gate.notes)


def _table(gate: Gate) -> Iterator[Text]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("case", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("stages", no_wrap=True)
    for name in ("compared", "exact", "seconds", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in gate.results:
        verdict = Text(words.VERDICTS[each.verdict], _STYLES[each.verdict])
        figures = (*gate_words.places(each), f"{each.seconds:.1f}", f"{each.memory / 2**20:,.0f}")
        table.add_row(Text(each.case.name), verdict, Text(gate_words.stages(each)), *figures)
    told = io.StringIO()
    Console(file=told, width=_WIDE, force_terminal=True, color_system="standard").print(table)
    for line in told.getvalue().splitlines():
        text = Text.from_ansi(line)
        text.rstrip()
        yield text


def _details(result: Result, options: tuple[str, ...]) -> Iterator[Text]:
    told = list(gate_words.says(result)) if result.verdict != "pass" else []
    if not told:
        return
    yield Text.assemble("\n", (result.case.name, _STYLES[result.verdict]))
    yield from (Text(f"  {each}") for each in told[:_SHOWN])
    if len(told) > _SHOWN:
        yield Text(f"  and {len(told) - _SHOWN} more, which --format json has", "dim")
    if result.report is not None and result.report.verdict == "fail":
        yield Text(f"  all of it: {_command(result, options)}", "dim")


def _command(result: Result, options: tuple[str, ...]) -> str:
    """The check that a case is."""
    case = result.case
    more = [f"--config {shlex.quote(case.config)}"] if case.config else []
    more += [f"--dtype {case.dtype}"] if case.dtype else []
    return " ".join(["parity check", shlex.quote(case.port), *more, *options])
