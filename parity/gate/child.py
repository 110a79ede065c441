"""What goes on in the process of one case: a check, or a self-test. Imports nothing heavy before it is there."""

import faulthandler
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from parity.errors import ParityError
from parity.gate_records import Case, Wanted
from parity.records import Report, Versions

LOG = "log"


@dataclass(frozen=True)
class Job:
    """One process's work. stage: put a fault into this one, and check it; empty for an ordinary check."""

    case: Case
    wanted: Wanted
    root: Path
    threads: int
    stage: str = ""
    environment: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.case.name}, self-test {self.stage}" if self.stage else self.case.name


@dataclass(frozen=True)
class Checked:
    """A report, and the machine that it was made on, as far as rounding hangs on it."""

    report: Report
    machine: str


def work(job: Job, connection: Connection, folder: str) -> None:
    """Do a job, and send what comes of it: words (`begun`, `phrase`, `done`, `problem`), each with what belongs to it.

    What the port prints, and the stack of a process that crashes, go to the file `LOG` in `folder`, and temporary
    files go there as well.
    """
    connection.send(("begun", ""))
    _settle(job, folder)
    try:
        connection.send(("done", _done(job, connection)))
    except ParityError as error:
        connection.send(("problem", (error.problem, error.next_step)))
    except MemoryError:
        connection.send(("problem", ("it ran out of memory", "Lower --jobs, or use a smaller config.")))
    except Exception as error:
        if os.environ.get("PARITY_DEBUG"):
            raise
        told = f"internal error: {type(error).__name__}: {error}"
        connection.send(("problem", (told, f"Run parity check {job.case.port} with PARITY_DEBUG=1, and report it.")))


def _settle(job: Job, folder: str) -> None:
    """Make the process its own: a group that can be ended with its children, streams, threads, a directory."""
    with suppress(AttributeError, OSError):
        os.setsid()
    threading.Thread(target=_end_with_the_gate, daemon=True).start()
    file = open(Path(folder) / LOG, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (for as long as the process lasts)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    faulthandler.enable(file)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file)
    os.environ.clear()
    os.environ.update(job.environment)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.chdir(job.root)

    import torch

    torch.set_num_threads(job.threads)


def _end_with_the_gate() -> None:
    """End the group of this process when the gate has gone, as when it is killed and can end nothing any more."""
    gate = multiprocessing.parent_process()
    if gate is None:
        return
    gate.join()
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _done(job: Job, connection: Connection) -> object:
    def progress(phrase: str) -> None:
        connection.send(("phrase", phrase))

    if job.stage:
        from parity.self_test import trial

        return trial(job.case, job.stage, job.wanted, progress)
    from parity.pipeline import check

    report = check(
        job.case.port,
        config=job.case.config,
        small_config=job.wanted.small_config,
        seed=job.wanted.seed,
        dtype=job.case.dtype,
        stage=job.wanted.stages,
        gradient=job.wanted.gradient,
        progress=progress,
    )
    # torch's own kind of string would make whoever receives it import torch.
    versions = Versions(**{name: str(version) for name, version in asdict(report.versions).items()})
    return Checked(replace(report, versions=versions), _machine())


def _machine() -> str:
    import torch

    threads = torch.get_num_threads()
    vector = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {vector}, {threads} thread{'s' * (threads > 1)}"
