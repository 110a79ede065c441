"""The JSON of a ladder, schema 1 (`ladder-1.json` beside this file)."""

import json
from dataclasses import asdict
from typing import Any

from parity.workflow_records import Workflow

SCHEMA = 1


def render(found: Workflow) -> str:
    """The ladder as JSON text."""
    return json.dumps(document(found), indent=2, allow_nan=False) + "\n"


def document(found: Workflow) -> dict[str, Any]:
    """The ladder as plain lists and dictionaries."""
    return {"schema": SCHEMA, **asdict(found), "exit_code": found.exit_code}
