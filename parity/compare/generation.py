"""Greedy generation measured: the port token by token beside the reference's `generate`, step by step.

At each step the reference's logits are handed on before its next token is taken, and the port takes its own step then.
So both stream at once, nothing has to be kept, and each has its own clock.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from parity.errors import ParityError
from parity.generation_records import Side
from parity.pair import reference as references
from parity.pair import running
from parity.pair.port import LoadedPort, Port
from parity.pair.program import MaskStyle

_PROBE = 8  # tokens of the prompt on which the meaning of a mask is tried


@dataclass(frozen=True)
class Models:
    """Both sides with the checkpoint in them; no reference where the port runs alone.

    untouched: parameters of the port that loading left as they were.
    """

    port: Port
    port_model: nn.Module
    reference_model: nn.Module | None
    device: torch.device
    untouched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """How to generate. most: new tokens; ends: ids that end a row; pad: id of what follows in a row that has ended.

    port_cached, reference_cached: with a cache, else a full forward per token. mask: what a port's attention_mask
    speaks of when it decodes.
    """

    most: int
    ends: frozenset[int]
    pad: int
    port_cached: bool
    reference_cached: bool
    mask: MaskStyle = "call"


@dataclass(frozen=True)
class Batch:
    """Prompts `[B, T]` padded on the left; real: `[B, T]`, which tokens count, None if all do."""

    ids: Tensor
    real: Tensor | None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> "Batch":
        """Rows of any lengths."""
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
        if all(len(row) == longest for row in rows):
            return cls(ids, None)
        starts = torch.tensor([longest - len(row) for row in rows], device=device)
        return cls(ids, torch.arange(longest, device=device) >= starts[:, None])


class Watch(Protocol):
    """Somebody who is told of each new token."""

    def __call__(self, row: int, side: Side, token: int) -> object:
        """A row of the batch has a new token."""


@dataclass(frozen=True)
class Meeting:
    """Both sides' logits after the same tokens. chosen, and the logits of both choices: (reference's, port's).

    largest: difference of two logits, a constant of all of them not counted. divergence: of the port's distribution
    from the reference's, in nats.
    """

    index: int
    chosen: tuple[int, int]
    reference_logits: tuple[float, float]
    port_logits: tuple[float, float]
    largest: float
    divergence: float


@dataclass
class Clock:
    """Seconds per step of one side, prefill first, and how many rows went on at each."""

    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What a generation gave, by row: new tokens of both, and what was measured where both had the same before."""

    port: tuple[tuple[int, ...], ...]
    reference: tuple[tuple[int, ...], ...]
    meetings: tuple[tuple[Meeting, ...], ...]
    port_clock: Clock
    reference_clock: Clock


class _Decoder:
    """The port, one new token of each row per call."""

    def __init__(self, models: Models, batch: Batch, rules: Rules):
        self._models, self._rules = models, rules
        self._ids, self._real = batch.ids, batch.real
        self._cache: object = None
        self._given = 0
        if rules.port_cached:
            self._cache = running.new_cache(models.port, models.port_model, len(batch.ids))

    def next(self, tokens: Tensor | None) -> Tensor:
        """Logits `[B, V]` float32 of what follows; `tokens` `[B]` are appended first."""
        if tokens is not None:
            self._ids = torch.cat((self._ids, tokens[:, None]), dim=1)
            if self._real is not None:
                self._real = torch.cat((self._real, torch.ones_like(tokens[:, None], dtype=torch.bool)), dim=1)
        given = self._ids[:, self._given :]
        self._given = self._ids.shape[1] if self._rules.port_cached else 0
        return last(self._models, given, self._mask(given), self._cache)

    def _mask(self, given: Tensor) -> Tensor | None:
        if self._real is None:
            return None
        return (self._real if self._rules.mask == "total" else self._real[:, -given.shape[1] :]).long()


