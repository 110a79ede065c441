"""The JSON of an audit, schema 1 (`audit-1.json` beside this file)."""

import json
from dataclasses import asdict
from typing import Any

from parity.records import Audit

SCHEMA = 1


def render(audit: Audit) -> str:
    """The audit as JSON text."""
    return json.dumps(document(audit), indent=2, allow_nan=False) + "\n"


def document(audit: Audit) -> dict[str, Any]:
    """The audit as plain lists and dictionaries."""
    caught, missed, equivalent = (len(audit.named(each)) for each in ("caught", "missed", "equivalent"))
    return {
        "schema": SCHEMA,
        "versions": asdict(audit.versions),
        "port": audit.port,
        "reference": audit.reference,
        "seed": audit.seed,
        "probe": {"rows": audit.rows, "tokens": audit.tokens},
        "score": {"caught": caught, "applicable": caught + missed, "equivalent": equivalent},
        "fields": [asdict(field) for field in audit.fields],
        "causes": [asdict(cause) for cause in audit.causes],
        "mutations": [asdict(mutation) for mutation in audit.mutations],
        "notes": list(audit.notes),
    }
