"""A gate as JSON, schema 1 (`gate-1.json` beside this file); each case has its whole report in it.

`saved.py` reads it back.
"""

from dataclasses import asdict
from typing import Any

from parity.gate_records import Gate, Result, Trial
from parity.report import json

SCHEMA = 1


def render(gate: Gate) -> str:
    """The gate as JSON text."""
    return json.text_of(document(gate))


def document(gate: Gate) -> dict[str, Any]:
    """The gate as plain lists and dictionaries."""
    return {
        "kind": "gate",
        "schema": SCHEMA,
        "verdict": gate.verdict,
        "exit_code": gate.exit_code,
        "cases": [_case(result) for result in gate.results],
        "self_test": [_trial(trial) for trial in gate.trials],
        "lost": [asdict(each) for each in gate.lost],
        "skipped": [case.name for case in gate.skipped],
        "changed_since": gate.since or None,
        "problem": gate.problem,
        "notes": list(gate.notes),
        "seconds": round(gate.seconds, 3),
        "memory": gate.memory,
        "jobs": gate.jobs,
        "interrupted": gate.interrupted,
        "options": list(gate.options),
    }


def _case(result: Result) -> dict[str, Any]:
    return {
        "name": result.case.name,
        **asdict(result.case),
        "verdict": result.verdict,
        "problem": result.problem,
        "lost": [asdict(each) for each in result.lost],
        "seconds": round(result.seconds, 3),
        "memory": result.memory,
        "report": None if result.report is None else json.document(result.report),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "case": trial.case.name,
        "stage": trial.stage,
        "fault": trial.fault,
        "verdict": trial.verdict,
        "problem": trial.problem,
        "seconds": round(trial.seconds, 3),
    }
