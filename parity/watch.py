"""`parity check --watch`: a session that checks again whenever the port is saved."""

import gc
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import watchfiles

from parity.errors import ParityError
from parity.names import shown
from parity.pair.modules import file_of, is_installed
from parity.pipeline import Progress, Session
from parity.records import Report

_QUIET = 20  # milliseconds without a change after which those before it count as one
_MOST = 300  # milliseconds after which they do all the same
_POLL = 500  # milliseconds after which files are looked at though nobody told of a change
_BACK = 1.0  # seconds that a file may be gone while an editor puts another in its place

Stamp = tuple[int, int, int] | None


class Screen(Protocol):
    """Where the watch is shown."""

    def busy(self) -> AbstractContextManager[Progress]:
        """A check runs meanwhile; what this gives is told what the check is doing."""

    def early(self, report: Report, seconds: float) -> None:
        """The full forward fails; lines and causes are yet to be found, and the stages above yet to be run."""

    def report(self, report: Report, before: Report | None, seconds: float) -> None:
        """A check has ended; `before` is the last report that there was."""

    def failed(self, error: str, seconds: float) -> None:
        """It could not compare, for a reason of one line."""

    def idle(self) -> None:
        """Nothing happens; called now and then."""


@dataclass(frozen=True)
class View:
    """What files looked like at one time: when each was written, how long it was, which one it was; None if not there.

    folders: those of which every Python file counts, one that is new too.
    """

    stamps: Mapping[Path, Stamp]
    folders: frozenset[Path] = frozenset()

    @classmethod
    def of(cls, files: Iterable[Path], folders: Iterable[Path] = ()) -> "View":
        """As they are now."""
        whole = frozenset(folders)
        beside = [file for folder in whole for file in folder.glob("*.py")]
        return cls({file: _stamp(file) for file in (*files, *beside)}, whole)

    def joined(self, later: "View", began: int) -> "View":
        """With what a later view has besides; what was written after `began`, in nanoseconds, counts as changed."""
        new = {file: stamp for file, stamp in later.stamps.items() if file not in self.stamps}
        now = time.time_ns()  # a clock that is ahead, of another machine, says nothing
        unseen = {file: None if stamp and began < stamp[0] <= now else stamp for file, stamp in new.items()}
        return View({**unseen, **self.stamps}, self.folders | later.folders)

    @property
    def changed(self) -> frozenset[Path]:
        """Files that are others by now, or gone, or new."""
        now = View.of(self.stamps, self.folders).stamps
        return frozenset(file for file in now if now[file] != self.stamps.get(file))

    @property
    def gone(self) -> frozenset[Path]:
        """Files that were there."""
        return frozenset(file for file, stamp in self.stamps.items() if stamp is not None and _stamp(file) is None)

    @property
    def around(self) -> set[Path]:
        """The folders of all of them that are there."""
        return {folder for folder in {file.parent for file in self.stamps} | self.folders if folder.is_dir()}


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def watch(
    make: Callable[[], Session],
    port: str,
    config: Path | None,
    screen: Screen,
    then: Callable[[Report], object] = lambda _: None,
) -> NoReturn:
    """Check a port, and again whenever one of its files changes, until somebody interrupts.

    Args:
        make: gives a session for the port; asked once more when the config changes.
        port: as on the command line.
        config: the config file, if one was named.
        screen: where it is shown.
        then: called with each report before it is shown.

    Raises:
        ParityError: there is no file to watch, or the port or the config is missing from the start.
        KeyboardInterrupt: how it ends.
    """
    named = _named(port, config)
    last: Report | None = None
    while True:
        with make() as session:
            changed: frozenset[Path] = frozenset()
            while config is None or config.resolve() not in changed:
                desk = _Desk(session, named, screen, then, last)
                view = desk.check()
                last = desk.last
                gc.collect()  # now that nobody waits: models are cycles, and the last one's memory is wanted next
                changed = _change(view, screen)


def _named(port: str, config: Path | None) -> tuple[Path, ...]:
    """The files that the command names, all of them there."""
    file = file_of(port)
    if file is None or is_installed(file):
        what = "is installed, and no file of yours" if file else "is in no file that could be watched"
        raise ParityError(f"{port} {what}", "Give a file: parity check port.py --watch.")
    for each, what in ((file, f"file {shown(str(file))}"), (config, f"config {config}")):
        if each is not None and not each.is_file():
            raise ParityError(f"there is no {what}", "Check the path.")
    return (file,) if config is None else (file, config.resolve())


@dataclass
class _Desk:
    """One check of a watch: last is the last report that there was, from this check on its own if it comes to one."""

    session: Session
    named: tuple[Path, ...]
    screen: Screen
    then: Callable[[Report], object]
    last: Report | None

    def check(self) -> View:
        """Check and show it; what the files were that it was made of."""
        before, written, began = View.of(self._files), time.time_ns(), time.perf_counter()
        folders: set[Path] = set()
        try:
            with self.screen.busy() as progress:
                report = self.session.check(
                    progress, lambda known: self.screen.early(known, time.perf_counter() - began)
                )
        except Exception as error:
            if os.environ.get("PARITY_DEBUG") and not isinstance(error, ParityError):
                raise
            told = str(error) if isinstance(error, ParityError) else f"internal error: {type(error).__name__}: {error}"
            self.screen.failed(told, time.perf_counter() - began)
            folders = {file.parent for file in self._files}  # what it lacks may be a file that nobody knows yet
        else:
            self.then(report)
            self.screen.report(report, self.last, time.perf_counter() - began)
            self.last = report
        return before.joined(View.of(self._files, folders), written)

    @property
    def _files(self) -> set[Path]:
        return {*self.session.files, *self.named}


def _change(view: View, screen: Screen) -> frozenset[Path]:
    """Wait until files are others than they were, and then until none is missing, unless that takes too long."""
    while not view.changed:
        around = view.around
        if not around:
            time.sleep(_POLL / 1000)
            continue
        with suppress(FileNotFoundError):  # a folder that goes meanwhile
            for _ in watchfiles.watch(
                *around,
                watch_filter=None,
                debounce=_MOST,
                step=_QUIET,
                rust_timeout=_POLL,
                yield_on_timeout=True,
                recursive=False,
            ):
                screen.idle()
                if view.changed or view.around != around:
                    break
    limit = time.monotonic() + _BACK
    while view.gone and time.monotonic() < limit:
        time.sleep(_QUIET / 1000)
    return view.changed
