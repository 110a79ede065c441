"""A mutant is a port with one bug in it, with what Parity should say of it; several bugs together are a `Several`."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from bench.bugs.edits import Config, Edit, Written, write


@dataclass(frozen=True)
class Mutant:
    """One bug in one port.

    Args:
        name: unique within the port.
        port: a file's stem in models/ or fixtures/rewrites/.
        edits: texts replaced, each occurring once.
        cause: the code that a finding should carry.
        guilty: globs on the reference's module, any of which is the right place.
        also_causes: codes that name the same fault just as well.
        consumer: where something is left out, text of the line that uses what it would have computed.
        config: the name of a config fixture, or fields that differ from the port's default one.
    """

    name: str
    port: str
    edits: tuple[Edit, ...]
    cause: str
    guilty: tuple[str, ...]
    also_causes: tuple[str, ...] = ()
    consumer: str = ""
    config: Config = field(default="", hash=False)

    @property
    def key(self) -> str:
        """What `--only` matches."""
        return f"{self.port}/{self.name}"

    def write(self, folder: Path) -> Written:
        """Write the broken port to `folder`."""
        return write(folder, f"{self.port}_{self.name}", self.port, self.edits, self.consumer, self.config)

    def at(self, module: str) -> bool:
        """Whether a module of the reference is a right place."""
        return any(fnmatchcase(module, pattern) for pattern in self.guilty)

    def named_by(self, cause: str) -> bool:
        """Whether a cause is a right one."""
        return cause == self.cause or cause in self.also_causes


def bug(
    port: str,
    name: str,
    cause: str,
    guilty: str | tuple[str, ...],
    *edits: Edit,
    also: tuple[str, ...] = (),
    consumer: str = "",
    config: Config = "",
) -> Mutant:
    """A mutant, written in the order in which one thinks of it."""
    places = (guilty,) if isinstance(guilty, str) else guilty
    return Mutant(name, port, edits, cause, places, also, consumer, config)


@dataclass(frozen=True)
class Several:
    """Two or three bugs in one port at once."""

    bugs: tuple[Mutant, ...]

    @property
    def port(self) -> str:
        """The port that has them all."""
        return self.bugs[0].port

    @property
    def key(self) -> str:
        """What `--only` matches."""
        return f"{self.port}/{'+'.join(bug.name for bug in self.bugs)}"

    def write(self, folder: Path) -> Written:
        """Write the broken port to `folder`; its lines are those of all bugs."""
        edits = tuple(edit for bug in self.bugs for edit in bug.edits)
        config = next((bug.config for bug in self.bugs if bug.config), "")
        name = f"{self.port}_{'_and_'.join(bug.name for bug in self.bugs)}"
        return write(folder, name, self.port, edits, next((b.consumer for b in self.bugs if b.consumer), ""), config)


@dataclass(frozen=True)
class Benign:
    """A rewrite that computes the same function, as edits of a port or as a file of its own (no edits).

    full_only: it does so in one full forward alone, and leaves the cache or the padding aside.
    """

    name: str
    port: str
    edits: tuple[Edit, ...] = ()
    config: Config = field(default="", hash=False)
    full_only: bool = False

    @property
    def key(self) -> str:
        """What `--only` matches."""
        return f"{self.port}/{self.name}"

    def write(self, folder: Path) -> Written:
        """Write the rewrite to `folder`."""
        return write(folder, f"{self.port}_{self.name}", self.port, self.edits, "", self.config)
