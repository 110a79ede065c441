"""The program of a comparison: the calls that both models are run with, one after another.

A full forward is one call. Decoding is several, which share a cache; a padded batch brings a mask. Whatever the calls
are, their logits are put together along the tokens, so that every program gives `[B, T, V]`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor

from parity.errors import ParityError

MaskStyle = Literal["call", "total"]


@dataclass(frozen=True)
class Turn:
    """One call: token ids `[B, t]`, and which tokens so far are real, `[B, S]`, None if all are."""

    input_ids: Tensor
    real: Tensor | None = None


@dataclass(frozen=True)
class Program:
    """The calls, and how they are told to a model.

    cached: with a cache that all calls share. real: `[B, T]`, which tokens are real and count, None for all. mask: a
    port's attention_mask speaks of the tokens of a call, as the contract has it, or of all so far. counted: the
    reference is told to count positions from each row's first real token, as its `generate` does. last: only the
    logits of each call's last token are looked at, because the port returns no others.
    """

    name: str
    turns: tuple[Turn, ...]
    cached: bool = False
    real: Tensor | None = None
    mask: MaskStyle = "call"
    counted: bool = True
    last: bool = False

    def positions(self, turn: Turn) -> Tensor | None:
        """The positions `[B, t]` of a call's tokens, counted from each row's first real one; None if all are real."""
        if turn.real is None or not self.counted:
            return None
        counted = turn.real.long().cumsum(-1) - 1
        return counted.clamp_min(0)[:, -turn.input_ids.shape[1] :]

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """What the calls gave, `[B, t, V]` each, as one: `[B, T, V]`, or `[B, calls, V]` of the last tokens alone."""
        whole = [each[:, None] if each.ndim == 2 else each for each in logits]
        lengths = [1 if self.last else turn.input_ids.shape[1] for turn in self.turns]
        given = [1 if self.last else each.shape[1] for each in whole if each.ndim == 3]
        if given != lengths or len({(each.shape[0], each.shape[2]) for each in whole}) > 1:
            shapes = ", ".join(str(list(each.shape)) for each in logits[:3])
            raise ParityError(f"the logits of {self.name} have shapes {shapes}", "Return [B, T, V] from every call.")
        return torch.cat([each[:, -1:] for each in whole] if self.last else whole, dim=1)

    @property
    def input_ids(self) -> Tensor:
        """All tokens, `[B, T]`."""
        return torch.cat([turn.input_ids for turn in self.turns], dim=1)

    @property
    def told(self) -> tuple[object, ...]:
        """All that the reference is told of it, to be compared with that of another program."""
        calls = tuple(turn.input_ids.shape[1] for turn in self.turns)
        real = None if self.real is None else str(self.real.tolist())
        return str(self.input_ids.tolist()), calls, self.cached, real, self.counted, self.last

    @property
    def starts(self) -> tuple[int, ...]:
        """The position of each call's first token."""
        return tuple(accumulate((turn.input_ids.shape[1] for turn in self.turns[:-1]), initial=0))


def full(input_ids: Tensor) -> Program:
    """One call without a cache, on `[B, T]`."""
    return Program("one full forward", (Turn(input_ids),))


def decoding(name: str, input_ids: Tensor, lengths: Sequence[int]) -> Program:
    """Tokens `[B, T]` in calls of the given lengths, which sum to T, with a cache."""
    return Program(name, tuple(Turn(part) for part in _parts(input_ids, lengths)), cached=True)


def padded(
    name: str, input_ids: Tensor, real: Tensor, lengths: Sequence[int] = (), mask: MaskStyle = "call"
) -> Program:
    """A batch `[B, T]` of which only the `real` `[B, T]` tokens count; in calls with a cache if lengths are given."""
    if not lengths:
        return Program(name, (Turn(input_ids, real),), False, real, mask)
    ends = accumulate(lengths)
    turns = tuple(Turn(part, real[:, :end]) for part, end in zip(_parts(input_ids, lengths), ends, strict=True))
    return Program(name, turns, True, real, mask)


def _parts(input_ids: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
    for start, end in pairwise(accumulate(lengths, initial=0)):
        yield input_ids[:, start:end]
