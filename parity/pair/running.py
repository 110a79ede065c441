"""Running a port: one call, or a whole program with its cache, and what its forward is able to do."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parity.errors import ParityError
from parity.pair.port import PORT_FAILS, DoesNotFit, Port, quiet, said
from parity.pair.program import Program, Turn


@dataclass(frozen=True)
class Capabilities:
    """What a port's forward takes beside token ids."""

    attention_mask: bool
    cache: bool


def capabilities(model: nn.Module) -> Capabilities:
    """What the signature of a port's forward says that it is able to do."""
    parameters = inspect.signature(model.forward).parameters
    return Capabilities("attention_mask" in parameters, "cache" in parameters and hasattr(model, "new_cache"))


def new_cache(port: Port, model: nn.Module, batch_size: int) -> object:
    """An empty cache of the port's.

    Raises:
        ParityError: `new_cache` raised.
    """
    with quiet():
        try:
            made: object = model.new_cache(batch_size)  # type: ignore[operator]
        except PORT_FAILS as error:
            raise DoesNotFit(f"{port.name}: new_cache raised {said(error)}", "It gets the batch size.") from error
    return made


def call(
    port: Port, model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, cache: object = None
) -> Tensor:
    """Run the port on `[B, t]`; logits, usually `[B, t, V]`.

    Args:
        port: which one.
        model: its model.
        input_ids: `[B, t]` int64.
        attention_mask: 1 for real tokens, 0 for padding; not given at all if None.
        cache: that of the calls before, which this one appends to; not given at all if None.

    Raises:
        ParityError: forward raised, changed its input, or returned no logits.
    """
    given = input_ids.clone()
    more: dict[str, object] = {} if attention_mask is None else {"attention_mask": attention_mask.clone()}
    if cache is not None:
        more["cache"] = cache
    with quiet(), torch.compiler.set_stance("force_eager"):
        try:
            result = model(given, **more)
        except PORT_FAILS as error:
            also = "".join(f", {name}" for name in more)
            raise DoesNotFit(
                f"{port.name}: forward raised {said(error)}", f"It gets int64 token ids of shape [B, T]{also}."
            ) from error
    if not torch.equal(given, input_ids):
        raise ParityError(f"{port.name}: forward changes its input_ids in place", "Clone them before changing them.")
    found = _find_logits(result)
    if found is None:
        raise ParityError(
            f"{port.name}: forward returned {type(result).__name__} without logits",
            "Return a tensor of shape [B, T, V].",
        )
    return found


def turns(port: Port, model: nn.Module, program: Program) -> Iterator[Tensor]:
    """Run the port's part of a program, call by call; the logits of each, usually `[B, t, V]`.

    Raises:
        ParityError: forward raised, changed its input, or returned no logits.
    """
    cache = new_cache(port, model, program.turns[0].input_ids.shape[0]) if program.cached else None
    for turn in program.turns:
        yield call(port, model, turn.input_ids, _mask(program, turn), cache)


def execute(port: Port, model: nn.Module, program: Program) -> Tensor:
    """Run the port's part of a program; logits, usually `[B, T, V]`.

    Raises:
        ParityError: forward raised, changed its input, or returned no logits.
    """
    given = list(turns(port, model, program))
    return given[0] if len(given) == 1 and not program.last else program.joined(given)


def _mask(program: Program, turn: Turn) -> Tensor | None:
    if turn.real is None:
        return None
    return turn.real.long() if program.mask == "total" else turn.real[:, -turn.input_ids.shape[1] :].long()


def _find_logits(result: object) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        return result["logits"] if isinstance(result.get("logits"), Tensor) else None
    if isinstance(getattr(result, "logits", None), Tensor):
        return result.logits  # type: ignore[attr-defined, no-any-return]
    if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
        return result[0]
    return None
