"""`parity report`."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli import outputs
from parity.cli.check import write
from parity.cli.gate import write as write_gate
from parity.cli.options import Output, formats
from parity.report.formats import CHECK, GATE, GENERATION


def report(
    file: Annotated[Path, typer.Argument(help="What --format json of check, generate or gate wrote.", metavar="FILE")],
    form: Annotated[list[str] | None, formats(CHECK)] = None,
    output: Output = None,
    every: Annotated[bool, typer.Option("--all/--no-all", envvar="PARITY_ALL", help="Show every boundary.")] = False,
) -> None:
    """Tell a saved report again, in any format; the exit code is that of its verdict."""
    from parity.gate_records import Gate
    from parity.records import Report
    from parity.report.saved import read

    saved = read(file)
    if isinstance(saved, Report):
        write(saved, outputs.targets(form, output, CHECK, "a check"), every)
    elif isinstance(saved, Gate):
        write_gate(saved, outputs.targets(form, output, GATE, "a gate"))
    else:
        from parity.report.generation_text import render

        outputs.write(saved, outputs.targets(form, output, GENERATION, "a generation"), GENERATION, render)
    raise typer.Exit(saved.exit_code)
