"""What every view of quantised caches says in the same words: verdicts, figures, rows of tables, first differences."""

from collections.abc import Iterator, Sequence

from parity.cache_records import CacheLoss, Caches, Flip, LossRow, Place
from parity.generation_records import Generation
from parity.names import fold

LOSSLESS = "LOSSLESS"
WORDS = {"measured": "LOSSY", "within": "WITHIN", "beyond": "BEYOND"}
HEAD = ("cache", "bytes/token", "of full", "at the end", "keys", "values", "output", "alike", "mean KL", "first other")
LAYER_HEAD = ("keys", "values", "output")
TITLE = "Cache, quantised"
KEY = (
    "keys, values: largest relative error as stored, in %; output: relative error of the last block's output, in %; "
    "alike: choices that stay the same"
)
NONE = "-"


def verdict(caches: Caches, loss: CacheLoss) -> str:
    """In one word; what loses nothing is not called lossy."""
    word = WORDS[loss.verdict(caches.limits)]
    return LOSSLESS if word == "LOSSY" and _exact(loss) else word


def _exact(loss: CacheLoss) -> bool:
    return loss.worst.error == loss.mean_kl == 0


def worst(caches: Caches) -> str:
    """The verdict of all of them."""
    words = [verdict(caches, loss) for loss in caches.losses]
    return next((word for word in ("BEYOND", "LOSSY") if word in words), words[0])


def sentence(caches: Caches, loss: CacheLoss) -> str:
    """How far, where, and for how many bytes; and the limit that it passes."""
    where = f"largest error stored {percent(loss.worst.error)} %, in {loss.worst.place.path}"
    told = (
        f"{loss.dtype}: {share(loss.bytes_per_token, caches.bytes_per_token)} of the bytes; "
        f"{loss.agreeing} of {loss.tokens} choices alike, mean KL {figure(loss.mean_kl)} nats; "
        f"{'nothing is lost by being stored' if _exact(loss) else where}"
    )
    return told + "".join(f"; {each}" for each in _passed(caches, loss))


def _passed(caches: Caches, loss: CacheLoss) -> Iterator[str]:
    most = caches.limits
    if most.mean_kl is not None and not loss.mean_kl <= most.mean_kl:
        yield f"more than --max-kl {most.mean_kl:g}"
    if most.error is not None and not loss.worst.error <= most.error:
        yield f"more than --max-cache-error {most.error:g}"


def along(generation: Generation, caches: Caches) -> str:
    """What was compared with what."""
    tokens = caches.losses[0].tokens
    many = f" of {len(generation.rows)} prompts" if len(generation.rows) > 1 else ""
    return f"{generation.port} along its own text with the full cache, {tokens} new tokens{many} that read the cache"


def rows(caches: Caches) -> Iterator[tuple[str, ...]]:
    """A line for the full cache, and one for each that is compared with it: as `HEAD` has them."""
    yield ("full", f"{caches.bytes_per_token:,}", "", f"{caches.total:,}", *("" for _ in HEAD[4:]))
    for loss in caches.losses:
        first = loss.first
        keys, values = loss.error("keys"), loss.error("values")
        yield (
            loss.dtype,
            f"{loss.bytes_per_token:,}",
            share(loss.bytes_per_token, caches.bytes_per_token),
            f"{loss.total:,}",
            *(NONE if each is None else percent(each) for each in (keys, values, loss.output)),
            f"{loss.agreeing}/{loss.tokens}",
            figure(loss.mean_kl),
            "none" if first is None else str(first[1].index + 1),
        )


def layers(caches: Caches, losses: Sequence[CacheLoss]) -> Iterator[tuple[str, ...]]:
    """A line for each layer: its name, what it keeps, and for each of the caches keys, values and output in percent."""
    for layer in caches.layers:
        errors = (error for loss in losses for error in caches.of_layer(loss, layer))
        yield str(layer), kept(caches, layer), *(NONE if error is None else percent(error) for error in errors)


def kept(caches: Caches, layer: int) -> str:
    """How many tokens a layer keeps."""
    found = ["all" if each is None else f"{each:,}" for each in caches.kept(layer)]
    return " and ".join(found) or NONE


def places(caches: Caches) -> Iterator[str]:
    """What is quantised, and what is left alone."""
    for role in ("keys", "values"):
        own = [place for place in caches.places if place.role == role]
        if own:
            named = ", ".join(fold(place.path for place in own))
            yield f"as {role}: {named}; {_vectors(own)} for each token"
    why: dict[str, list[str]] = {}
    for each in caches.left:
        why.setdefault(each.why, []).append(each.path)
    for reason, paths in why.items():
        size = sum(each.bytes for each in caches.left if each.why == reason)
        yield f"left in full: {', '.join(fold(paths))}, {size:,} bytes: {reason}"


def _vectors(own: Sequence[Place]) -> str:
    kinds: dict[int, int] = {}
    for place in own:
        kinds[place.size] = kinds.get(place.size, 0) + place.vectors
    return ", ".join(f"{count} vectors of {size}" for size, count in kinds.items())


def parted(generation: Generation, caches: Caches) -> Iterator[tuple[str, Flip, LossRow]]:
    """Each text that becomes another: whose it is, where, and what it comes to."""
    for loss in caches.losses:
        for number, row in enumerate(loss.rows, 1):
            if row.flips:
                many = f", prompt {number}" if len(generation.rows) > 1 else ""
                yield f"{loss.dtype}{many}", row.flips[0], row


def flip(each: Flip) -> str:
    """Where a text becomes another."""
    other, full = _named(each.quantised, each.quantised_piece), _named(each.full, each.full_piece)
    return f"new token {each.index + 1} is {other} in place of {full}, which leads by {figure(each.margin)}"


def _named(token: int, piece: str) -> str:
    return f"{token} {piece!r}" if piece else str(token)


def rest(full: str, own: str) -> str:
    """A text from where it is another."""
    same = next((at for at, (a, b) in enumerate(zip(full, own, strict=False)) if a != b), min(len(full), len(own)))
    return own[same:]


def share(part: int, whole: int) -> str:
    """A part of something, in percent."""
    return f"{100 * part / whole:.1f} %" if whole else NONE


def percent(error: float) -> str:
    """A relative error, in percent without the sign."""
    return "0" if error == 0 else f"{100 * error:.2g}" if error < 0.1 else f"{100 * error:.0f}"


def figure(value: float) -> str:
    """A divergence or a difference of logits."""
    return f"{value:.2g}"
