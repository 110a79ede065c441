"""The checks of one test session: each is made once, whichever test, and whichever process of xdist, asks first."""

import hashlib
import json
import os
import pickle
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from parity.errors import ParityError
from parity.generation_records import Generation
from parity.records import STAGES, Report, Stage

if TYPE_CHECKING:
    from filelock import FileLock
    from rich.text import Text

BY_DEFAULT = tuple(name for name in STAGES if name != "gradient")  # that one is on request
Found = Report | Generation
_FILES = ("config", "reference", "pretrained", "tokens")  # options that name a file or a folder
_UNTOLD = ("progress", "step", "watcher")  # change nothing in what a check finds


class NotParity(AssertionError):
    """A port is not as its reference is, or could not be compared: the first thing to mend.

    `str()` of it is the message in plain text, `styled` the same with escape sequences for colours.
    """

    def __init__(self, lines: "list[Text] | list[str]"):
        self.plain, self.styled = _drawn(lines)
        super().__init__(self.plain)


@dataclass(frozen=True)
class Wanted:
    """One call of `parity.check` or of `parity.generate`."""

    command: str
    port: object
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shared(self) -> bool:
        """Whether another process can mean the same: a port that is a Python object is known to this one alone."""
        return self.port is None or isinstance(self.port, str | Path)

    @property
    def key(self) -> str:
        """The same for calls that find the same, as long as the files that they name stay as they are."""
        port = str(self.port) if self.shared else f"{id(self.port)}"
        options = {name: _plain(value) for name, value in self.options.items() if name not in _UNTOLD}
        files = [_digest(each) for each in (port, *map(str, options.values()))]
        return hashlib.sha256(json.dumps([self.command, port, options, files], sort_keys=True).encode()).hexdigest()

    @property
    def command_line(self) -> str:
        """What shows the whole report; empty for a port that has no name."""
        if not self.shared:
            return ""
        words = ["parity", self.command, *([str(self.port)] if self.port is not None else [])]
        for name, value in self.options.items():
            flag = f"--{name.replace('_', '-')}"
            if name == "cache" and value is False:
                words.append("--no-cache")
            elif name in _UNTOLD or value in (None, 0, "", "cpu"):  # as it is by default; so is False
                continue
            elif isinstance(value, list | tuple | set):
                words += [word for each in value for word in (flag, str(each))]
            else:
                words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)


def wanted(command: str, port: object, options: Mapping[str, Any], root: Path) -> Wanted:
    """A call, in which files are found in the working directory, else in `root`, wherever pytest was started from."""
    return Wanted(
        command,
        _found(port, root),
        {name: _found(value, root) if name in _FILES else value for name, value in options.items()},
    )


def _found(value: object, root: Path) -> object:
    if not isinstance(value, str | Path):
        return value
    path = file_of(str(value))
    elsewhere = not path.exists() and (root / path).exists()
    return os.path.relpath(root / value) if elsewhere else value


