"""Quantised caches in the JSON of a generation, and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from parity.cache_records import BlockError, CacheLoss, Caches, Flip, LeftAlone, Limits, LossRow, Place, Stored
from parity.report.saved_check import Doubtful


def document(caches: Caches | None) -> dict[str, Any] | None:
    """As plain lists and dictionaries."""
    if caches is None:
        return None
    return {
        "limits": asdict(caches.limits),
        "bytes_per_token": caches.bytes_per_token,
        "bytes": caches.total,
        "places": [asdict(place) for place in caches.places],
        "left": [asdict(each) for each in caches.left],
        "stored": [_loss(caches, loss) for loss in caches.losses],
    }


def _loss(caches: Caches, loss: CacheLoss) -> dict[str, Any]:
    return {
        "dtype": loss.dtype,
        "verdict": loss.verdict(caches.limits),
        "bytes_per_token": loss.bytes_per_token,
        "bytes": loss.total,
        "tokens": loss.tokens,
        "agreeing": loss.agreeing,
        "mean_kl": loss.mean_kl,
        "largest_kl": loss.largest_kl,
        "places": [{"error": each.error, "drift": each.drift, "bytes": each.bytes} for each in loss.stored],
        "blocks": [asdict(block) for block in loss.blocks],
        "rows": [
            {**asdict(row), "flips": [asdict(each) for each in row.flips], "ids": list(row.ids)} for row in loss.rows
        ],
    }


def restored(saved: Mapping[str, Any] | None) -> Caches | None:
    """The records that it was written from.

    Raises:
        Doubtful: a figure does not follow from what it comes from.
    """
    if saved is None:
        return None
    places = tuple(Place(**each) for each in saved["places"])
    found = Caches(
        places,
        tuple(LeftAlone(**each) for each in saved["left"]),
        tuple(_restored(each, places) for each in saved["stored"]),
        saved["bytes"],
        Limits(**saved["limits"]),
    )
    for loss, each in zip(found.losses, saved["stored"], strict=True):
        told = (loss.verdict(found.limits), loss.bytes_per_token, loss.tokens, loss.agreeing)
        if told != (each["verdict"], each["bytes_per_token"], each["tokens"], each["agreeing"]):
            raise Doubtful(f"what it says of the cache {loss.dtype} does not follow from its figures")
    return found


def _restored(saved: Mapping[str, Any], places: tuple[Place, ...]) -> CacheLoss:
    if len(saved["places"]) != len(places):
        raise Doubtful(f"it has {len(places)} places of a cache, and figures of {len(saved['places'])}")
    stored = tuple(
        Stored(place, _figure(each["error"]), _figure(each["drift"]), each["bytes"])
        for place, each in zip(places, saved["places"], strict=True)
    )
    blocks = tuple(BlockError(each["layer"], _figure(each["error"])) for each in saved["blocks"])
    return CacheLoss(saved["dtype"], stored, blocks, tuple(_row(each) for each in saved["rows"]), saved["bytes"])


def _row(saved: Mapping[str, Any]) -> LossRow:
    return LossRow(
        tokens=saved["tokens"],
        flips=tuple(Flip(**{**each, "margin": _figure(each["margin"])}) for each in saved["flips"]),
        mean_kl=_figure(saved["mean_kl"]),
        largest_kl=_figure(saved["largest_kl"]),
        ids=tuple(saved["ids"]),
        text=saved["text"],
    )


def _figure(value: float | None) -> float:
    return math.nan if value is None else value
