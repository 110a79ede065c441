"""Where words go: the report to stdout or a file, whole or not at all; progress to stderr."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from parity.errors import ParityError

if TYPE_CHECKING:
    from rich.text import Text


def columns() -> int | None:
    """How wide the terminal is that the report goes to, None if it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def put(text: str, output: Path | None) -> None:
    """Text as it is: to stdout, or to a file."""
    if output is None:
        sys.stdout.write(text)
    else:
        _replace(output, text)


def show(lines: "Iterable[Text]", output: Path | None) -> None:
    """Styled lines: to the terminal, or plainly to a file."""
    if output is not None:
        _replace(output, "".join(f"{line.plain}\n" for line in lines))
        return
    from rich.console import Console

    terminal = Console(highlight=False)
    for line in lines:
        terminal.print(line, soft_wrap=True)


def writable(path: Path) -> None:
    """Find out before the work is done, not after."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ParityError(f"cannot write {path}", "Give a file in a directory that exists and is writable.")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    name = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            name = file.name
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
        name = None
    except OSError as error:
        raise ParityError(f"cannot write {path}: {error.strerror}", "Give another file, or free some space.") from error
    finally:  # of whatever it came to, an interruption included
        if name is not None:
            with suppress(OSError):
                Path(name).unlink()


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A spinner with the present step on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(step)
