"""Which ports on which configs in which dtypes: names, files and globs made into cases."""

import glob
import importlib
import itertools
import os
import pkgutil
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from parity.errors import ParityError
from parity.gate_records import Case
from parity.records import DTYPES

BUILT_IN = "parity_models"
ENTRY_POINTS = "parity.models"
_WILD = re.compile(r"[*?\[]")


def names() -> tuple[str, ...]:
    """Ports that come with Parity, and those that installed packages add; found without importing any."""
    own = [module.name for module in pkgutil.iter_modules(importlib.import_module(BUILT_IN).__path__)]
    return tuple(sorted({*own, *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def make(ports: Sequence[str], configs: Sequence[str], dtypes: Sequence[str], here: Path, root: Path) -> list[Case]:
    """Every port with every config in every dtype.

    Args:
        ports: names, dotted modules, files and globs; none for all names that there are.
        configs: files and globs; none for each port's own.
        dtypes: none for what `parity check` does by itself.
        here: what relative files are relative to.
        root: what files are called after.

    Raises:
        ParityError: something matches nothing, or there is no such dtype.
    """
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise ParityError(f"there is no dtype {unknown[0]!r} to compare in", f"Those are {', '.join(DTYPES)}.")
    found = dict.fromkeys(itertools.chain.from_iterable(_port(each, here, root) for each in ports or names()))
    files = dict.fromkeys(itertools.chain.from_iterable(_config(each, here, root) for each in configs))
    return [Case(*each) for each in itertools.product(found, files or (None,), dict.fromkeys(dtypes) or (None,))]


def is_file(port: str) -> bool:
    """Whether a port is given as a file, as opposed to a name or a dotted module."""
    path = port.partition(":")[0] if ".py:" in port else port
    return path.endswith(".py") or "/" in path or os.sep in path


def _port(given: str, here: Path, root: Path) -> Iterable[str]:
    path, _, namespace = given.partition(":") if ".py:" in given else (given, "", "")
    after = f":{namespace}" if namespace else ""
    if is_file(path):
        files = [each for each in _files(path, here) if each.suffix == ".py" and each.name != "__init__.py"]
        if not files:
            raise _no_port(given)
        return [f"{_from(root, each)}{after}" for each in files]
    if _WILD.search(path):
        matching = [name for name in names() if fnmatchcase(name, path)]
        if not matching:
            raise _no_port(given)
        return matching
    if path not in names() and not _importable(path, here):
        raise _no_port(given)
    return [path]


def _no_port(given: str) -> ParityError:
    near = get_close_matches(given, names(), 3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Built in: {', '.join(names())}; or give files."
    return ParityError(f"no port matches {given!r}", hint)


def _importable(name: str, here: Path) -> bool:
    top = name.partition(".")[0]
    local = (here / top).is_dir() or (here / f"{top}.py").is_file()
    try:
        return bool(re.fullmatch(r"[\w.]+", name)) and (local or find_spec(top) is not None)
    except (ImportError, ValueError):
        return False


def _config(given: str, here: Path, root: Path) -> Iterable[str]:
    files = _files(given, here)
    if not files:
        raise ParityError(f"no config matches {given!r}", "Give the path of a config.json, or a glob.")
    return [_from(root, each) for each in files]


def _files(pattern: str, here: Path) -> list[Path]:
    """The files that a path or a glob stands for, sorted."""
    whole = str(here / pattern)
    if Path(whole).is_file():
        return [Path(whole)]
    return [Path(each) for each in sorted(glob.glob(whole, recursive=True)) if Path(each).is_file()]


def _from(root: Path, file: Path) -> str:
    return Path(os.path.relpath(file.resolve(), root.resolve())).as_posix()
