"""The command line. Exit codes: 0 parity, 1 divergence, 2 bad input or nothing compared, 3 internal error.

torch and everything that needs it is imported inside the command bodies, so that `parity --help` stays fast.
"""

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity import __version__, console
from parity.errors import ParityError

if TYPE_CHECKING:
    from parity.records import Report

app = typer.Typer(
    name="parity",
    help="Tells where a from-scratch LLM port departs from its transformers reference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_INTERRUPTED = 130


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


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"


_Port = Annotated[str, typer.Argument(help="Built-in name, file (port.py, port.py:Namespace) or dotted module.")]
_ConfigFile = Annotated[
    Path | None, typer.Option(envvar="PARITY_CONFIG", help="config.json to build the models from.", metavar="FILE")
]
_ConfigFrom = Annotated[
    str | None, typer.Option(envvar="PARITY_REFERENCE", help="Take config.json from here.", metavar="DIR_OR_HUB_ID")
]
_Seed = Annotated[int, typer.Option(envvar="PARITY_SEED", help="Of random weights and tokens.", min=0)]
_Form = Annotated[Format, typer.Option("--format", envvar="PARITY_FORMAT", help="How to write it.")]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to FILE.", metavar="FILE")]


# Names in [tool.parity], their types, and the parameters of `check` that they set.
_SETTINGS: dict[str, tuple[type, str]] = {
    "config": (str, "config"),
    "reference": (str, "reference"),
    "small_config": (bool, "small_config"),
    "seed": (int, "seed"),
    "dtype": (str, "dtype"),
    "stage": (list, "stage"),
    "gradient": (bool, "gradient"),
    "format": (str, "form"),
    "all": (bool, "every"),
}

_AUDIT_SETTINGS = ("config", "reference", "seed", "format")  # always on the small config, unless told otherwise
_GENERATE_SETTINGS = ("dtype", "format")


@app.callback()
def _parity(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    from parity.settings import from_project

    if version:
        typer.echo(f"parity {__version__}")
        raise typer.Exit
    settings = from_project(Path.cwd(), {name: kind for name, (kind, _) in _SETTINGS.items()})
    context.default_map = {
        "check": {_SETTINGS[name][1]: value for name, value in settings.items()},
        "source": {name: settings[name] for name in ("config", "reference") if name in settings},
        "audit": {_SETTINGS[name][1]: settings[name] for name in _AUDIT_SETTINGS if name in settings},
        "generate": {_SETTINGS[name][1]: settings[name] for name in _GENERATE_SETTINGS if name in settings},
    }


@app.command()
def check(
    port: _Port,
    config: _ConfigFile = None,
    reference: _ConfigFrom = None,
    small_config: Annotated[
        bool,
        typer.Option(
            "--small-config/--no-small-config",
            envvar="PARITY_SMALL_CONFIG",
            help="Shrink widths and depth.",
        ),
    ] = False,
    seed: _Seed = 0,
    dtype: Annotated[
        RunDtype | None,
        typer.Option(
            envvar="PARITY_DTYPE",
            help="Of the weights, and of the runs max and mean are taken from: float32 unless given. "
            "With --pretrained, that of the runs: float64 unless given.",
        ),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(envvar="PARITY_STAGE", help="Run this stage only (repeatable).", metavar="NAME"),
    ] = None,
    gradient: Annotated[
        bool, typer.Option("--gradient/--no-gradient", envvar="PARITY_GRADIENT", help="Compare gradients as well.")
    ] = False,
    pretrained: Annotated[
        str | None,
        typer.Option(envvar="PARITY_PRETRAINED", help="Compare on these weights.", metavar="DIR_OR_HUB_ID"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    max_blocks: Annotated[int | None, typer.Option(help="Compare the first N blocks.", metavar="N")] = None,
    device: Annotated[str, typer.Option(envvar="PARITY_DEVICE", help="cpu, cuda or mps.")] = "cpu",
    prompt: Annotated[str | None, typer.Option(help="Text to run on.", metavar="TEXT")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Token ids in place of text.", metavar="FILE")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
    ] = False,
    form: _Form = Format.text,
    output: _Output = None,
    every: Annotated[bool, typer.Option("--all/--no-all", envvar="PARITY_ALL", help="Show every boundary.")] = False,
) -> None:
    """Compare a port with its reference, boundary by boundary."""
    if output is not None:
        console.writable(output)
    with console.blocks() if pretrained else console.phrases() as (progress, step):
        progress("importing torch and transformers")
        from parity.pipeline import check as run

        report = run(
            port,
            config=config,
            reference=reference,
            small_config=small_config,
            seed=seed,
            dtype=dtype.value if dtype else None,
            stage=stage or (),
            gradient=gradient,
            pretrained=pretrained,
            revision=revision,
            max_blocks=max_blocks,
            device=device,
            prompt=prompt,
            tokens=tokens,
            trust_remote_code=trust_remote_code,
            progress=progress,
            step=step,
        )
    _write(report, form, output, every)
    raise typer.Exit(report.exit_code)


@app.command()
def audit(
    port: _Port,
    config: _ConfigFile = None,
    reference: _ConfigFrom = None,
    small_config: Annotated[
        bool, typer.Option("--small-config/--no-small-config", help="Shrink widths and depth.")
    ] = True,
    seed: _Seed = 0,
    form: _Form = Format.text,
    output: _Output = None,
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


@app.command()
def source(
    port: _Port,
    module: Annotated[
        str | None,
        typer.Argument(help="Module of the reference: its name, {} for numbers, or the end of it; a list without."),
    ] = None,
    config: _ConfigFile = None,
    reference: _ConfigFrom = None,
) -> None:
    """Print the reference's code as it runs: inheritance, decorators and registries resolved."""
    with console.spinner() as progress:
        progress("importing torch and transformers")
        from parity.sources import render
        from parity.sources import source as run

        listing = run(port, module, config=config, reference=reference, progress=progress)
    console.show(render(listing), None)


@app.command()
def generate(
    port: Annotated[
        str | None, typer.Argument(help="As for check; by default the port of the checkpoint that comes with Parity.")
    ] = None,
    compare_hf: Annotated[
        bool, typer.Option("--compare-hf/--no-compare-hf", help="Compare with the reference, token by token.")
    ] = False,
    pretrained: Annotated[
        str | None, typer.Option(envvar="PARITY_PRETRAINED", help="Weights to use.", metavar="DIR_OR_HUB_ID")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to continue (repeatable: a batch).", metavar="TEXT")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help="Token ids in place of text.", metavar="FILE")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts as a user's turn in the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="The most to generate per prompt.", metavar="N")] = 64,
    dtype: Annotated[Dtype, typer.Option(envvar="PARITY_DTYPE", help="That both models run in.")] = Dtype.float32,
    device: Annotated[str, typer.Option(envvar="PARITY_DEVICE", help="cpu, cuda or mps.")] = "cpu",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Decode with a cache, on both sides.")] = True,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
    ] = False,
    form: _Form = Format.text,
    output: _Output = None,
    do_sample: Annotated[bool, typer.Option("--do-sample", hidden=True)] = False,
    temperature: Annotated[float | None, typer.Option(hidden=True)] = None,
    top_k: Annotated[int | None, typer.Option(hidden=True)] = None,
    top_p: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Generate greedy text with a port, and compare it with the reference's, token by token."""
    sampling = {"--do-sample": do_sample or None, "--temperature": temperature, "--top-k": top_k, "--top-p": top_p}
    refused = [name for name, value in sampling.items() if value is not None]
    if refused:
        raise ParityError(
            f"{refused[0]}: greedy text can be compared token by token, sampled text cannot",
            f"Leave {' and '.join(refused)} out.",
        )
    if output is not None:
        console.writable(output)
    with console.watching(form is Format.text and output is None) as watcher:
        watcher.progress("importing torch and transformers")
        from parity.generation import generate as run

        found = run(
            port,
            compare_hf=compare_hf,
            pretrained=pretrained,
            revision=revision,
            prompt=prompt or (),
            tokens=tokens,
            chat=chat,
            max_new_tokens=max_new_tokens,
            dtype=dtype.value,
            device=device,
            cache=cache,
            trust_remote_code=trust_remote_code,
            watcher=watcher,
        )
    from parity.report import generation_json, generation_text

    if form is Format.json:
        console.put(generation_json.render(found), output)
    else:
        console.show(generation_text.render(found, None if output else console.columns()), output)
    raise typer.Exit(found.exit_code)


def _write(report: "Report", form: Format, output: Path | None, every: bool) -> None:
    if form is Format.json:
        from parity.report.json import render as render_json

        console.put(render_json(report), output)
        return
    from parity.report.text import render as render_text

    console.show(render_text(report, every, None if output else console.columns()), output)


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
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if hasattr(error, "format_message"):  # how typer tells wrong words on the command line
            _fail(f"{error.format_message().rstrip('.')}. See parity --help.", 2)
        if os.environ.get("PARITY_DEBUG"):
            raise
        _fail(
            f"internal error: {type(error).__name__}: {error}. Set PARITY_DEBUG=1 for the traceback, and report it.", 3
        )


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"parity: {' '.join(message.split())}\n")
    sys.exit(code)
