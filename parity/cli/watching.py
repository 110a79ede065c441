"""`parity check --watch`."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from parity import console
from parity.cli import imports
from parity.cli.outputs import Target
from parity.errors import ParityError

if TYPE_CHECKING:
    from parity.records import Report

_SHOWN = ("text", "json")
Settings = tuple[bool, int, str | None, Iterable[str], bool]


def refuse_beside_watch(given: Mapping[str, object], wanted: Iterable[Target]) -> None:
    """Hold what is given beside --watch, and the formats, against what that can do.

    Raises:
        ParityError: something of it is given that a watch has no place for.
    """
    name = next((name for name, value in given.items() if value), None)
    if name is not None:
        reason = {
            "--pretrained": "Watch on random weights, with --small-config; check on the real ones when that passes.",
            "--output": "Give each file with its format: --format html=FILE is written after each check.",
        }
        raise ParityError(f"--watch and {name} are both given", reason.get(name, "Leave it out."))
    form = next((each.form for each in wanted if each.file is None and each.form not in _SHOWN), None)
    if form is not None:
        raise ParityError(f"--watch shows text or json, not {form}", f"Give it a file: --format {form}=FILE.")


def follow(
    port: str,
    config: Path | None,
    reference: str | None,
    settings: Settings,
    wanted: Iterable[Target],
    write: "Callable[[Report, Iterable[Target]], object]",
    *,
    every: bool,
) -> NoReturn:
    """Check the port, and again whenever it is saved, until somebody interrupts.

    Args:
        port, config, reference: as on the command line.
        settings: small config or not, seed, dtype, stages, gradients or not.
        wanted: formats; those that have a file are written after each check.
        write: writes a report in some formats.
        every: show all boundaries.
    """
    shown_as = next((each.form for each in wanted if each.file is None), "text")
    files = [each for each in wanted if each.file is not None]
    with console.spinner() as progress:
        progress("importing torch and transformers")
        with imports.at_once():
            from parity.pipeline import Session
            from parity.report.watch_screens import screen
            from parity.watch import watch

    small, seed, dtype, stages, gradient = settings

    def session() -> Session:
        return Session(
            port,
            config=config,
            reference=reference,
            small_config=small,
            seed=seed,
            dtype=dtype,
            stage=stages,
            gradient=gradient,
        )

    folder = Path(reference) if reference and not config else None
    described = folder / "config.json" if folder and folder.is_dir() else config
    with screen(shown_as == "json", every) as shown:
        watch(session, port, described, shown, lambda report: write(report, files) if files else None)
