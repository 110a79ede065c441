"""`parity audit`."""

from typing import Annotated

import typer

from parity import console
from parity.cli import imports, outputs
from parity.cli.options import ConfigFile, ConfigFrom, Output, Port, Seed, formats
from parity.report.formats import AUDIT


def audit(
    port: Port,
    config: ConfigFile = None,
    reference: ConfigFrom = None,
    small_config: Annotated[
        bool, typer.Option("--small-config/--no-small-config", help="Shrink widths and depth.")
    ] = True,
    seed: Seed = 0,
    form: Annotated[list[str] | None, formats(AUDIT)] = None,
    output: Output = None,
) -> None:
    """Find out what a check of a port would fail to notice: change the reference, a thousand times, and see."""
    wanted = outputs.targets(form, output, AUDIT, "an audit")
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with imports.at_once():
            from parity.audits import audit as run

        found = run(port, config=config, reference=reference, small_config=small_config, seed=seed, progress=progress)
    from parity.report.audit_text import render

    outputs.write(found, wanted, AUDIT, lambda each, _: render(each))
