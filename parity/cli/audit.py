"""`parity audit`."""

from typing import Annotated

import typer

from parity import console
from parity.cli.options import ConfigFile, ConfigFrom, Form, Format, Output, Port, Seed


def audit(
    port: Port,
    config: ConfigFile = None,
    reference: ConfigFrom = None,
    small_config: Annotated[
        bool, typer.Option("--small-config/--no-small-config", help="Shrink widths and depth.")
    ] = True,
    seed: Seed = 0,
    form: Form = Format.text,
    output: Output = None,
) -> None:
    """Find out what a check of a port would fail to notice: change the reference, a thousand times, and see."""
    if output is not None:
        console.writable(output)
    with console.spinner() as progress:
        progress("importing torch and transformers")
        from parity.audits import audit as run

        found = run(port, config=config, reference=reference, small_config=small_config, seed=seed, progress=progress)
    from parity.report import audit_json, audit_text

    if form is Format.json:
        console.put(audit_json.render(found), output)
    else:
        console.show(audit_text.render(found), output)
