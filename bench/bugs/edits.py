"""Ports with some of their text replaced: what a mutant and an equivalent rewrite have in common."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "models", ROOT / "fixtures" / "rewrites", ROOT / "fixtures" / "benign")
CONFIGS = ROOT / "fixtures" / "configs"
REMOVED = "(removed)"  # as the value of a changed config field

Edit = tuple[str, str]
Config = str | Mapping[str, Any]  # the name of a config fixture, or fields that differ from the port's default one


@dataclass(frozen=True)
class Written:
    """A port as a file of its own, the config to check it on, and the lines that its edits touched."""

    path: Path
    config: Path
    lines: tuple[int, ...]


def source(port: str) -> Path:
    """The file of a port, a rewrite or a benign fixture."""
    for folder in FOLDERS:
        if (folder / f"{port}.py").is_file():
            return folder / f"{port}.py"
    raise FileNotFoundError(f"no port {port!r} in {', '.join(folder.name for folder in FOLDERS)}")


def original_of(port: str) -> str:
    """The port whose function a case is compared with: for a benign fixture, the Gemma 3 that it rewrites."""
    return port if any((folder / f"{port}.py").is_file() for folder in FOLDERS[:2]) else "gemma3"


def default_config(port: str) -> Path:
    """The config fixture of the port's architecture, which the name of a rewrite begins with."""
    original = original_of(port)
    names = [name for name in (original, original.partition("_")[0]) if (FOLDERS[0] / f"{name}.py").is_file()]
    defaults: dict[str, str] = json.loads((CONFIGS.parent / "defaults.json").read_text(encoding="utf-8"))
    return CONFIGS / defaults[import_module(f"parity_models.{names[0]}").MODEL_TYPES[0]]


def replaced(text: str, edits: Sequence[Edit]) -> str:
    """The text with each (old, new) replaced; old must occur exactly once."""
    for old, new in edits:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} occurs {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


def touched(before: str, after: str, consumer: str) -> tuple[int, ...]:
    """Numbers of the lines in `after` that are new or changed.

    What was left out leaves nothing to point at: then it is also the line that holds `consumer`, which uses what is no
    longer computed.
    """
    old, new = before.splitlines(), after.splitlines()
    found = set()
    for tag, _, _, begin, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag in ("replace", "insert"):
            found |= {number + 1 for number in range(begin, end) if new[number].strip()}
    if consumer:
        holding = [number for number, line in enumerate(new, 1) if consumer in line]
        if len(holding) != 1:
            raise ValueError(f"the consumer {consumer!r} is in {len(holding)} lines, not in one")
        found |= set(holding)
    if not found and before != after:
        raise ValueError("lines are only deleted, and no consumer is given")
    return tuple(sorted(found))


def write(folder: Path, name: str, port: str, edits: Sequence[Edit], consumer: str, config: Config) -> Written:
    """Write the edited port and its config to `folder`."""
    before = source(port).read_text(encoding="utf-8")
    after = replaced(before, edits)
    path = folder / f"{name}.py"
    path.write_text(after, encoding="utf-8")
    return Written(path, write_config(folder, name, port, config), touched(before, after, consumer))


def write_config(folder: Path, name: str, port: str, config: Config) -> Path:
    """The config fixture itself, or a copy with fields changed."""
    if isinstance(config, str):
        return CONFIGS / config if config else default_config(port)
    fields = json.loads(default_config(port).read_text(encoding="utf-8")) | dict(config)
    changed = {field: value for field, value in fields.items() if value != REMOVED}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    return path
