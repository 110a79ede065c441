"""Settings from `[tool.parity]` of the nearest pyproject.toml; flags and PARITY_* variables come before them."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from parity.errors import ParityError

_KINDS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
Known = Mapping[str, type | tuple[type, ...]]


def file_for(start: Path) -> Path | None:
    """The nearest pyproject.toml, looked for in a directory and then upwards."""
    found = (folder / "pyproject.toml" for folder in (start, *start.parents))
    return next((path for path in found if path.is_file()), None)


def from_project(start: Path, known: Known, tables: Collection[str] = ()) -> dict[str, Any]:
    """Defaults for options, by parameter name.

    Args:
        start: the directory to look in first, then upwards.
        known: the names that are allowed, with underscores, and the type of each, or several.
        tables: names of tables inside `[tool.parity]`, which `from_table` reads.

    Raises:
        ParityError: the file is not TOML, or names a setting that does not exist.
    """
    path = file_for(start)
    if path is None:
        return {}
    table = {name: value for name, value in _read(path).items() if name not in tables}
    return _checked(path, "[tool.parity]", table, known)


def from_table(start: Path, name: str, known: Known) -> dict[str, Any]:
    """Defaults from the table `[tool.parity.NAME]`, by parameter name; the elements of its lists are strings.

    Args:
        start: the directory to look in first, then upwards.
        name: of the table.
        known: the names that are allowed, with underscores, and the type of each, or several.

    Raises:
        ParityError: the file is not TOML, or the table has a setting that does not exist or is of another type.
    """
    path = file_for(start)
    table = {} if path is None else _read(path).get(name, {})
    if path is None or not table:
        return {}
    title = f"[tool.parity.{name}]"
    if not isinstance(table, dict):
        raise ParityError(f"{path}: [tool.parity] {name} is {table!r}", f"It must be a table: {title}.")
    found = _checked(path, title, table, known)
    for key, value in found.items():
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise ParityError(f"{path}: {title} {key} is {value!r}", "It must be a list of strings.")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("parity", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ParityError(f"{path} cannot be read: {error}", "Mend it, or run elsewhere.") from error
    return table if isinstance(table, dict) else {}


def _checked(path: Path, title: str, table: Mapping[str, Any], known: Known) -> dict[str, Any]:
    settings = {name.replace("-", "_"): value for name, value in table.items()}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ParityError(f"{path}: {title} has no setting {unknown[0]!r}", f"It has {', '.join(sorted(known))}.")
    for name, value in settings.items():
        kind = known[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            allowed = " or ".join(_KINDS[each] for each in kinds)
            raise ParityError(f"{path}: {title} {name} is {value!r}", f"It must be {allowed}.")
    return settings
