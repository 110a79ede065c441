"""The command line. Exit codes: 0 parity, 1 divergence, 2 bad input or nothing compared, 3 internal error.

torch and everything that needs it is imported inside the command bodies, so that `parity --help` stays fast.
"""

import os
import signal
import sys
from collections.abc import Iterable
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from parity import __version__
from parity.cli.audit import audit
from parity.cli.card import card
from parity.cli.check import check
from parity.cli.diff import diff
from parity.cli.explain import explain
from parity.cli.gate import gate
from parity.cli.gate import settings as gate_settings
from parity.cli.generate import generate
from parity.cli.ladder import ladder
from parity.cli.new import new
from parity.cli.ports import ports
from parity.cli.report import report
from parity.cli.source import source
from parity.errors import ParityError
from parity.report.formats import AUDIT, CARD, CHECK, DIFFERENCE, GENERATION, LADDER, START

app = typer.Typer(
    name="parity",
    help="Tells where a from-scratch LLM port departs from its transformers reference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (check, gate, audit, source, generate, report, explain, ports, card, diff, new, ladder)
for _command in COMMANDS:
    app.command()(_command)

_INTERRUPTED = 130
_UNREAD = 141

# Names in [tool.parity], their types, and the parameters that they set, of every command that has one.
_SETTINGS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "config": (str, "config"),
    "reference": (str, "reference"),
    "small_config": (bool, "small_config"),
    "seed": (int, "seed"),
    "dtype": (str, "dtype"),
    "stage": (list, "stage"),
    "gradient": (bool, "gradient"),
    "device": (str, "device"),
    "max_new_tokens": (int, "max_new_tokens"),
    "format": ((str, list), "form"),
    "all": (bool, "every"),
}
_NOT_OF = {
    "audit": {"small_config"},
    "gate": {"small_config"},
    "card": {"config", "dtype"},
    "new": {"config"},
}  # always on the small config, unless told otherwise
_FORMATS: dict[str, Iterable[str]] = {
    "audit": AUDIT, "generate": GENERATION, "card": CARD, "diff": DIFFERENCE, "new": START,
    "ladder": LADDER,
}  # fmt: skip


@app.callback()
def _parity(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    from parity.settings import from_project

    if version:
        typer.echo(f"parity {__version__}")
        raise typer.Exit
    settings = from_project(Path.cwd(), {name: kind for name, (kind, _) in _SETTINGS.items()}, ("gate",))
    context.default_map = {
        command.__name__: {
            _SETTINGS[name][1]: _formats(value, command.__name__) if name == "format" else value
            for name, value in settings.items()
            if _SETTINGS[name][1] in signature(command).parameters and name not in _NOT_OF.get(command.__name__, ())
        }
        for command in COMMANDS
    }
    context.default_map["gate"] = {**context.default_map["gate"], **gate_settings(Path.cwd())}


def _formats(value: str | list[str], command: str) -> list[str]:
    """The formats that a project wants, of one command: those that others alone have are left out."""
    known = _FORMATS.get(command, CHECK)
    asked = [value] if isinstance(value, str) else value
    return [each for each in asked if (form := str(each).partition("=")[0]) in known or form not in CHECK]


def main() -> None:
    """Entry point: turns errors into one line and an exit code."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # typer returns it, click raises
            raise KeyboardInterrupt
        sys.exit(code)
    except ParityError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        _unread()
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # typer makes a 1 of it, which would be a divergence
            _unread()
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # how typer tells wrong words on the command line
            _fail(f"{error.format_message().rstrip('.')}. See parity --help.", 2)
        if os.environ.get("PARITY_DEBUG"):
            raise
        _fail(
            f"internal error: {type(error).__name__}: {error}. Set PARITY_DEBUG=1 for the traceback, and report it.", 3
        )


def _unread() -> None:
    """The reader of a pipe, such as head, has seen enough: end as other programs do then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_UNREAD)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"parity: {' '.join(message.split())}\n")
    sys.exit(code)
