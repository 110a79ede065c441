"""The JSON of a generation, schema 1 (`generation-1.json` beside this file); `saved.py` reads it back."""

from dataclasses import asdict
from typing import Any

from parity.generation_records import Difference, Generation, Prompt, Row, Speed, TeacherForced, Token, ratio
from parity.report import cache_json
from parity.report.json import text_of, without_infinities

SCHEMA = 1


def render(generation: Generation) -> str:
    """The generation as JSON text."""
    return text_of(document(generation))


def document(generation: Generation) -> dict[str, Any]:
    """The generation as plain lists and dictionaries. A figure that is not finite is null; verdicts tell the rest."""
    return without_infinities(
        {
            "schema": SCHEMA,
            "kind": "generation",
            "versions": asdict(generation.versions),
            "port": generation.port,
            "reference": generation.reference or None,
            "checkpoint": generation.checkpoint,
            "revision": generation.revision,
            "dtype": generation.dtype,
            "device": generation.device,
            "cached": generation.cached,
            "verdict": generation.verdict,
            "findings": [asdict(finding) for finding in generation.findings],
            "prompts": [_prompt(prompt) for prompt in generation.prompts],
            "rows": [_row(row, generation.compared) for row in generation.rows],
            "tokens_per_second": _speeds(generation.port_speed, generation.reference_speed),
            "caches": cache_json.document(generation.caches),
            "notes": list(generation.notes),
            "details": {"rows": [_pieces(row) for row in generation.rows]},
        }
    )


def _prompt(prompt: Prompt) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "rendered": prompt.rendered,
        "ids": list(prompt.ids),
        "pieces": [token.piece for token in prompt.tokens],
    }


def _row(row: Row, compared: bool) -> dict[str, Any]:
    return {
        "port_ids": _ids(row.port),
        "reference_ids": _ids(row.reference) if compared else None,
        "port_text": row.port_text,
        "reference_text": row.reference_text if compared else None,
        "stopped": row.stopped,
        "first_difference": None if row.first_difference is None else _difference(row.first_difference),
        "teacher_forced": None if row.teacher_forced is None else _teacher_forced(row.teacher_forced),
        "blame": None if row.blame is None else asdict(row.blame),
    }


def _pieces(row: Row) -> dict[str, list[str]]:
    """What the ids of a row stand for; empty ones without a tokenizer."""
    return {
        "port_pieces": [token.piece for token in row.port],
        "reference_pieces": [token.piece for token in row.reference],
    }


def _ids(tokens: tuple[Token, ...]) -> list[int]:
    return [token.id for token in tokens]


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "index": difference.index,
        "reference": asdict(difference.reference),
        "port": asdict(difference.port),
        "reference_logits": list(difference.reference_logits),
        "port_logits": list(difference.port_logits),
        "reference_margin": difference.reference_margin,
        "port_margin": difference.port_margin,
        "rounding": difference.rounding,
        "verdict": difference.verdict,
    }


def _teacher_forced(forced: TeacherForced) -> dict[str, Any]:
    return {
        "tokens": forced.tokens,
        "agreeing": forced.agreeing,
        "differences": [_difference(each) for each in forced.differences],
        "largest": forced.largest,
        "rounding": forced.rounding,
        "beyond_rounding": forced.beyond,
        "mean_kl": forced.mean_kl,
    }


def _speeds(port: Speed, reference: Speed) -> dict[str, Any]:
    return {
        "port": _speed(port),
        "reference": _speed(reference),
        "ratio": {
            "cached": ratio(port.cached, reference.cached),
            "uncached": ratio(port.uncached, reference.uncached),
        },
    }


def _speed(speed: Speed) -> dict[str, Any]:
    return {"prefill_seconds": speed.prefill, "cached": speed.cached, "uncached": speed.uncached}
