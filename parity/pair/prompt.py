"""The prompt of a check on a real checkpoint: text through its tokenizer, or token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parity.errors import ParityError
from parity.pair import probe
from parity.pair import reference as references
from parity.pair.checkpoint import Checkpoint
from parity.pair.small_config import context_length
from parity.pair.text import ids_in

_TEXT = (
    "The keeper of the old lighthouse counted the ships that passed before dawn, and wrote down the name of each one. "
    "In forty years he had missed a single night; nobody ever learned why, and the page for it is blank."
)
_RANDOM = 41  # token ids, where there is no tokenizer


@dataclass(frozen=True)
class Prompt:
    """Token ids `[B, T]`, and what is said of where they came from and what they do not reach."""

    input_ids: Tensor
    notes: tuple[str, ...]


def make(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    text: str | None,
    tokens: Path | None,
    seed: int,
    trust_remote_code: bool = False,
) -> Prompt:
    """The prompt that a user gives, else one of Parity's own.

    Args:
        checkpoint: whose tokenizer is used.
        settings: all fields of the reference's config.
        text: to be turned into ids.
        tokens: a file of ids.
        seed: of random ids, which stand in where there is no tokenizer.
        trust_remote_code: a tokenizer's own code may be run.

    Raises:
        ParityError: both or unusable ones are given, there is no tokenizer for a text, or ids that the model has not.
    """
    if text is not None and tokens is not None:
        raise ParityError("--prompt and --tokens are both given", "Give one of them.")
    if text is not None and not checkpoint.has_tokenizer:
        raise ParityError(f"there is no tokenizer in {checkpoint.source}", "Give --tokens FILE.")
    notes: list[str] = []
    if tokens is not None:
        rows: Sequence[Sequence[int]] = ids_in(tokens)
    elif checkpoint.has_tokenizer:
        tokenizer = references.tokenizer(checkpoint.directory, trust_remote_code)
        rows = [list(tokenizer(_TEXT if text is None else text)["input_ids"])]
        if text is None:  # a context shorter than Parity's own text is nobody's fault
            rows = [rows[0][: context_length(settings, len(rows[0]))]]
    else:
        length = context_length(settings, _RANDOM)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(0, settings["vocab_size"], (1, min(_RANDOM, length)), generator=generator).tolist()
        notes.append(f"the checkpoint has no tokenizer: the prompt is {len(rows[0])} random token ids")
    _check(rows, settings)
    return Prompt(torch.tensor(rows), (*notes, *probe.unreached(settings, len(rows[0]))))


def _check(rows: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> None:
    """Hold ids against what the model takes."""
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ParityError("the prompts are of different lengths", "Give ids of one length, or one prompt.")
    length = lengths.pop()
    if length == 0:
        raise ParityError("the prompt is of no tokens", "Give some text.")
    vocabulary = settings["vocab_size"]
    outside = [each for row in rows for each in row if not 0 <= each < vocabulary]
    if outside:
        raise ParityError(f"token id {outside[0]} is outside the vocabulary of {vocabulary:,}", "Give ids below that.")
    longest = context_length(settings, length)
    if length > longest:
        raise ParityError(
            f"the prompt has {length:,} tokens, the model was made for {longest:,}", "Give a shorter prompt."
        )
