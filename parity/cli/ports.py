"""`parity ports`."""

from typing import Annotated

import typer

from parity import console
from parity.errors import ParityError


def ports(
    form: Annotated[str, typer.Option("--format", help="text or json.", metavar="FORMAT")] = "text",
) -> None:
    """List the ports that come with Parity, and those that installed packages add."""
    from parity.listing import listed
    from parity.report import ports_text

    if form not in ("text", "json"):
        raise ParityError(f"there is no format {form!r} for a list of ports", "Those are text, json.")
    found = listed()
    if form == "json":
        console.put(ports_text.as_json(found), None)
    else:
        console.show(ports_text.render(found), None)
