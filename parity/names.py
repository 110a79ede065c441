"""Names for people: dotted ones of modules and tensors, many of one kind written as one, and those of files."""

import os
import re
import sysconfig
from collections.abc import Iterable

_SITE = sysconfig.get_paths()["purelib"]
_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")


def numbers(name: str) -> tuple[int, ...]:
    """The layer, expert and other numbers in a dotted name."""
    return tuple(int(part) for part in _NUMBER.findall(name))


def block(name: str) -> str:
    """The block that a module is in: its name up to the first number; the module itself where it is in none."""
    found = _NUMBER.search(name)
    return name[: found.end()] if found else name


def template(name: str) -> str:
    """A dotted name with `{}` for its numbers."""
    return _NUMBER.sub("{}", name)


def pattern(template: str) -> re.Pattern[str]:
    """What names of a template match, a number for each `{}`."""
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))


def fold(names: Iterable[str]) -> list[str]:
    """Names of one kind as one, in order of appearance: `a.0.mlp` and `a.1.mlp` become `a.{0,1}.mlp`."""
    kinds: dict[str, list[tuple[int, ...]]] = {}
    for name in dict.fromkeys(names):
        kinds.setdefault(template(name), []).append(numbers(name))
    return [_written(kind, found) for kind, found in kinds.items()]


def _written(kind: str, found: list[tuple[int, ...]]) -> str:
    columns = [sorted(set(column)) for column in zip(*found, strict=True)]
    parts = kind.split("{}")
    text = parts[0]
    for column, part in zip(columns, parts[1:], strict=True):
        text += _ranges(column) + part
    return text


def _ranges(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else "{" + ranges(values) + "}"


def ranges(values: Iterable[int]) -> str:
    """Numbers in order, with runs of three and more shortened: `0,2,5-9`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def shown(file: str) -> str:
    """A path for people: from the working directory, from where packages are installed, else whole."""
    path = os.path.abspath(file)
    for base in (os.getcwd(), _SITE):
        if path.startswith(base + os.sep):
            relative = path[len(base) + 1 :]
            if base == _SITE or not relative.startswith(("..", ".venv")):
                return relative
    marker = f"{os.sep}site-packages{os.sep}"
    return path.rpartition(marker)[2] if marker in path else path