class _Rows:
    """New tokens by row, until each row has ended."""

    def __init__(self, count: int, rules: Rules):
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self._rules = rules
        self._ended = [False] * count

    @property
    def done(self) -> bool:
        return all(self._ended)

    def going(self, row: int) -> bool:
        return not self._ended[row]

    def take(self, logits: Tensor) -> Tensor:
        """The next tokens `[B]` of logits `[B, V]`; padding for rows that have ended."""
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if self._ended[row]:
                chosen[row] = self._rules.pad
                continue
            self.ids[row].append(token)
            self._ended[row] = token in self._rules.ends or len(self.ids[row]) >= self._rules.most
        return chosen

    @property
    def running(self) -> int:
        return sum(not each for each in self._ended)

    def frozen(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(tuple, self.ids))


class _Lockstep:
    """What happens at each step of the reference: the port's own, and the comparison of both.

    along: the port continues the reference's tokens, not its own.
    """

    def __init__(self, models: Models, batch: Batch, rules: Rules, along: bool, watch: Watch):
        count = len(batch.ids)
        self.ours, self.theirs = _Rows(count, rules), _Rows(count, rules)
        self.meetings: list[list[Meeting]] = [[] for _ in range(count)]
        self.our_clock, self.their_clock = Clock(), Clock()
        self._decoder = _Decoder(models, batch, rules)
        self._device, self._along, self._watch = models.device, along, watch
        self._same_before = [True] * count
        self._previous: Tensor | None = None
        self._left = now(self._device)

    def step(self, reference: Tensor) -> None:
        """The reference has logits `[B, V]`."""
        arrived = now(self._device)
        if self.theirs.done:  # some devices look a step later whether all rows have ended
            return
        self.their_clock.seconds.append(arrived - self._left)
        self.their_clock.rows.append(self.theirs.running)
        at = max(map(len, self.theirs.ids))
        if bool(reference.isnan().any()):
            raise ParityError(
                f"the reference's logits are NaN at new token {at + 1}", "Try another --dtype, and check the weights."
            )
        if self._along or not self.ours.done:
            port = self._ours()
            self._meet(at, reference, port)
            self._previous = self._taken(self.ours, port, "port")
        their_tokens = self._taken(self.theirs, reference, "reference")
        if self._along:
            self._previous = their_tokens
        self._left = now(self._device)

    def _meet(self, at: int, reference: Tensor, port: Tensor) -> None:
        for row, same in enumerate(self._same_before):
            if same and self.theirs.going(row):
                meeting = meet(at, reference[row].cpu(), port[row].cpu())
                self.meetings[row].append(meeting)
                self._same_before[row] = self._along or meeting.chosen[0] == meeting.chosen[1]

    def drain(self) -> None:
        """The port to its end, after the reference."""
        while not (self.ours.done or self._along):
            self._previous = self._taken(self.ours, self._ours(), "port")

    def _ours(self) -> Tensor:
        began = now(self._device)
        logits = self._decoder.next(self._previous)
        self.our_clock.seconds.append(now(self._device) - began)
        self.our_clock.rows.append(self.theirs.running if self._along else self.ours.running)
        return logits

    def _taken(self, rows: _Rows, logits: Tensor, side: Side) -> Tensor:
        going = [row for row in range(len(logits)) if rows.going(row)]
        tokens = rows.take(logits)
        for row in going:
            self._watch(row, side, rows.ids[row][-1])
        return tokens


@torch.no_grad()
def together(models: Models, batch: Batch, rules: Rules, watch: Watch, along: bool = False) -> Run:
    """Generate with both; the port along its own tokens, or along the reference's.

    Raises:
        ParityError: the port failed, or the reference gave NaN.
    """
    assert models.reference_model is not None
    both = _Lockstep(models, batch, rules, along, watch)
    made = references.generate(
        models.reference_model,
        batch.ids,
        batch.real,
        rules.most,
        rules.ends,
        rules.pad,
        rules.reference_cached,
        both.step,
    )
    reference = both.theirs.frozen()
    if any(tuple(row[: len(ids)]) != ids for row, ids in zip(made.tolist(), reference, strict=True)):
        raise AssertionError("generate chose other tokens than its logits say")
    both.drain()
    return Run(both.ours.frozen(), reference, tuple(map(tuple, both.meetings)), both.our_clock, both.their_clock)


