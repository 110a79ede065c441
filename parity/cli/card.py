"""`parity card`."""

import re
from typing import Annotated

import typer

from parity import console
from parity.cli import outputs
from parity.cli.imports import at_once
from parity.cli.options import Output, formats
from parity.errors import ParityError
from parity.report.formats import CARD

Architecture = Annotated[
    str, typer.Argument(help="config.json, directory, Hub id, port, or a released architecture by its name.")
]
_UNITS = {"": 1, "k": 1024, "m": 1024**2}


def card(
    config: Architecture,
    context: Annotated[
        str | None, typer.Option(help="Tokens of context, such as 4096, 128k or 1M; by default all.", metavar="N")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences at once.", min=1)] = 1,
    dtype: Annotated[str, typer.Option(help="Of the cache: bfloat16, float32, float8, int4 ...")] = "bfloat16",
    weights_dtype: Annotated[
        str | None, typer.Option("--weights-dtype", help="Of the weights; by default that of the release.")
    ] = None,
    form: Annotated[list[str] | None, formats(CARD)] = None,
    output: Output = None,
) -> None:
    """Tell what a config says: parameters, attention, norms, positions, fields, and the memory it takes."""
    wanted = outputs.targets(form, output, CARD, "a card")
    tokens = None if context is None else length(context)
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with at_once():
            from parity.card.card import card as run

        found = run(
            config, context=tokens, batch=batch, dtype=dtype, weights_dtype=weights_dtype, progress=progress
        )  # fmt: skip
    from parity.report.card_text import render

    outputs.write(found, wanted, CARD, render)


def length(text: str) -> int:
    """Tokens as people write them: 4096, 128k, 1M.

    Raises:
        ParityError: it is no length.
    """
    found = re.fullmatch(r"([0-9][0-9_,]*)([km]?)", text.strip().lower())
    if found is None or not int(re.sub("[_,]", "", found[1])):
        raise ParityError(f"a context of {text!r} is no length", "Give tokens, such as 4096, 128k or 1M.")
    return int(re.sub("[_,]", "", found[1])) * _UNITS[found[2]]
