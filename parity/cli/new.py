"""`parity new`."""

from pathlib import Path
from typing import Annotated

import typer

from parity import console
from parity.cli import outputs
from parity.cli.imports import at_once
from parity.cli.options import formats
from parity.report.formats import START


def new(
    name: Annotated[str, typer.Argument(help="What the port is called: the name of a Python module.")],
    config: Annotated[
        str, typer.Option(help="config.json, directory, Hub id, or a released architecture by its name.")
    ],
    port: Annotated[
        str | None, typer.Option("--from", help="Begin with this port; by default the nearest.", metavar="PORT")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave a port out of the choice; repeatable.", metavar="PORT")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default NAME.py.", metavar="FILE")
    ] = None,
    form: Annotated[list[str] | None, formats(START)] = None,
) -> None:
    """Begin a port: the nearest one adapted to a config, with a mark at each place that differs."""
    wanted = outputs.targets(form, None, START, "a start")
    file = output or Path(f"{name}.py")
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with at_once():
            from parity.new.start import refuse_file, refuse_name, start

        refuse_name(name)
        refuse_file(file)
        console.writable(file)
        found, text = start(name, config, port=port, without=without or (), output=file, progress=progress)
    refuse_file(file)
    console.put(text, file)
    from parity.report.new_text import render

    outputs.write(found, wanted, START, render)