@torch.no_grad()
def alone(models: Models, batch: Batch, rules: Rules, watch: Watch) -> Run:
    """Generate with the port only."""
    both = _Lockstep(models, batch, rules, False, watch)
    both.drain()
    return Run(both.ours.frozen(), (), (), both.our_clock, both.their_clock)


def untouched(loaded: LoadedPort) -> tuple[str, ...]:
    """Parameters with the values they had before loading; not constant ones, which may be zero or one rightly."""
    after = dict(loaded.model.named_parameters())
    return tuple(
        name
        for name, before in loaded.initial.items()
        if name in after and torch.equal(before.to(after[name]), after[name]) and not _constant(before)
    )


def _constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor.flatten()[:1]).all())


def now(device: torch.device) -> float:
    """The time, once the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def last(models: Models, ids: Tensor, mask: Tensor | None = None, cache: object = None) -> Tensor:
    """The port's logits after the last of tokens `[B, t]`: `[B, V]` float32.

    Raises:
        ParityError: the port raised, or its logits have another shape.
    """
    found = running.call(models.port, models.port_model, ids, mask, cache)
    rows, length = ids.shape
    if found.ndim == 2 and found.shape[0] == rows:
        return found.float()
    if found.ndim != 3 or found.shape[0] != rows or found.shape[1] not in (1, length):
        raise ParityError(
            f"{models.port.name}: logits are {list(found.shape)} for tokens {[rows, length]}",
            "Return [B, T, V], or the last token's alone: [B, 1, V].",
        )
    return found[:, -1].float()


def meet(index: int, reference: Tensor, port: Tensor) -> Meeting:
    """Compare logits `[V]` of both; of vocabularies that are padded differently, what both have."""
    common = min(len(reference), len(port))
    theirs, ours = reference[:common].double(), port[:common].double()
    chosen = int(reference.argmax()), int(port.argmax())
    return Meeting(
        index,
        chosen,
        (_at(reference, chosen[0]), _at(reference, chosen[1])),
        (_at(port, chosen[0]), _at(port, chosen[1])),
        apart(ours, theirs),
        _divergence(ours, theirs),
    )


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two sets of logits `[V]`, up to a constant that no softmax sees; NaN if one is."""
    finite = ours.isfinite() & theirs.isfinite()
    if not torch.equal(ours[~finite], theirs[~finite]):
        return float("nan") if bool(ours.isnan().any() or theirs.isnan().any()) else float("inf")
    difference = (ours - theirs)[finite]
    plain = float(difference.abs().max())
    shifted = float((difference - difference.mean()).abs().max())
    return shifted if shifted < plain else plain


def _divergence(ours: Tensor, theirs: Tensor) -> float:
    """Kullback-Leibler divergence of our distribution from theirs, in nats."""
    logs, log_likes = theirs.log_softmax(-1), ours.log_softmax(-1)
    terms = torch.where(logs.isneginf(), 0.0, logs.exp() * (logs - log_likes))
    return max(0.0, total) if (total := float(terms.sum())) == total else total


def _at(logits: Tensor, token: int) -> float:
    return float(logits[token]) if token < len(logits) else float("nan")


@torch.no_grad()
def mask_style(models: Models, prompt: Sequence[int], pad: int) -> MaskStyle:
    """What the port's attention_mask speaks of when it decodes: the tokens of the call, or all so far.

    The contract has the first, `generate` gives the second. Whichever agrees better with one full forward is meant.
    """
    row = list(prompt[:_PROBE])
    if len(row) < 3:
        return "call"
    batch = Batch.of([row, row[2:]], pad, models.device)
    assert batch.real is not None
    whole = last(models, batch.ids, batch.real.long())
    errors: dict[MaskStyle, float] = {}
    for style in ("call", "total"):
        cache = running.new_cache(models.port, models.port_model, 2)
        try:
            last(models, batch.ids[:, :-1], batch.real[:, :-1].long(), cache)
            mask = batch.real if style == "total" else batch.real[:, -1:]
            found = last(models, batch.ids[:, -1:], mask.long(), cache)
        except ParityError:
            continue
        errors[style] = apart(found.cpu().double(), whole.cpu().double())
    return min(errors, key=errors.__getitem__) if errors else "call"
