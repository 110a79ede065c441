"""The JSON of a start, schema 1 (`new-1.json` beside this file)."""

import json
from dataclasses import asdict
from typing import Any

from parity.new_records import Start

SCHEMA = 1


def render(found: Start) -> str:
    """The start as JSON text."""
    return json.dumps(document(found), indent=2, allow_nan=False) + "\n"


def document(found: Start) -> dict[str, Any]:
    """The start as plain lists and dictionaries."""
    told = asdict(found)
    return {"schema": SCHEMA, **told, "at_marks": found.at_marks}
