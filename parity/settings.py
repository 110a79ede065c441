"""Settings from `[tool.parity]` of the nearest pyproject.toml; flags and PARITY_* variables come before them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.errors import ParityError


def from_project(start: Path, known: Mapping[str, type]) -> dict[str, Any]:
    """Defaults for options, by parameter name.

    Args:
        start: the directory to look in first, then upwards.
        known: the names that are allowed, with underscores, and the type of each.

    Raises:
        ParityError: the file is not TOML, or names a setting that does not exist.
    """
    path = next(
        (folder / "pyproject.toml" for folder in (start, *start.parents) if (folder / "pyproject.toml").is_file()), None
    )
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("parity", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ParityError(f"{path} cannot be read: {error}", "Mend it, or run elsewhere.") from error
    settings = {name.replace("-", "_"): value for name, value in table.items()}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ParityError(f"{path}: [tool.parity] has no setting {unknown[0]!r}", f"It has {', '.join(sorted(known))}.")
    for name, value in settings.items():
        if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is not bool):
            kind = {str: "a string", bool: "true or false", int: "a whole number", list: "a list"}[known[name]]
            raise ParityError(f"{path}: [tool.parity] {name} is {value!r}", f"It must be {kind}.")
    return settings
