"""`parity diff`."""

from typing import Annotated

from parity import console
from parity.cli import outputs
from parity.cli.card import Architecture
from parity.cli.imports import at_once
from parity.cli.options import Output, formats
from parity.report.formats import DIFFERENCE


def diff(
    left: Architecture,
    right: Architecture,
    form: Annotated[list[str] | None, formats(DIFFERENCE)] = None,
    output: Output = None,
) -> None:
    """Hold two architectures against each other: facts, fields, modules, causes, and the lines of their ports."""
    wanted = outputs.targets(form, output, DIFFERENCE, "a difference")
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with at_once():
            from parity.card.diff import diff as run

        found = run(left, right, progress=progress)
    from parity.report.diff_text import render

    outputs.write(found, wanted, DIFFERENCE, render)