class Checks:
    """Makes checks and keeps what they find, for as long as a session lasts.

    folder: where processes that share a session keep it, so that a check is made by one of them; None for one process.
    planned: calls that will come, which a process makes rather than wait for another.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder
        self.planned: Sequence[Wanted] = ()
        self._kept: dict[str, tuple[Wanted, Found | ParityError]] = {}

    def report(self, wanted: Wanted) -> Report:
        """What `parity.check` finds.

        Raises:
            NotParity: it says that its input is bad.
        """
        found = self._found(wanted)
        assert isinstance(found, Report)
        return found

    def generation(self, wanted: Wanted) -> Generation:
        """What `parity.generate` finds; raises as `report` does."""
        found = self._found(wanted)
        assert isinstance(found, Generation)
        return found

    def _found(self, wanted: Wanted) -> Found:
        key = wanted.key
        if key not in self._kept:  # with the call: the id of a port that is gone can be another's
            self._kept[key] = wanted, self._made(wanted, key)
        found = self._kept[key][1]
        if isinstance(found, ParityError):
            raise NotParity([str(found)]) from None
        return found

    def _made(self, call: Wanted, key: str) -> Found | ParityError:
        if self._folder is None or not call.shared:
            return _run(call)
        self._folder.mkdir(parents=True, exist_ok=True)
        saved = self._folder / key
        while not saved.exists():  # while another process is at it, those that are planned can be made
            if not (_claimed(saved, call) or any(_claimed(self._folder / each.key, each) for each in self.planned)):
                with _lock(saved):
                    pass
        return _read(saved)


def _claimed(saved: Path, call: Wanted) -> bool:
    """Make a check and save what it found, unless that is done or another process is at it."""
    from filelock import Timeout

    if saved.exists():
        return False
    try:
        with _lock(saved).acquire(timeout=0):
            if saved.exists():
                return False
            part = saved.with_suffix(".part")
            part.write_bytes(pickle.dumps(_run(call)))
            part.replace(saved)
            return True
    except Timeout:
        return False


def _lock(saved: Path) -> "FileLock":
    """What a process holds while it makes a check; let go of when it ends, however that is."""
    from filelock import FileLock

    return FileLock(saved.with_suffix(".lock"))


def judge(report: Report, wanted: Wanted) -> Report:
    """The report again, of a port in which everything that was asked for was compared and nothing is wrong.

    Raises:
        NotParity: anything else.
    """
    if report.verdict == "fail":
        differs(report, None, wanted)
    if report.verdict == "incomplete":
        from parity.report import first

        gaps = [stage for stage in report.stages if stage.requested and stage.verdict == "not_run"]
        raise NotParity(first.of_gap(report, gaps, wanted.command_line))
    return report


def judge_stage(report: Report, name: str, wanted: Wanted, asked: bool) -> Stage:
    """One stage of a report; with the verdict `not_run` only if it was not asked for by name.

    Raises:
        NotParity: it failed, or was asked for and could not run.
    """
    stage = next(stage for stage in report.stages if stage.name == name)
    if stage.verdict == "fail":
        differs(report, name, wanted)
    if stage.verdict == "not_run" and asked:
        from parity.report import first

        raise NotParity(first.of_gap(report, [stage], wanted.command_line))
    return stage


def differs(report: Report, stage: str | None, wanted: Wanted) -> NoReturn:
    """Raise the first finding of a stage, or of all."""
    from parity.report import first

    raise NotParity(first.of_report(report, stage, wanted.command_line))


def judge_generation(generation: Generation, wanted: Wanted) -> Generation:
    """The generation again, of text that is the reference's but for near-ties.

    Raises:
        NotParity: it is another.
    """
    if generation.verdict != "pass":
        from parity.report import first

        raise NotParity(first.of_generation(generation, wanted.command_line))
    return generation


def _run(wanted: Wanted) -> Found | ParityError:
    import parity

    try:
        made: Found = getattr(parity, wanted.command)(wanted.port, **wanted.options)
    except ParityError as error:
        return ParityError(error.problem, error.next_step)  # without what it holds on to
    if isinstance(made, Report) and made.interrupted:
        raise KeyboardInterrupt
    return made


def _read(saved: Path) -> Found | ParityError:
    """What another process of the session wrote; it has the same versions of everything."""
    found: Found | ParityError = pickle.loads(saved.read_bytes())
    return found


def _plain(value: object) -> object:
    """An option as JSON can hold it; one text or path and several are told apart."""
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _digest(name: str) -> str:
    """Where a file or folder is, and what is in the file; empty for what is neither."""
    try:
        path = file_of(name).resolve(strict=True)
        return f"{path} {hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ''}"
    except (OSError, ValueError):
        return ""


def file_of(name: str) -> Path:
    """The file of `port.py` and of `port.py:Namespace`."""
    return Path(name.partition(".py:")[0] + ".py" if ".py:" in name else name)


def _drawn(lines: "list[Text] | list[str]") -> tuple[str, str]:
    """Lines in plain text, and with escape sequences."""
    from rich.console import Console

    plain = "\n".join(line if isinstance(line, str) else line.plain for line in lines)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, force_terminal=True, color_system="standard", highlight=False, markup=False)
        with console.capture() as captured:
            for line in lines:
                console.print(line, soft_wrap=True)
    return plain, captured.get().rstrip("\n")
