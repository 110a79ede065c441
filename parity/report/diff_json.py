"""The JSON of a difference, schema 1; each side's card is in it, whole."""

import json
from dataclasses import asdict
from typing import Any

from parity.card_records import Difference
from parity.report import card_json

SCHEMA = 1


def render(found: Difference) -> str:
    """The difference as JSON text."""
    return json.dumps(document(found), indent=2, allow_nan=False) + "\n"


def document(found: Difference) -> dict[str, Any]:
    """The difference as plain lists and dictionaries."""
    return {
        "schema": SCHEMA,
        "left": card_json.document(found.left),
        "right": card_json.document(found.right),
        "shared": [asdict(fact) for fact in found.shared],
        "different": [asdict(side) for side in found.different],
        "fields": [{"name": side.name, "left": side.left, "right": side.right} for side in found.fields],
        "modules": {"left": list(found.modules_left), "right": list(found.modules_right)},
        "causes": [asdict(cause) for cause in found.causes],
        "lines": None if found.lines is None else asdict(found.lines),
        "notes": list(found.notes),
    }
