"""Running the reference: a whole program with its cache and masks, or with what it sees changed."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from parity.pair.program import Program, Turn
from parity.pair.reference import logits


def execute(model: nn.Module, program: Program) -> Tensor:
    """Run the reference's part of a program; logits `[B, T, V]`."""
    if not program.cached and program.real is None:
        return logits(model, program.input_ids)
    found: list[Tensor] = []
    cache = None
    for turn in program.turns:
        result = model(
            input_ids=turn.input_ids,
            attention_mask=None if turn.real is None else turn.real.long(),
            position_ids=program.positions(turn),
            use_cache=program.cached,
            **({} if cache is None else {"past_key_values": cache}),
        )
        cache = result.past_key_values if program.cached else None
        found.append(result.logits)
    return program.joined(found)


def execute_seeing(
    model: nn.Module, program: Program, positions: Tensor | None, see: Callable[[str, Tensor], Tensor], reach: Tensor
) -> Tensor:
    """One forward on all tokens of a program, without a cache, with other positions or other masks; `[B, T, V]`.

    Args:
        model: the reference.
        program: whose tokens, and whose padding.
        positions: `[B, T]`, None for its own.
        see: from a module's name and its mask `[B, 1, T, T]`, true where a query sees a key, to another such mask.
        reach: `[T, T]`, which keys there are when a query is run: one that sees none attends to all of these alike.
    """
    real, ids = program.real, program.input_ids
    given = Turn(ids, real)
    own = program.positions(given) if positions is None else positions
    made: list[Tensor] = []

    def changed(name: str, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == ids.shape[-1:] * 2):
            return value
        if any(value is other for other in made):
            return value
        seen = value if value.dtype == torch.bool else value >= 0
        other = see(name, seen)
        hidden = torch.finfo(torch.get_default_dtype()).min
        scores = torch.zeros(other.shape).masked_fill(~other, hidden).masked_fill(~reach, float("-inf"))
        made.append(other if value.dtype == torch.bool else scores)
        return made[-1]

    def before(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(changed(name, each) for each in args), {key: changed(name, each) for key, each in kwargs.items()}

    with ExitStack() as stack:
        for name, module in model.named_modules():
            hook = module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: before(name, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        result = model(
            input_ids=ids,
            attention_mask=(torch.ones_like(ids) if real is None else real).long(),  # else positions tell rows apart
            position_ids=own,
            use_cache=False,
        )
    logits: Tensor = result.logits
    return logits
