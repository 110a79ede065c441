"""The JSON of a card, schema 1 (`card-1.json` beside this file)."""

import json
from dataclasses import asdict
from typing import Any

from parity.card_records import Card, KVCache

SCHEMA = 1


def render(card: Card) -> str:
    """The card as JSON text."""
    return json.dumps(document(card), indent=2, allow_nan=False) + "\n"


def document(card: Card) -> dict[str, Any]:
    """The card as plain lists and dictionaries. Sizes are bytes, lengths tokens, parameters counts."""
    parameters, memory = card.parameters, card.memory
    return {
        "schema": SCHEMA,
        "versions": {"parity": card.parity, "transformers": card.transformers},
        "name": card.name,
        "source": card.source,
        "model_type": card.model_type,
        "reference": card.reference,
        "port": card.port,
        "facts": [asdict(fact) for fact in card.facts],
        "parameters": {
            "total": parameters.total,
            "active": parameters.active,
            "formula": {"total": parameters.formula_total, "active": parameters.formula_active},
            "counted": None
            if parameters.counted_total is None
            else {"total": parameters.counted_total, "active": parameters.counted_active},
            "agree": parameters.agree,
            "parts": [asdict(part) for part in parameters.parts],
            "estimated": list(parameters.estimated),
        },
        "kv_cache": _kept(card.kv_cache, memory.cache_dtype),
        "memory": {
            "context": memory.context,
            "longest": memory.longest,
            "batch": memory.batch,
            "cache_dtype": memory.cache_dtype,
            "weights_dtype": memory.weights_dtype,
            "weights": memory.weights,
            "cache": memory.cache,
            "total": memory.total,
            "points": [
                {"context": length, "cache": sum(parts), "by_kind": list(parts)} for length, parts in memory.points
            ],
        },
        "fields": [asdict(field) for field in card.fields],
        "modules": dict(card.modules),
        "notes": list(card.notes),
    }


def _kept(kept: KVCache, dtype: str) -> dict[str, Any]:
    measured = kept.measured
    return {
        "bytes_per_token": kept.per_token(),
        "bytes_per_token_saturated": kept.per_token(saturated=True),
        "indexer_bytes_per_token": kept.indexer_per_token(),
        "fixed_bytes": kept.fixed(),
        "in_dtype": {
            "dtype": dtype,
            "bytes_per_token": kept.per_token(dtype),
            "bytes_per_token_saturated": kept.per_token(dtype, saturated=True),
            "indexer_bytes_per_token": kept.indexer_per_token(dtype),
            "fixed_bytes": kept.fixed(dtype),
        },
        "kinds": [
            {
                "name": kind.name,
                "layers": list(kind.layers),
                "bytes_per_token": kind.per_token("bfloat16"),
                "window": kind.window,
                "fixed_bytes": kind.bytes(0, "bfloat16"),
                "tensors": [asdict(tensor) for tensor in kind.tensors],
            }
            for kind in kept.kinds
        ],
        "measured": None if measured is None else {**asdict(measured), "agree": measured.agree},
        "why": list(kept.why),
    }
