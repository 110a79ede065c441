"""The modules of an author's own that a port consists of: what is imported anew for each check, and watched."""

import importlib
import importlib.util
import linecache
import sys
import sysconfig
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from parity.pair.port import module_of

_OWN = Path(__file__).parent.parent
_INSTALLED = tuple(Path(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_SITES = {"site-packages", "dist-packages"}


class Modules:
    """The modules that one port brings in, from one import to the next.

    files: where they are written, and where an import failed; a file once known stays, so that one that is broken for a
    while is not forgotten.
    """

    def __init__(self, target: object):
        self._target = target
        self._names: Set[str] = frozenset()
        self.files: frozenset[Path] = frozenset(filter(None, [file_of(target)]))

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Import inside this: the files as they are now are read, whatever was imported or compiled of them before."""
        named = module_of(self._target)
        own = {name for name in sys.modules if named and f"{named}.".startswith(f"{name}.")}
        for name in {*self._names, *(name for name in own if self._is_local(sys.modules[name]))}:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.checkcache()
        before = set(sys.modules)
        writes = sys.dont_write_bytecode
        sys.dont_write_bytecode = True  # it goes by seconds, and two savings may be nearer to each other
        try:
            yield
        except Exception as error:
            self._learn(_involved(error))
            raise
        finally:
            sys.dont_write_bytecode = writes
            new = {name: module for name, module in list(sys.modules.items()) if name not in before}
            self._names = {name for name, module in new.items() if self._is_local(module)}
            self._learn({Path(file) for name in self._names if (file := getattr(new[name], "__file__", None))})

    def _learn(self, files: Set[Path]) -> None:
        self.files |= {file.resolve() for file in files if self._is_own(file.resolve())}

    def _is_local(self, module: ModuleType) -> bool:
        places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
        return any(place and self._is_own(Path(place).resolve()) for place in places)

    def _is_own(self, path: Path) -> bool:
        """Whether a file or folder is the author's, not an installed library's and not Parity's."""
        if _SITES & set(path.parts) or any(path.is_relative_to(folder) for folder in (_OWN, *_INSTALLED)):
            return False
        port = file_of(self._target)
        return path.is_relative_to(Path.cwd()) or (port is not None and path.is_relative_to(port.parent))


def file_of(target: object) -> Path | None:
    """The file that a port is written in, whether it is there or not; None for an object, or a name nobody knows."""
    if not isinstance(target, str | Path):
        return None
    name = module_of(target)
    if name is None:
        text = str(target)
        return Path(text.partition(".py:")[0] + ".py" if ".py:" in text else text).resolve()
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(found.origin).resolve() if found and found.has_location and found.origin else None


def is_installed(path: Path) -> bool:
    """Whether a file belongs to an installed package."""
    return bool(_SITES & set(path.parts))


def _involved(error: BaseException) -> set[Path]:
    """The files that an exception, or what it came from, went through."""
    found: set[Path] = set()
    cause: BaseException | None = error
    while cause is not None:
        found |= {
            Path(frame.filename) for frame in extract_tb(cause.__traceback__) if not frame.filename.startswith("<")
        }
        if isinstance(cause, SyntaxError) and cause.filename:
            found.add(Path(cause.filename))
        cause = cause.__cause__
    return found
