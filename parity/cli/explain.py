"""`parity explain`."""

from typing import Annotated

import typer

from parity import console


def explain(
    cause: Annotated[
        str | None, typer.Argument(help="What a finding has after `cause`; a list of all without.", metavar="[CAUSE]")
    ] = None,
) -> None:
    """Tell what a cause looks like, why it happens and how to mend it."""
    from parity.report import causes

    if cause is None:
        console.show(causes.listing(), None)
        return
    text = causes.page(cause)
    if console.columns() is None:
        console.put(causes.plain(text), None)
    else:
        from rich.console import Console

        Console().print(causes.rendered(text))
