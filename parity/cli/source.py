"""`parity source`."""

from typing import Annotated

import typer

from parity import console
from parity.cli import imports
from parity.cli.options import ConfigFile, ConfigFrom, Port


def source(
    port: Port,
    module: Annotated[
        str | None,
        typer.Argument(help="Module of the reference: its name, {} for numbers, or the end of it; a list without."),
    ] = None,
    config: ConfigFile = None,
    reference: ConfigFrom = None,
) -> None:
    """Print the reference's code as it runs: inheritance, decorators and registries resolved."""
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with imports.at_once():
            from parity.sources import render
            from parity.sources import source as run

        listing = run(port, module, config=config, reference=reference, progress=progress)
    console.show(render(listing), None)
