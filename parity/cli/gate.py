"""`parity gate`."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parity.cli import outputs
from parity.cli.options import Gradient, Output, Seed, Stages, formats
from parity.errors import ParityError
from parity.records import STAGES
from parity.report.formats import GATE

if TYPE_CHECKING:
    from parity.gate_records import Gate

INTERRUPTED = 130

# Names in [tool.parity.gate], their types, and the parameters that they set.
SETTINGS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "ports": (list, "ports"),
    "configs": (list, "configs"),
    "dtypes": (list, "dtypes"),
    "stages": (list, "stage"),
    "gradient": (bool, "gradient"),
    "small_config": (bool, "small_config"),
    "seed": (int, "seed"),
    "jobs": (int, "jobs"),
    "timeout": ((int, float), "timeout"),
    "memory": (int, "memory"),
    "baseline": (str, "baseline"),
    "self_test": (bool, "self_test"),
    "format": ((str, list), "form"),
}


def settings(start: Path) -> dict[str, Any]:
    """Defaults from [tool.parity.gate], by parameter; files in it are as seen from the file's directory.

    Raises:
        ParityError: a setting does not exist, or has the wrong type.
    """
    from parity.settings import file_for, from_table

    found = from_table(start, "gate", {name: kind for name, (kind, _) in SETTINGS.items()})
    path = file_for(start)
    if path is None or not found:
        return {}
    for name in ("ports", "configs"):
        if name in found:
            found[name] = [_moved(each, path.parent, start) for each in found[name]]
    if "baseline" in found:
        found["baseline"] = os.path.relpath(path.parent / found["baseline"], start)
    if isinstance(found.get("format"), str):
        found["format"] = [found["format"]]
    return {SETTINGS[name][1]: value for name, value in found.items()}


def _moved(given: str, root: Path, here: Path) -> str:
    """A file of the settings, as seen from here; a name as it is."""
    is_file = "/" in given or os.sep in given or ".py" in given or given.endswith(".json")
    return os.path.relpath(root / given, here) if is_file else given


def gate(
    context: typer.Context,
    ports: Annotated[
        list[str] | None,
        typer.Argument(help="Names, files, globs, dotted modules.", metavar="PORTS", show_default=False),
    ] = None,
    configs: Annotated[
        list[str] | None,
        typer.Option("--config", help="A config.json, or a glob, for every port (repeatable).", metavar="FILE"),
    ] = None,
    dtypes: Annotated[
        list[str] | None, typer.Option("--dtype", help="Of the weights (repeatable).", metavar="DTYPE")
    ] = None,
    stage: Stages = None,
    gradient: Gradient = False,
    small_config: Annotated[
        bool, typer.Option("--small-config/--no-small-config", help="Shrink widths and depth.")
    ] = True,
    seed: Seed = 0,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Processes side by side: as many as cores.", min=1, metavar="N")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one check may take.", min=0.1, metavar="S")] = 600.0,
    memory: Annotated[
        int | None, typer.Option(help="MiB that one check may take: no limit.", min=1, metavar="MIB")
    ] = None,
    changed_since: Annotated[
        str | None, typer.Option(help="Only ports of which a file changed since this revision.", metavar="REV")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="What was covered before: parity-baseline.json, if it is there.", metavar="FILE"),
    ] = None,
    update_baseline: Annotated[bool, typer.Option("--update-baseline", help="Write it, if everything passes.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Put a fault into each stage first, and see it caught.")
    ] = False,
    self_test_all: Annotated[
        bool, typer.Option("--self-test-all", help="The same with every port, not with one.")
    ] = False,
    form: Annotated[list[str] | None, formats(GATE)] = None,
    output: Output = None,
) -> None:
    """Check several ports side by side, against what was covered before."""
    from parity.gate.baseline import NAME
    from parity.gate.cases import make
    from parity.gate.progress import watching
    from parity.gate.run import Plan, run
    from parity.gate.workers import Limits
    from parity.gate_records import Wanted
    from parity.settings import file_for

    wanted = [
        replace(each, file=each.file.absolute() if each.file else None)
        for each in outputs.targets(form, output, GATE, "a gate")
    ]
    unknown = [name for name in stage or () if name not in STAGES]
    if unknown:
        raise ParityError(f"there is no stage {unknown[0]!r}", f"Stages are {', '.join(STAGES)}.")
    here = Path.cwd()
    project = file_for(here)
    root = here if project is None else project.parent
    selecting = ("ports", "configs", "dtypes")
    plan = Plan(
        cases=tuple(make(ports or (), configs or (), dtypes or (), here, root)),
        wanted=Wanted(tuple(stage or ()), gradient, small_config, seed),
        limits=Limits(jobs or _cores(), timeout, memory * 2**20 if memory else None),
        root=root,
        whole=not any(_is_given(context, name) for name in selecting),
        since=changed_since or "",
        baseline=baseline.absolute() if baseline else root / NAME,
        needs_baseline=baseline is not None,
        update=update_baseline,
        self_test=self_test,
        self_test_all=self_test_all,
    )
    with watching() as watcher:
        found = run(plan, watcher)
    with contextlib.chdir(root):  # where the files that a report names are named from
        write(found, wanted)
    raise typer.Exit(INTERRUPTED if found.interrupted else found.exit_code)


def write(found: "Gate", wanted: Iterable[outputs.Target]) -> None:
    """A gate in all the formats that are wanted."""
    from parity.report.gate_github import summary
    from parity.report.gate_text import render

    outputs.write(found, wanted, GATE, render, summary)


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter comes from the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
