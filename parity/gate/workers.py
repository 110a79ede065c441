"""Processes for cases: so many side by side, each with its own limits, none able to hurt another."""

import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from parity.gate.child import LOG, Job, work
from parity.names import shown

_LOOK = 0.1  # seconds between looks at time and memory
_STACK = 0.5  # seconds for a process that hangs to say where
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
_NOT_THE_PORTS = (
    "site-packages",
    "dist-packages",
    f"{os.sep}lib{os.sep}python",
    f"{Path(__file__).parents[1]}{os.sep}",
)
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"}


@dataclass(frozen=True)
class Limits:
    """jobs side by side; seconds and bytes for each, with its children; bytes None for as many as there are."""

    jobs: int
    timeout: float
    memory: int | None = None


@dataclass(frozen=True)
class Ended:
    """A job that is over: what it returned, or why it returned nothing and what to do next."""

    job: Job
    value: Any = None
    problem: str = ""
    seconds: float = 0.0
    memory: int = 0


@dataclass
class _Running:
    job: Job
    process: Any
    connection: Connection
    folder: Path
    began: float = field(default_factory=time.monotonic)
    memory: int = 0
    value: Any = None
    problem: str = ""
    over: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


Tell = Callable[[str, str], object]


class Pool:
    """Runs jobs; `with` ends whatever still runs."""

    def __init__(self, limits: Limits, tell: Tell = lambda *_: None):
        """`tell` is called with a job's name and a phrase, when it begins and whenever it goes on to something else."""
        self.memory = 0
        self._limits = limits
        self._tell = tell
        self._waiting: deque[Job] = deque()
        self._running: list[_Running] = []
        self._context = _context()
        self._folder = tempfile.TemporaryDirectory(prefix="parity-")
        self._number = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            _kill(running)
        self._running.clear()
        self._folder.cleanup()

    def add(self, job: Job, first: bool = False) -> None:
        """Put a job at the end of the queue, or in front of it."""
        (self._waiting.appendleft if first else self._waiting.append)(job)

    def ended(self) -> Iterator[Ended]:
        """Jobs as they end, until there is none left; jobs may be added meanwhile."""
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._limits.jobs:
                self._running.append(self._start(self._waiting.popleft()))
            wait([each for one in self._running for each in (one.connection, one.process.sentinel)], _LOOK)
            self._look()
            over = [each for each in self._running if each.over]
            self._running = [each for each in self._running if not each.over]
            for each in over:
                _kill(each)
                yield Ended(each.job, each.value, each.problem, each.seconds, each.memory)

    def _start(self, job: Job) -> _Running:
        ours, theirs = self._context.Pipe(duplex=False)
        self._number += 1
        folder = Path(self._folder.name) / str(self._number)
        folder.mkdir()
        process = self._context.Process(target=work, args=(job, theirs, str(folder)), daemon=False)
        self._tell(job.name, "starting")
        process.start()
        theirs.close()
        return _Running(job, process, ours, folder)

    def _look(self) -> None:
        for each in self._running:
            self._hear(each)
            held = _held(each.process.pid)
            each.memory = max(each.memory, held)
            if each.over:
                continue
            if not each.process.is_alive():
                self._hear(each)  # what it said last
                if not each.over:
                    each.problem, each.over = _died(each), True
            elif self._limits.memory is not None and held > self._limits.memory:
                each.problem, each.over = _too_large(self._limits.memory), True
            elif each.seconds > self._limits.timeout:
                each.problem, each.over = _hung(each, self._limits.timeout), True
        self.memory = max(self.memory, _held(os.getpid()))

    def _hear(self, running: _Running) -> None:
        with suppress(EOFError, OSError):
            while not running.over and running.connection.poll():
                word, what = running.connection.recv()
                if word == "begun":  # the process it was forked from has imported everything by now
                    running.began = time.monotonic()
                    continue
                if word == "phrase":
                    self._tell(running.job.name, what)
                    continue
                running.over = True
                if word == "done":
                    running.value = what
                else:
                    running.problem = _line(*what)


def _context() -> Any:
    """Processes forked from one that has imported everything, where the system can; else fresh ones."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parity.gate.preload"])
    return context


def _held(pid: int) -> int:
    """Bytes of memory that a process and its children hold."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += each.memory_info().rss
    return total


def _kill(running: _Running) -> None:
    """End a process with its children, and with those of its group whose parent has gone."""
    with suppress(psutil.Error):
        for child in psutil.Process(running.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    with suppress(AttributeError, OSError):
        if os.getpgid(running.process.pid) == running.process.pid:
            os.killpg(running.process.pid, signal.SIGKILL)
    with suppress(OSError):
        running.process.kill()
    running.process.join(_LOOK * 10)
    running.connection.close()
    shutil.rmtree(running.folder, ignore_errors=True)  # with what a process that was ended left there


def _line(problem: str, next_step: str) -> str:
    return f"{problem.rstrip('.')}. {next_step}"


def _hung(running: _Running, timeout: float) -> str:
    where = ""
    with suppress(AttributeError, OSError):
        os.kill(running.process.pid, signal.SIGUSR1)
        time.sleep(_STACK)
        where = _where(running.folder)
    return _line(
        f"it was not over after {timeout:g} s, and was ended{where}",
        "Mend what hangs, or raise --timeout.",
    )


def _too_large(memory: int) -> str:
    return _line(
        f"it took more than {memory / 2**20:,.0f} MiB of memory, and was ended",
        "Raise --memory, or check a smaller config.",
    )


def _died(running: _Running) -> str:
    code = running.process.exitcode
    alone = f"See what parity check {running.job.case.port} says."
    if code is None or code >= 0:
        return _line(
            f"its process ended with exit code {code} before the check was over{_where(running.folder)}", alone
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        held = f"it held {running.memory / 2**20:,.0f} MiB"
        return _line(
            f"its process was killed (SIGKILL), as a system does that is short of memory; {held}",
            "Lower --jobs, check a smaller config, or give the machine more memory.",
        )
    did = "crashed" if name in _CRASHES else "was ended"
    return _line(f"its process {did} ({name}){_where(running.folder)}", alone)


def _where(folder: Path) -> str:
    """The innermost line outside installed libraries, from the stack that a dying process left."""
    with suppress(OSError):
        for frame in _FRAME.finditer((folder / LOG).read_text(encoding="utf-8", errors="replace")):
            if not any(part in frame["file"] for part in _NOT_THE_PORTS):
                return f", in {shown(frame['file'])}, line {frame['line']}, {frame['function']}"
    return ""
