"""The HTML report of a generation: one file that needs no other and no network."""

from collections.abc import Iterator, Sequence
from typing import Any

from parity.cache_records import Caches
from parity.generation_records import Difference, Generation, Prompt, TeacherForced, Token, ratio
from parity.report import cache_words
from parity.report import generation_words as words
from parity.report.beside import visible
from parity.report.cache_chart import svg
from parity.report.html_page import page

_BELOW = ("reference", "port", "rounding")  # figures of a difference, which stand with its text
_WORDS = {"near_tie": ("near", "near-tie"), "fault": ("fault", "fault")}


def render(generation: Generation) -> str:
    """The generation as the text of an HTML file."""
    alone = "GENERATED" if generation.caches is None else cache_words.worst(generation.caches)
    verdict = words.VERDICTS.get(generation.verdict or "", alone)
    against = f" against {generation.reference}" if generation.compared else ""
    return page(
        "generation.html",
        title=f"{verdict}: text of {generation.port}{against}",
        generation=generation,
        verdict=verdict,
        summary=_summary(generation),
        facts=_facts(generation),
        faults=[(title, [row for row in rows if row[0] not in _BELOW]) for title, rows in words.faults(generation)],
        tokens=generation.findings,
        prompts=[_prompt(generation, number) for number in range(len(generation.rows))],
        speeds=list(_speeds(generation)),
        caches=None if generation.caches is None else _caches(generation, generation.caches),
    )


def _caches(generation: Generation, caches: Caches) -> dict[str, Any]:
    """What other ways to store the cache come to."""
    parted = [
        (name, cache_words.flip(flip), visible(row.text)) for name, flip, row in cache_words.parted(generation, caches)
    ]
    return {
        "title": cache_words.TITLE,
        "along": cache_words.along(generation, caches),
        "verdicts": [(cache_words.verdict(caches, loss), cache_words.sentence(caches, loss)) for loss in caches.losses],
        "head": cache_words.HEAD,
        "rows": list(cache_words.rows(caches)),
        "key": cache_words.KEY,
        "chart": svg(caches),
        "dtypes": [loss.dtype for loss in caches.losses],
        "layer_head": cache_words.LAYER_HEAD,
        "layers": list(cache_words.layers(caches, caches.losses)),
        "parted": parted,
        "places": list(cache_words.places(caches)),
    }


def _summary(generation: Generation) -> str:
    if generation.compared:
        return words.headline(generation).removeprefix(f"{generation.port} against {generation.reference}: ")
    beside = "nothing" if generation.caches is None else "the same port with its cache quantised"
    return f"{words.alone(generation)}; compared with {beside}"


def _facts(generation: Generation) -> list[tuple[str, str]]:
    """What was run, as labels and values."""
    versions = generation.versions
    revision = f" at {generation.revision[:12]}" if generation.revision else ""
    return [
        ("checkpoint", generation.checkpoint + revision),
        ("dtype", generation.dtype),
        ("device", generation.device),
        ("choice", "greedy"),
        ("cache", "yes" if generation.cached else "no"),
        ("transformers", versions.transformers),
        ("torch", versions.torch),
        ("parity", versions.parity),
    ]


def _prompt(generation: Generation, number: int) -> dict[str, Any]:
    """One prompt and what became of it."""
    prompt, row = generation.prompts[number], generation.rows[number]
    first = _parting(row.port, row.reference) if generation.compared else None
    near = row.first_difference is not None and row.first_difference.verdict == "near_tie"
    sides = [("port", row.port, row.stopped)]
    sides += [("reference", row.reference, "")] if first is not None else []
    return {
        "name": f"Prompt {number + 1}" if len(generation.rows) > 1 else "Prompt",
        "text": None if prompt.text is None else visible(prompt.text),
        "count": len(prompt.tokens),
        "tokens": _tokens(prompt.tokens),
        "template": _template(prompt),
        "sides": [(name, _tokens(tokens, first), stopped) for name, tokens, stopped in sides],
        "first": first,
        "near": near,
        "same": generation.compared and first is None,
        "difference": None if row.first_difference is None else _difference(row.first_difference),
        "forced": None if row.teacher_forced is None else _forced(row.teacher_forced),
        "blame": row.blame,
    }


def _template(prompt: Prompt) -> bool:
    return prompt.rendered is not None and prompt.rendered != prompt.text


def _parting(port: Sequence[Token], reference: Sequence[Token]) -> int | None:
    """The first token at which two texts part, one that only the longer one has included."""
    if tuple(port) == tuple(reference):
        return None
    pairs = zip(port, reference, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a.id != b.id), min(len(port), len(reference)))


def _tokens(tokens: Sequence[Token], first: int | None = None) -> list[dict[str, Any]]:
    """Each token's piece, and where it stands to the first that differs."""
    return [
        {
            "id": token.id,
            "parts": _parts(token),
            "place": "" if first is None or at < first else "first" if at == first else "after",
        }
        for at, token in enumerate(tokens)
    ]


def _parts(token: Token) -> list[tuple[str, str]]:
    """A piece as text and what is otherwise not seen of it: (kind, text)."""
    if not token.piece:
        return [("text", f"{token.id} ")]
    found: list[tuple[str, str]] = []
    for letter in visible(token.piece):
        kind = {"\n": "line", " ": "space", "\t": "tab"}.get(letter, "text")
        if kind == "text" and found and found[-1][0] == "text":
            found[-1] = ("text", found[-1][1] + letter)
        else:
            found.append((kind, letter))
    return found


def _difference(found: Difference) -> dict[str, Any]:
    kind, word = _WORDS[found.verdict]
    return {
        "place": found.index + 1,
        "kind": kind,
        "word": word,
        "port_token": words.named(found.port),
        "reference_token": words.named(found.reference),
        "port": [f"{value:.7g}" for value in found.port_logits],
        "reference": [f"{value:.7g}" for value in found.reference_logits],
        "port_margin": words.figure(found.port_margin),
        "reference_margin": words.figure(found.reference_margin),
        "rounding": words.figure(found.rounding),
    }


def _forced(forced: TeacherForced) -> dict[str, Any]:
    kinds = {each.index: _WORDS[each.verdict] for each in forced.differences}
    return {
        "agreement": words.agreement(forced),
        "beyond": None if forced.beyond is None else forced.beyond + 1,
        "cells": [(at + 1, *kinds.get(at, ("", "agree"))) for at in range(forced.tokens)],
        "differences": [_difference(each) for each in forced.differences],
    }


def _speeds(generation: Generation) -> Iterator[tuple[str, str, str, str]]:
    """Rows of a table: what, the port's, the reference's, their ratio."""
    ours, theirs = generation.port_speed, generation.reference_speed
    for name, mine, other in (
        ("new tokens per second, with a cache", ours.cached, theirs.cached),
        ("new tokens per second, without", ours.uncached, theirs.uncached),
    ):
        if mine is not None or other is not None:
            times = ratio(mine, other)
            yield name, words.rate(mine), words.rate(other), "" if times is None else f"{times:.2f}"
    if ours.prefill is not None or theirs.prefill is not None:
        yield "time of the prompt", words.seconds(ours.prefill), words.seconds(theirs.prefill), ""
