"""What quantised caches cost on the shipped checkpoint, and what rounding to levels costs on Gaussian vectors.

    python -m bench.caches --write docs/quantised-caches.md

The tables go between the marks of the page. It takes some minutes.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from unittest import mock

import torch

from bench.marked import filled
from parity.cache_records import CACHE_DTYPES, CacheLoss, Caches, Role
from parity.caches import formats
from parity.caches.levels import distortion
from parity.caches.rotate import projection
from parity.caches.signs import estimate, signs
from parity.generation import generate
from parity.report import cache_words as words

PROMPTS = (
    "The with statement",
    "If the object is",
    "A function definition",
    "Return the number of",
    "A class is",
    "When an exception occurs",
    "The following example",
    "Changed in version",
)
TOKENS = 200
VECTORS = 20_000
SIGNED = ("turbo8", "turbo4", "turbo3.5", "turbo2")


def measured(dtypes: Sequence[str]) -> Caches:
    """All prompts, along the text of the full cache."""
    found = generate(prompt=PROMPTS, max_new_tokens=TOKENS, cache_dtypes=dtypes).caches
    assert found is not None
    return found


def costs(caches: Caches) -> Iterator[Sequence[str]]:
    """Bytes, bits, agreement, divergence and where texts part, for each way to store."""
    yield (
        "cache", "bytes per token", "bits per number", "of float32", "choices alike", "mean KL, nats", "largest KL",
        "texts that change", "first other token, of those",
    )  # fmt: skip
    numbers = sum(place.size * place.vectors for place in caches.places)
    for loss in caches.losses:
        firsts = [row.flips[0].index + 1 for row in loss.rows if row.flips]
        where = f"{min(firsts)} at the earliest, {median(firsts):g} in the median" if firsts else ""
        yield (
            f"`{loss.dtype}`", f"{loss.bytes_per_token:,}", f"{8 * loss.bytes_per_token / numbers:.3g}",
            words.share(loss.bytes_per_token, caches.bytes_per_token), f"{100 * loss.agreeing / loss.tokens:.2f} %",
            words.figure(loss.mean_kl), words.figure(loss.largest_kl), f"{len(firsts)} of {len(loss.rows)}", where,
        )  # fmt: skip


def errors(caches: Caches) -> Iterator[Sequence[str]]:
    """Relative errors by kind of layer: the mean over its layers."""
    kinds: dict[int | None, set[int | None]] = {}
    for place in caches.places:
        kinds.setdefault(place.kept, set()).add(place.layer)
    named = {kept: "full" if kept is None else f"window, {kept} kept" for kept in kinds}
    yield (
        "cache", *(f"{what}, {name}" for name in named.values() for what in ("keys", "values", "block output")),
        "keys, drift of the last layer",
    )  # fmt: skip
    for loss in caches.losses:
        cells = [cell for kept in named for cell in _of_kind(loss, kinds[kept])]
        last = [each for each in loss.stored if each.place.role == "keys"][-1]
        yield f"`{loss.dtype}`", *cells, _percent(last.drift)


def _of_kind(loss: CacheLoss, layers: set[int | None]) -> Iterator[str]:
    roles: tuple[Role, ...] = ("keys", "values")
    for role in roles:
        found = [each.error for each in loss.stored if each.place.role == role and each.place.layer in layers]
        yield _percent(sum(found) / len(found))
    outputs = [block.error for block in loss.blocks if block.layer in layers]
    yield _percent(sum(outputs) / len(outputs))


def _percent(value: float) -> str:
    return f"{words.percent(value)} %"


def unsigned(with_signs: Caches) -> Iterator[Sequence[str]]:
    """The same with keys stored as values are: all bits for levels, none for signs."""
    with mock.patch("parity.caches.stored.format_of", lambda name, role: formats.format_of(name, "values")):
        without = measured(SIGNED)
    yield "cache", "keys' error", "without signs", "choices alike", "without signs", "mean KL", "without signs"
    for name in SIGNED:
        pair = [next(each for each in caches.losses if each.dtype == name) for caches in (with_signs, without)]
        yield (
            f"`{name}`",
            *(_percent(each.error("keys") or 0.0) for each in pair),
            *(f"{100 * each.agreeing / each.tokens:.2f} %" for each in pair),
            *(words.figure(each.mean_kl) for each in pair),
        )


def theory() -> Iterator[Sequence[str]]:
    """Distortion of unit vectors in the direction of Gaussian ones, beside what the paper proves."""
    yield (
        "coordinates", "bits", "mean squared error", "by the density", "at most", "at least",
        "error of inner products, times coordinates", "at most", "inner product with itself", "without signs",
    )  # fmt: skip
    for size in (32, 128):
        generator = torch.Generator().manual_seed(0)
        units = torch.nn.functional.normalize(torch.randn(VECTORS, size, generator=generator), dim=-1)
        queries = torch.nn.functional.normalize(torch.randn(VECTORS, size, generator=generator), dim=-1)
        for bits in (1, 2, 3, 4):
            plain, signed = (formats.Rotated((bits,), flag) for flag in (False, True))
            levelled, balanced = plain.unpack(plain.pack(units), size), _signed(signed, units, bits)
            squared = float((levelled - units).square().sum(-1).mean())
            errors = ((balanced - units) * queries).sum(-1)
            own = [float((each * units).sum(-1).mean()) for each in (balanced, levelled)]
            yield (
                str(size), str(bits), f"{squared:.4f}", f"{distortion(size, bits):.4f}",
                f"{math.sqrt(3) * math.pi / 2 / 4**bits:.4f}", f"{1 / 4**bits:.4f}",
                f"{size * float(errors.square().mean()):.3f}", f"{math.sqrt(3) * math.pi**2 / 4**bits:.3f}",
                *(f"{each:.3f}" for each in own),
            )  # fmt: skip


def _signed(form: formats.Rotated, units: torch.Tensor, bits: int) -> torch.Tensor:
    """With signs; of one bit the sign is all there is."""
    size = units.shape[-1]
    if bits > 1:
        return form.unpack(form.pack(units), size)
    directions = projection(size)
    return estimate(signs(units, directions), torch.ones(len(units), 1), directions)


def table(lines: Iterator[Sequence[str]]) -> str:
    """In Markdown, figures on the right."""
    head, *rows = lines
    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def main() -> None:
    """Measure, and write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, required=True, metavar="PAGE", help="Where the tables go.")
    given = parser.parse_args()
    caches = measured([name for name in CACHE_DTYPES if name != "float32"])
    tables = {
        "costs": table(costs(caches)),
        "errors": table(errors(caches)),
        "signs": table(unsigned(caches)),
        "theory": table(theory()),
    }
    page = given.write.read_text(encoding="utf-8")
    for name, text in tables.items():
        page = filled(page, name, text)
    given.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
