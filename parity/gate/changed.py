"""Which cases a change touches: git says which files changed, reading the ports says which files they are made of."""

import ast
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import parity
from parity.errors import ParityError
from parity.gate.cases import BUILT_IN, ENTRY_POINTS, is_file
from parity.gate_records import Case

_SECONDS = 60.0
_STDLIB = Path(sysconfig.get_paths()["stdlib"])


@dataclass(frozen=True)
class Change:
    """What changed since a revision.

    files: absolute paths, deleted ones included. whole: why everything is to be checked, if so.
    """

    files: frozenset[Path]
    whole: str = ""


def since(revision: str, root: Path, baseline: Path | None) -> Change:
    """What changed against the common ancestor with `revision`: committed, staged, unstaged and untracked.

    Args:
        revision: whatever git takes for one.
        root: the project's directory, with the settings.
        baseline: the file of the baseline, if there is one.

    Raises:
        ParityError: git is not there, `root` is in no repository, or there is no such revision.
    """
    top = Path(_top(root)).resolve()
    if _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}") is None:
        raise ParityError(
            f"git knows no revision {revision!r}",
            "Check its name; in CI, fetch it first: actions/checkout with fetch-depth: 0.",
        )
    base = _git(top, "merge-base", revision, "HEAD")
    if base is None:
        raise ParityError(
            f"{revision} and the present state have no common ancestor here",
            "Fetch more history: actions/checkout with fetch-depth: 0.",
        )
    base = base.strip()
    changed = _paths(_git(top, "diff", "--name-only", "--no-renames", "-z", base, "--"))
    untracked = _paths(_git(top, "ls-files", "--others", "--exclude-standard", "-z"))
    files = frozenset((top / each).resolve() for each in (*changed, *untracked))
    return Change(files, _whole(files, top, base, root, baseline))


def _whole(files: frozenset[Path], top: Path, base: str, root: Path, baseline: Path | None) -> str:
    if baseline is not None and baseline.resolve() in files:
        return f"{baseline.name} changed"
    settings = (root / "pyproject.toml").resolve()
    if settings in files and _settings(settings) != _settings_at(top, base, settings):
        return "[tool.parity] changed"
    own = Path(parity.__file__).resolve().parent
    if own.is_relative_to(top) and any(each.is_relative_to(own) for each in files):
        return "Parity itself changed"
    return ""


def touched(case: Case, change: Change, root: Path) -> bool:
    """Whether what a case is made of changed: its port, the local modules and files that this names, its config."""
    if case.config is not None and (root / case.config).resolve() in change.files:
        return True
    start = _file(case.port, root)
    if start is None:  # of an installed package, say one compiled: nothing in the repository can change it
        return False
    return any(path in change.files for path in _made_of(start.resolve(), root.resolve(), change.files))


def _file(port: str, root: Path) -> Path | None:
    """The file of a port, None if it is not in Python."""
    if is_file(port):
        path, _, _ = port.partition(":") if ".py:" in port else (port, "", "")
        return root / path
    entry = next((each for each in entry_points(group=ENTRY_POINTS) if each.name == port), None)
    if entry is not None:
        return _module_file(entry.module, root)
    return _module_file(f"{BUILT_IN}.{port}", root) or _module_file(port, root)


def _module_file(name: str, root: Path) -> Path | None:
    """The file of a dotted module, found without importing anything."""
    first, _, rest = name.partition(".")
    found = _spec(first)
    if found is not None and not rest and found.origin is not None:
        return Path(found.origin)
    for place in (root / first, *_homes(first)):
        for each in _candidates(place / rest.replace(".", "/") if rest else place):
            if each.is_file():
                return each
    return None


@cache
def _spec(first: str) -> ModuleSpec | None:
    """Where a package or module without a dot comes from; None if nobody knows."""
    try:
        return find_spec(first)
    except (ImportError, ValueError):
        return None


