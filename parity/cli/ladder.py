"""`parity ladder`."""

from typing import Annotated

import typer

from parity import console
from parity.cli import outputs
from parity.cli.imports import at_once
from parity.cli.options import ConfigFile, ConfigFrom, Gradient, Output, Port, Seed, formats
from parity.report.formats import LADDER


def ladder(
    port: Port,
    config: ConfigFile = None,
    reference: ConfigFrom = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            envvar="PARITY_PRETRAINED", help="Compare and generate with these weights.", metavar="DIR_OR_HUB_ID"
        ),
    ] = None,
    gradient: Gradient = False,
    seed: Seed = 0,
    form: Annotated[list[str] | None, formats(LADDER)] = None,
    output: Output = None,
) -> None:
    """Tell how far a port is: every step from the config to generated text, and what to run next."""
    wanted = outputs.targets(form, output, LADDER, "a ladder")
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with at_once():
            from parity.workflow import ladder as run

        found = run(
            port,
            config=config,
            reference=reference,
            pretrained=pretrained,
            gradient=gradient,
            seed=seed,
            progress=progress,
        )
    from parity.report.ladder_text import render

    outputs.write(found, wanted, LADDER, render)
    raise typer.Exit(found.exit_code)
