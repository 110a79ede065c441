"""The list of ports, as a table and as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.text import Text

from parity.records import STAGES, Listed

_HEADS = ("port", "model types", "reference", "stages")


def render(ports: Sequence[Listed]) -> Iterator[Text]:
    """A line per port in columns, then which versions that was."""
    rows = [
        _HEADS,
        *((port.name, ", ".join(port.model_types), port.reference or port.where, _stages(port)) for port in ports),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    for number, row in enumerate(rows):
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        yield Text(line, style="bold" if number == 0 else "")
    measured = sorted({_versions(port) for port in ports if port.versions is not None})
    if measured:
        yield Text("")
        yield Text(f"measured with {'; '.join(measured)}", style="dim")


def _row(port: Listed) -> tuple[str, ...]:
    return port.name, ", ".join(port.model_types), port.reference or port.where, _stages(port)


def as_json(ports: Sequence[Listed]) -> str:
    """The list as JSON text."""
    return json.dumps({"ports": [asdict(port) for port in ports]}, indent=2) + "\n"


def _stages(port: Listed) -> str:
    if not port.stages:
        return "not measured"
    passed = [name for name in STAGES if port.stages.get(name) == "pass"]
    others = [f"{name}: {verdict.replace('_', ' ')}" for name, verdict in port.stages.items() if verdict != "pass"]
    return ", ".join([f"all {len(passed)} pass" if not others else f"{' '.join(passed)} pass", *others])


def _versions(port: Listed) -> str:
    assert port.versions is not None
    return f"parity {port.versions.parity}, torch {port.versions.torch}, transformers {port.versions.transformers}"