def _homes(first: str) -> list[Path]:
    """The folders of a package that is installed from where it is worked on."""
    spec = _spec(first)
    places = spec.submodule_search_locations if spec is not None else None
    return [Path(each) for each in places or () if not _is_library(Path(each))]


def _is_library(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or path.is_relative_to(_STDLIB)


def _candidates(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.py"), path / "__init__.py"


def _made_of(start: Path, root: Path, changed: frozenset[Path]) -> Iterator[Path]:
    """A file and everything local that it names, and that these name; files that are gone included."""
    waiting, seen = [start], {start}
    while waiting:
        path = waiting.pop()
        yield path
        for each in _named(path, root, changed):
            if each not in seen:
                seen.add(each)
                waiting.append(each)


def _named(path: Path, root: Path, changed: frozenset[Path]) -> Iterator[Path]:
    """Local files that a Python file imports, or names in a string."""
    if path.suffix != ".py" or not path.is_file():
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    folders = list(dict.fromkeys((path.parent, root, *_packages_above(path))))
    for node in ast.walk(tree):
        for base, name in _imports(node, path):
            for folder in folders if base is None else (base,):
                yield from _along(folder, name, changed)
            if base is None:
                yield from _installed(name, changed)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _files_named(node.value, folders, changed)


def _packages_above(path: Path) -> Iterator[Path]:
    """The folders that modules of the file's package are named from: where the package is installed or lies."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
        yield folder


def _imports(node: ast.AST, path: Path) -> Iterator[tuple[Path | None, str]]:
    """Dotted names that a statement may import, each with the folder to look from, None for all there are."""
    if isinstance(node, ast.Import):
        yield from ((None, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else None
        for alias in node.names:
            yield base, f"{node.module or ''}.{alias.name}".strip(".")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_dotted(node.value):
        yield None, node.value  # importlib.import_module("a.b")


def _installed(name: str, changed: frozenset[Path]) -> Iterator[Path]:
    """The files of an import from a package that is installed from where it is worked on."""
    first, _, rest = name.partition(".")
    for home in _homes(first):
        yield from (each for each in (home / "__init__.py",) if each.is_file() or each in changed)
        yield from _along(home, rest, changed) if rest else ()


def _is_dotted(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _along(folder: Path, name: str, changed: frozenset[Path]) -> Iterator[Path]:
    """The files that an import runs: every package on the way, and the module."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        for each in _candidates(folder.joinpath(*parts[:length])):
            if each in changed or each.is_file():
                yield each.resolve()


def _files_named(text: str, folders: Sequence[Path], changed: frozenset[Path]) -> Iterator[Path]:
    """Changed files that a string may mean, such as a table that a port reads."""
    if "\n" in text or "." not in text or len(text) > 200:
        return
    for folder in folders:
        each = folder / text
        if each in changed:
            yield each


def _top(root: Path) -> str:
    found = _git(root, "rev-parse", "--show-toplevel")
    if found is None:
        raise ParityError(f"{root} is in no git repository", "Run without --changed-since, or in a checkout.")
    return found.rstrip("\n")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, None if it says no."""
    try:
        ran = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise ParityError("git is not installed", "Install it, or run without --changed-since.") from error
    except subprocess.TimeoutExpired as error:
        raise ParityError(f"git {arguments[0]} gave no answer in {_SECONDS:g} s", "Look what holds it up.") from error
    return ran.stdout if ran.returncode == 0 else None


def _paths(listed: str | None) -> list[str]:
    return [each for each in (listed or "").split("\0") if each]


def _settings(path: Path) -> Mapping[str, Any] | None:
    return _table(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _settings_at(top: Path, base: str, path: Path) -> Mapping[str, Any] | None:
    text = _git(top, "show", f"{base}:{path.relative_to(top).as_posix()}")
    return {} if text is None else _table(text)


def _table(text: str) -> Mapping[str, Any] | None:
    """[tool.parity], None where the file cannot be read."""
    try:
        found: Mapping[str, Any] = tomllib.loads(text).get("tool", {}).get("parity", {})
    except tomllib.TOMLDecodeError:
        return None
    return found
