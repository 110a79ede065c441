"""What a generation is of: port, checkpoint, prompts and limits; all that is known before a model is built."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from parity.errors import ParityError
from parity.generation_records import Prompt
from parity.packages import FIXTURES
from parity.pair import generation_config, text
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.checkpoint import Checkpoint, open_checkpoint
from parity.pair.device import device_of
from parity.pair.generation_config import Stops
from parity.pair.port import Port
from parity.pair.reference import Reference
from parity.pair.small_config import context_length
from parity.pair.streamed import tensor_names
from parity.pair.text import Encoded
from parity.pair.text_names import text_names
from parity.records import DTYPES


@dataclass(frozen=True)
class Request:
    """What was asked for, as given; see `parity.generation.generate`."""

    port: object
    pretrained: str | None
    revision: str | None
    prompts: tuple[str, ...]
    tokens: Path | None
    chat: bool
    most: int
    dtype: str
    device: str
    cache: bool
    trust_remote_code: bool


@dataclass(frozen=True)
class Setting:
    """What it comes to.

    names: of the tensors that the language model has, and what the checkpoint calls them. most: new tokens per prompt,
    as many as fit. notes: what there is to say of all this.
    """

    port: Port
    checkpoint: Checkpoint
    names: Mapping[str, str]
    reference: Reference
    encoded: Encoded
    stops: Stops
    most: int
    dtype: torch.dtype
    device: torch.device
    cache: bool
    notes: tuple[str, ...]

    @property
    def partial(self) -> bool:
        """Whether the language model is a part of what the checkpoint holds."""
        return references.text_part(self.checkpoint.config) is not self.checkpoint.config


def prepare(request: Request) -> Setting:
    """Find both sides, turn the prompts into ids by every route, and see that they fit.

    Raises:
        ParityError: any bad input on the way.
    """
    if request.most < 1:
        raise ParityError(
            f"there is nothing to generate in {request.most} new tokens", "Give --max-new-tokens 1 or more."
        )
    if request.tokens is not None and (request.prompts or request.chat):
        raise ParityError("ids are given, and text too", "Give --tokens alone, or --prompt, with --chat or without.")
    if request.dtype not in DTYPES:
        raise ParityError(f"there is no dtype {request.dtype!r} to generate in", f"Those are {', '.join(DTYPES)}.")
    dtype: torch.dtype = getattr(torch, request.dtype)
    device = device_of(request.device, dtype)
    port, opened = _sides(request)
    reference, notes = pairs.find_reference(port, None, str(opened.directory))
    pairs.refuse_part(reference, opened.config)
    encoded = _encode(request, opened, port, reference)
    most, more = _room(reference, encoded.prompts, request.most)
    stops = generation_config.stops(opened, reference.config)
    return Setting(
        port=port,
        checkpoint=opened,
        names=_names(opened, reference),
        reference=reference,
        encoded=encoded,
        stops=stops,
        most=most,
        dtype=dtype,
        device=device,
        cache=request.cache,
        notes=(*opened.notes, *notes, *more, *stops.notes, *encoded.notes),
    )


def _defaults() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (resources.files(FIXTURES) / "checkpoints" / "defaults.json").read_text(encoding="utf-8")
    )
    return found


def _sides(request: Request) -> tuple[Port, Checkpoint]:
    """The port and the checkpoint, each by default the one that belongs to the other."""
    defaults = _defaults()
    if request.pretrained is None:
        port = ports.resolve(defaults["port"] if request.port is None else request.port)
        return port, open_checkpoint(_shipped(port, defaults["checkpoints"]), request.revision)
    if request.port is None:
        known = _built_in()
        stood_for = {model_type for port in known for model_type in port.stand_ins}
        opened = open_checkpoint(request.pretrained, request.revision, request.trust_remote_code, stood_for=stood_for)
        return _port_of(opened, known), opened
    port = ports.resolve(request.port)

    def accept(config: Mapping[str, Any]) -> None:
        pairs.check_model_type(port, references.describe(references.text_part(config), port.stand_ins).model_type)

    return port, open_checkpoint(
        request.pretrained, request.revision, request.trust_remote_code, accept, port.stand_ins
    )


def _shipped(port: Port, checkpoints: Mapping[str, str]) -> str:
    """Where the checkpoint lies that comes with Parity for a port; a short path if it is near."""
    name = next((checkpoints[each] for each in port.model_types if each in checkpoints), None)
    if name is None:
        raise ParityError(f"no checkpoint for {port.name} comes with Parity", "Give one: --pretrained DIR_OR_HUB_ID.")
    path = Path(str(resources.files(FIXTURES) / "checkpoints" / name))
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _built_in() -> list[Port]:
    """The ports that need not be named."""
    found = []
    for name in ports.built_in_names():
        with suppress(ParityError):  # somebody else's that does not import
            found.append(ports.resolve(name))
    return found


def _port_of(opened: Checkpoint, known: Sequence[Port]) -> Port:
    """The built-in port that implements a checkpoint's model type."""
    model_type = references.text_part(opened.config).get("model_type")
    for port in known:
        if model_type in port.model_types:
            return port
    raise ParityError(f"no port of model_type {model_type!r} comes with Parity", "Name one: a file will do.")


def _names(opened: Checkpoint, reference: Reference) -> dict[str, str]:
    if references.text_part(opened.config) is opened.config:
        return {name: name for name in opened.files}
    return text_names(tensor_names(reference), opened.files)


def _encode(request: Request, opened: Checkpoint, port: Port, reference: Reference) -> Encoded:
    if request.tokens is not None:
        rows = text.ids_in(request.tokens)
        _in_vocabulary(rows, reference)
        return text.given(opened, rows, request.trust_remote_code)
    texts = request.prompts or (_defaults()["question" if request.chat else "prompt"],)
    encoded = text.encode(opened, port, texts, request.chat, request.trust_remote_code)
    _in_vocabulary([prompt.ids for prompt in encoded.prompts], reference)  # some tokenizers have tokens of their own
    return encoded


def _in_vocabulary(rows: Sequence[Sequence[int]], reference: Reference) -> None:
    size = reference.settings.get("vocab_size")
    outside = [each for row in rows for each in row if each < 0 or (size is not None and each >= size)]
    if outside:
        raise ParityError(f"token id {outside[0]} is not in the vocabulary of {size}", "Give ids of this checkpoint.")


def _room(reference: Reference, prompts: Sequence[Prompt], most: int) -> tuple[int, tuple[str, ...]]:
    """How many new tokens fit, and what there is to say of it."""
    longest = max(len(prompt.ids) for prompt in prompts)
    context = context_length(reference.settings, longest + most)
    if longest + most <= context:
        return most, ()
    if longest >= context:
        raise ParityError(
            f"a prompt of {longest} tokens leaves no room in the context of {context}", "Give a shorter prompt."
        )
    left = context - longest
    return left, (f"generation ends after {left} tokens, not {most}: the context is {context} tokens",)
