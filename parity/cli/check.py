"""`parity check`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from parity import console
from parity.cli import imports, outputs
from parity.cli.options import (
    ConfigFile,
    ConfigFrom,
    Device,
    Gradient,
    Output,
    Port,
    Revision,
    RunDtype,
    Seed,
    Stages,
    Tokens,
    Trust,
    formats,
)
from parity.cli.watching import follow, refuse_beside_watch
from parity.report.formats import CHECK

if TYPE_CHECKING:
    from parity.records import Report


def check(
    port: Port,
    config: ConfigFile = None,
    reference: ConfigFrom = None,
    small_config: Annotated[
        bool,
        typer.Option(
            "--small-config/--no-small-config",
            envvar="PARITY_SMALL_CONFIG",
            help="Shrink widths and depth.",
        ),
    ] = False,
    seed: Seed = 0,
    dtype: Annotated[
        RunDtype | None,
        typer.Option(
            envvar="PARITY_DTYPE",
            help="Of the weights, and of the runs max and mean are taken from: float32 unless given. "
            "With --pretrained, that of the runs: float64 unless given.",
        ),
    ] = None,
    stage: Stages = None,
    gradient: Gradient = False,
    pretrained: Annotated[
        str | None,
        typer.Option(envvar="PARITY_PRETRAINED", help="Compare on these weights.", metavar="DIR_OR_HUB_ID"),
    ] = None,
    revision: Revision = None,
    max_blocks: Annotated[int | None, typer.Option(help="Compare the first N blocks.", metavar="N")] = None,
    device: Device = "cpu",
    prompt: Annotated[str | None, typer.Option(help="Text to run on.", metavar="TEXT")] = None,
    tokens: Tokens = None,
    trust_remote_code: Trust = False,
    form: Annotated[list[str] | None, formats(CHECK)] = None,
    output: Output = None,
    every: Annotated[bool, typer.Option("--all/--no-all", envvar="PARITY_ALL", help="Show every boundary.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Check again whenever the port is saved.")] = False,
) -> None:
    """Compare a port with its reference, boundary by boundary."""
    wanted = outputs.targets(form, output, CHECK, "a check")
    if watch:
        for_checkpoints = (revision, max_blocks, prompt, tokens, trust_remote_code, device != "cpu")
        other = {"an option for real checkpoints": any(for_checkpoints)}
        refuse_beside_watch({"--pretrained": pretrained, "--output": output, **other}, wanted)
        settings = (small_config, seed, dtype.value if dtype else None, stage or (), gradient)
        follow(port, config, reference, settings, wanted, lambda each, files: write(each, files, every), every=every)
    with console.blocks() if pretrained else console.phrases() as (progress, step):
        progress("importing torch and transformers")
        with imports.at_once():
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
    write(report, wanted, every)
    raise typer.Exit(report.exit_code)


def write(report: "Report", wanted: Iterable[outputs.Target], every: bool) -> None:
    """A report in all the formats that are wanted; every: with every boundary, in text."""
    from parity.report.markdown import summary
    from parity.report.text import render

    outputs.write(report, wanted, CHECK, lambda each, width: render(each, every, width), summary)
