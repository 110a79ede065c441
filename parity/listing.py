"""The ports that can be named on the command line, and how they did when this version was made."""

import json
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import entry_points
from typing import Any

from parity.packages import BUILT_IN, ENTRY_POINTS, FIXTURES
from parity.records import Listed, Versions


def listed() -> tuple[Listed, ...]:
    """Built-in ports with what was measured of them, then those of other packages, of which nothing is known."""
    text = (resources.files(FIXTURES) / "ports.json").read_text(encoding="utf-8")
    own = [_measured(name, figures) for name, figures in json.loads(text).items()]
    others = [Listed(entry.name, where=entry.value) for entry in entry_points(group=ENTRY_POINTS)]
    return (*own, *sorted(others, key=lambda port: port.name))


def _measured(name: str, figures: Mapping[str, Any]) -> Listed:
    return Listed(
        name,
        where=f"{BUILT_IN}.{name}",
        model_types=tuple(figures["model_types"]),
        reference=figures["reference"],
        stages=figures["stages"],
        versions=Versions(**figures["versions"]),
    )
