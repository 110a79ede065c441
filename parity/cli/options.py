"""Options that several commands have."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Dtype(StrEnum):
    """Of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class RunDtype(StrEnum):
    """Of a check."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Port = Annotated[str, typer.Argument(help="Built-in name, file (port.py, port.py:Namespace) or dotted module.")]
ConfigFile = Annotated[
    Path | None, typer.Option(envvar="PARITY_CONFIG", help="config.json to build the models from.", metavar="FILE")
]
ConfigFrom = Annotated[
    str | None, typer.Option(envvar="PARITY_REFERENCE", help="Take config.json from here.", metavar="DIR_OR_HUB_ID")
]
Seed = Annotated[int, typer.Option(envvar="PARITY_SEED", help="Of random weights and tokens.", min=0)]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", envvar="PARITY_STAGE", help="Run this stage only (repeatable).", metavar="NAME"),
]
Gradient = Annotated[
    bool, typer.Option("--gradient/--no-gradient", envvar="PARITY_GRADIENT", help="Compare gradients as well.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Device = Annotated[str, typer.Option(envvar="PARITY_DEVICE", help="cpu, cuda or mps.")]
Tokens = Annotated[Path | None, typer.Option(help="Token ids in place of text.", metavar="FILE")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write what names no file to FILE.", metavar="FILE")
]


def formats(known: Iterable[str]) -> Any:
    """The option `--format` of a command that has these."""
    told = f"How to write it, to stdout or a file (repeatable): {', '.join(known)}."
    return typer.Option("--format", envvar="PARITY_FORMAT", help=told, metavar="F[=FILE]")
