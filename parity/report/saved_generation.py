"""The JSON of a generation back into records."""

import math
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from parity.generation_records import (
    Blame,
    Difference,
    Generation,
    Prompt,
    Row,
    Speed,
    TeacherForced,
    Token,
    TokenFinding,
)
from parity.records import Versions
from parity.report import cache_json
from parity.report.saved_check import Doubtful

Document = Mapping[str, Any]


def generation(document: Document) -> Generation:
    """A generation that is valid by `generation-1.json`, with or without `details`.

    Raises:
        Doubtful: a verdict does not follow from what it comes from.
    """
    rows, pieces = document["rows"], document.get("details", {}).get("rows")
    if not len(rows) == len(document["prompts"]) == len(rows if pieces is None else pieces):
        raise Doubtful("it has not as many rows as prompts, or as details of rows")
    speeds = document["tokens_per_second"]
    found = Generation(
        versions=Versions(**document["versions"]),
        port=document["port"],
        reference=document["reference"] or "",
        checkpoint=document["checkpoint"],
        revision=document["revision"],
        dtype=document["dtype"],
        device=document["device"],
        cached=document["cached"],
        prompts=tuple(_prompt(each) for each in document["prompts"]),
        rows=tuple(_row(row, known) for row, known in zip(rows, pieces or repeat({}), strict=False)),
        port_speed=_speed(speeds["port"]),
        reference_speed=_speed(speeds["reference"]),
        findings=tuple(TokenFinding(**each) for each in document["findings"]),
        notes=tuple(document["notes"]),
        caches=cache_json.restored(document.get("caches")),
    )
    if found.verdict != document["verdict"]:
        raise Doubtful(f"its verdict is {document['verdict']}, its rows say {found.verdict}")
    return found


def _prompt(saved: Document) -> Prompt:
    return Prompt(_tokens(saved["ids"], saved["pieces"]), saved["prompt"], saved["rendered"])


def _tokens(ids: Sequence[int], pieces: Sequence[str] | None) -> tuple[Token, ...]:
    if pieces is not None and len(pieces) != len(ids):
        raise Doubtful(f"{len(ids)} ids stand for {len(pieces)} pieces")
    return tuple(Token(each, piece) for each, piece in zip(ids, pieces or repeat(""), strict=False))


def _row(saved: Document, pieces: Document) -> Row:
    first, forced, blame = saved["first_difference"], saved["teacher_forced"], saved["blame"]
    return Row(
        port=_tokens(saved["port_ids"], pieces.get("port_pieces")),
        port_text=saved["port_text"],
        stopped=saved["stopped"],
        reference=_tokens(saved["reference_ids"] or (), pieces.get("reference_pieces")),
        reference_text=saved["reference_text"] or "",
        first_difference=None if first is None else _difference(first),
        teacher_forced=None if forced is None else _forced(forced),
        blame=None if blame is None else Blame(**blame),
    )


def _difference(saved: Document) -> Difference:
    unknown = math.inf if saved["verdict"] == "near_tie" else math.nan  # what makes it one if nobody says
    found = Difference(
        index=saved["index"],
        reference=Token(**saved["reference"]),
        port=Token(**saved["port"]),
        reference_logits=_pair(saved["reference_logits"]),
        port_logits=_pair(saved["port_logits"]),
        rounding=unknown if saved["rounding"] is None else saved["rounding"],
    )
    if found.verdict != saved["verdict"]:
        raise Doubtful(f"new token {found.index + 1} is called a {saved['verdict']}, its margins say {found.verdict}")
    return found


def _pair(saved: Sequence[float | None]) -> tuple[float, float]:
    first, second = (_figure(each) for each in saved)
    return first, second


def _forced(saved: Document) -> TeacherForced:
    found = TeacherForced(
        tokens=saved["tokens"],
        differences=tuple(_difference(each) for each in saved["differences"]),
        largest=_figure(saved["largest"]),
        rounding=_figure(saved["rounding"]),
        beyond=saved["beyond_rounding"],
        mean_kl=_figure(saved["mean_kl"]),
    )
    if found.agreeing != saved["agreeing"]:
        raise Doubtful(f"{saved['agreeing']} choices are said to agree, the differences leave {found.agreeing}")
    return found


def _figure(value: float | None) -> float:
    return math.nan if value is None else value


def _speed(saved: Document) -> Speed:
    return Speed(saved["prefill_seconds"], saved["cached"], saved["uncached"])
