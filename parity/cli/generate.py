"""`parity generate`."""

from typing import Annotated

import typer

from parity import console
from parity.cache_records import Limits, known
from parity.cli import imports, outputs
from parity.cli.options import Device, Dtype, Output, Revision, Tokens, Trust, formats
from parity.errors import ParityError
from parity.report.formats import GENERATION


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
    revision: Revision = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to continue (repeatable: a batch).", metavar="TEXT")
    ] = None,
    tokens: Tokens = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts as a user's turn in the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="The most to generate per prompt.", metavar="N")] = 64,
    dtype: Annotated[Dtype, typer.Option(envvar="PARITY_DTYPE", help="That both models run in.")] = Dtype.float32,
    device: Device = "cpu",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Decode with a cache, on both sides.")] = True,
    cache_dtype: Annotated[
        list[str] | None,
        typer.Option(help="Store the port's cache so, and compare (repeatable): int8, turbo4 ...", metavar="D"),
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Of such a cache: the largest mean divergence, in nats.", metavar="NATS")
    ] = None,
    max_cache_error: Annotated[
        float | None, typer.Option(help="Of such a cache: the largest relative error stored.", metavar="X")
    ] = None,
    trust_remote_code: Trust = False,
    form: Annotated[list[str] | None, formats(GENERATION)] = None,
    output: Output = None,
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
    known(cache_dtype or (), cache, Limits(max_kl, max_cache_error))
    wanted = outputs.targets(form, output, GENERATION, "a generation")
    with console.watching(outputs.Target("text") in wanted) as watcher:
        watcher.progress("importing torch and transformers")
        with imports.at_once():
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
            cache_dtypes=cache_dtype or (),
            max_kl=max_kl,
            max_cache_error=max_cache_error,
            trust_remote_code=trust_remote_code,
            watcher=watcher,
        )
    from parity.report.generation_text import render

    outputs.write(found, wanted, GENERATION, render)
    raise typer.Exit(found.exit_code)
