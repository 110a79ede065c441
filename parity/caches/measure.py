"""A port with its full cache and with quantised ones, side by side along the text that it writes with the full one.

All get the same tokens. So one token that is another does not hide the rest, and vectors can be compared one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from parity.cache_records import BlockError, CacheLoss, Caches, Flip, Limits, LossRow, Place, Stored
from parity.caches.places import Layout, layout
from parity.caches.stored import Decoder, Sums
from parity.caches.walk import Path
from parity.compare.generation import Meeting, Models, meet
from parity.errors import ParityError
from parity.generation_records import Token
from parity.pair import running

Say = Callable[[str], object]
NO_LIMITS = Limits()


@dataclass(frozen=True)
class Text:
    """A prompt, and what the port writes with its full cache."""

    prompt: tuple[int, ...]
    written: tuple[int, ...]


@dataclass(frozen=True)
class Words:
    """Ids as people read them, and which of them end a text."""

    token: Callable[[int], Token]
    text: Callable[[Sequence[int]], str]
    ends: frozenset[int]


@dataclass
class _Tally:
    """What is added up of one way to store a cache."""

    dtype: str
    own: dict[Path, Sums] = field(default_factory=dict)
    drift: dict[Path, Sums] = field(default_factory=dict)
    outputs: dict[int, Sums] = field(default_factory=dict)
    sizes: dict[Path, int] = field(default_factory=dict)
    rows: list[LossRow] = field(default_factory=list)
    total: int = 0


@torch.no_grad()
def measure(
    models: Models, texts: Sequence[Text], dtypes: Sequence[str], words: Words, say: Say, limits: Limits = NO_LIMITS
) -> Caches:
    """What each way to store the cache costs.

    Args:
        models: the port; its reference is not used.
        texts: what to follow, one after the other.
        dtypes: ways to store, of `CACHE_DTYPES`.
        words: of the tokenizer.
        say: is told what is being done.
        limits: to judge by.

    Raises:
        ParityError: the port has no cache, or none that can be quantised, or a text has one new token only.
    """
    if not running.capabilities(models.port_model).cache:
        raise ParityError(
            f"--cache-dtype {dtypes[0]}: {models.port.name} has no cache",
            "Give it new_cache, and a forward that takes cache.",
        )
    if max(len(text.written) for text in texts) < 2:
        raise ParityError(
            "of one new token nothing is read from a cache", "Give --max-new-tokens 2 or more, or another prompt."
        )
    found = layout(models, texts[0].prompt)
    tallies = [_Tally(dtype) for dtype in dtypes]
    blocks = _blocks(models.port_model)
    lengths: dict[Path, tuple[int, int]] = {}
    total = 0
    for number, text in enumerate(texts, 1):
        say(f"storing the cache as {', '.join(dtypes)}" + (f": prompt {number} of {len(texts)}" * (len(texts) > 1)))
        full = _along(models, found, text, tallies, blocks, words)
        for slot in found.slots:
            length, seen = full.length(slot), len(text.prompt) + len(text.written) - 1
            held = length if slot.grows else min(length, seen)
            total += held * slot.place.bytes
            for tally in tallies:
                tally.total += held * tally.sizes[slot.path]
            lengths[slot.path] = max(lengths.get(slot.path, (0, 0)), (held, seen))
    places = {slot.path: _kept(slot.place, *lengths[slot.path]) for slot in found.slots}
    losses = tuple(_loss(tally, places, blocks) for tally in tallies)
    return Caches(tuple(places.values()), found.left, losses, total, limits)


def _kept(place: Place, held: int, seen: int) -> Place:
    """With how many tokens it keeps, where that was seen to be fewer than there were."""
    return replace(place, kept=held if held < seen else None)


def _along(
    models: Models, found: Layout, text: Text, tallies: Sequence[_Tally], blocks: Sequence[nn.Module], words: Words
) -> Decoder:
    """One text with all caches at once, each step by all of them."""
    full = Decoder(models, found.slots)
    others = [Decoder(models, found.slots, tally.dtype) for tally in tallies]
    meetings: list[list[Meeting]] = [[] for _ in tallies]
    given: Sequence[int] = text.prompt
    for at in range(len(text.written)):
        with _outputs(blocks) as right:
            reference = full.next(given)
        for tally, other, met in zip(tallies, others, meetings, strict=True):
            with _outputs(blocks) as off:
                logits = other.next(given)
            _add(tally, full, other)
            if at:  # the prompt's own call reads nothing that is stored
                met.append(meet(at, reference, logits))
                for layer, output in right.items():
                    if layer in off:
                        tally.outputs.setdefault(layer, Sums()).add(off[layer] - output, output)
        given = text.written[at : at + 1]
    for tally, other, met in zip(tallies, others, meetings, strict=True):
        tally.sizes = {slot.path: other.bytes(slot) for slot in found.slots}
        tally.rows.append(_row(text, met, words, lambda tally=tally: Decoder(models, found.slots, tally.dtype)))  # type: ignore[misc]
    return full


def _add(tally: _Tally, full: Decoder, other: Decoder) -> None:
    """What a step wrote in each place: errors of storing it, and all that came before."""
    for path, written in other.written.items():
        tally.own.setdefault(path, Sums()).add(written.stored - written.made, written.made)
        right = full.written[path].made
        tally.drift.setdefault(path, Sums()).add(written.stored - right, right)


def _row(text: Text, met: Sequence[Meeting], words: Words, begin: Callable[[], Decoder]) -> LossRow:
    flips = tuple(_flip(meeting, words) for meeting in met if meeting.chosen[0] != meeting.chosen[1])
    ids = _free(text, begin(), words.ends) if flips else text.written
    kls = [meeting.divergence for meeting in met]
    return LossRow(len(met), flips, sum(kls) / max(1, len(kls)), max(kls, default=0.0), ids, words.text(ids))


def _flip(meeting: Meeting, words: Words) -> Flip:
    full, other = (words.token(chosen) for chosen in meeting.chosen)
    margin = meeting.reference_logits[0] - meeting.reference_logits[1]
    return Flip(meeting.index, full.id, full.piece, other.id, other.piece, margin)


def _free(text: Text, decoder: Decoder, ends: frozenset[int]) -> tuple[int, ...]:
    """What is written with a quantised cache by itself, as long as the full cache's text at most."""
    found: list[int] = []
    given: Sequence[int] = text.prompt
    while len(found) < len(text.written) and not (found and found[-1] in ends):
        found.append(int(decoder.next(given).argmax()))
        given = found[-1:]
    return tuple(found)


def _loss(tally: _Tally, places: dict[Path, Place], blocks: Sequence[nn.Module]) -> CacheLoss:
    stored = tuple(
        Stored(place, tally.own[path].relative, tally.drift[path].relative, tally.sizes[path])
        for path, place in places.items()
    )
    outputs = (
        BlockError(layer, tally.outputs[layer].relative) for layer in range(len(blocks)) if layer in tally.outputs
    )
    return CacheLoss(tally.dtype, stored, tuple(outputs), tuple(tally.rows), tally.total)


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    """The longest list of modules that is not inside another one; empty if there is none."""
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside:
            lists[name] = module
    longest = max(lists.values(), key=lambda each: len(list(each.children())), default=None)
    return [] if longest is None else list(longest.children())


@contextmanager
def _outputs(blocks: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """What each block gives while this is open."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, given: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor):
                found[layer] = first.detach().clone()

        return hook

    handles = [block.register_forward_hook(keep(at)) for at, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
