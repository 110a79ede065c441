"""Mutations of the config's rope parameters: what the reference's own code makes of other settings.

How frequencies follow from the settings is the reference's business: it is built once more with each other table of
rope parameters, and its tables are put in the place of the recorded ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from parity.errors import ParityError
from parity.explain.config_mutations import ConfigMutation, config_mutations
from parity.explain.mutations import Context, Mutation
from parity.explain.play import Edit, Playing
from parity.explain.trace import Step
from parity.pair import reference as references
from parity.pair.reference import Reference

_SCALING = "attention_scaling"  # what transformers' rotary modules multiply cosines and sines by


def rope_variants(reference: Reference, model: nn.Module, context: Context) -> tuple[Mutation, ...]:
    """One mutation for each other value of a rope parameter that the reference accepts, and that changes its tables.

    Args:
        reference: as described by its config.
        model: the reference as it was recorded, in promoted float64.
        context: its recorded run.
    """
    holding = {name: module for name, module in model.named_modules() if _tables(model, name)}
    found = []
    for change in config_mutations(reference):
        if "rope" not in change.field:
            continue
        edits = _edits(context, holding, replace(reference, config=change.config))
        if edits:
            was, value = (float(each) if isinstance(each, int | float) else None for each in (change.was, change.value))
            weight, site = _weight(change), _written(context, min(edits))
            found.append(
                Mutation(
                    _cause(change, context), change.name, change.text, edits, site, weight, number=was, instead=value
                )
            )
    return tuple(found)


def _weight(change: ConfigMutation) -> float:
    """A number of the config that is another one is likelier than a whole table that is."""
    return 0.9 if isinstance(change.value, int | float | str) else 0.92


def _cause(change: ConfigMutation, context: Context) -> str:
    """A factor of one is no scaling at all."""
    last = change.field.rpartition(".")[2]
    if last == "rope_type" and change.value == "default" and _turns_a_part(change.field, context.numbers):
        return "partial-rotary"
    return "rope-scaling-dropped" if last == "factor" and change.value == 1 else change.cause


def _turns_a_part(field: str, numbers: Mapping[str, float]) -> bool:
    """Whether the type of a rope says that a part of each head turns, and nothing of a stretch."""
    inside = field.removesuffix("rope_type")
    return numbers.get(f"{inside}factor", 1) == 1 != numbers.get(f"{inside}partial_rotary_factor", 1)


def _tables(model: nn.Module, name: str) -> dict[str, Tensor]:
    """A module's own buffers that no checkpoint holds."""
    stored = model.state_dict().keys()
    own = model.get_submodule(name).named_buffers(recurse=False)
    return {buffer: tensor for buffer, tensor in own if (f"{name}.{buffer}" if name else buffer) not in stored}


def _edits(context: Context, holding: Mapping[str, nn.Module], changed: Reference) -> dict[int, Edit]:
    edits: dict[int, Edit] = {}
    for name, module in holding.items():
        try:
            other = references.rebuilt(changed, module)
        except ParityError:
            continue
        tables = dict(other.named_buffers(recurse=False))
        for buffer, table in module.named_buffers(recurse=False):
            new = tables.get(buffer)
            if new is not None and new.shape == table.shape and not torch.equal(new, table):
                edits |= {number: _instead(new) for number in _made(context, table)}
        for field, value in vars(module).items():
            new_value = getattr(other, field, value)
            if _SCALING in field and isinstance(value, int | float) and new_value != value:
                edits |= {number: _by(value, new_value) for number in _scaled(context, name, value)}
    return edits


def _written(context: Context, number: int) -> int:
    """The first step that gives what a step hands on: where the reference works it out."""
    value = context.tape.steps[number].values[0]
    for step in context.tape.steps[:number]:
        own = step.values[0]
        if step.frames and own.shape == value.shape and own.dtype == value.dtype and torch.equal(own, value):
            return step.number
    return number


def _made(context: Context, table: Tensor) -> Iterator[int]:
    """The last step that gives a table."""
    for step in reversed(context.tape.steps):
        value = step.values[0]
        if value.shape == table.shape and value.dtype == table.dtype and torch.equal(value, table):
            if step.number in {number for ref in step.refs for number in context.users.get(ref, ())}:
                continue
            if any(context.users.get(ref) for ref in step.refs):
                yield step.number
                return


def _scaled(context: Context, module: str, factor: float) -> Iterator[int]:
    for step in context.tape.steps:
        if step.module == module and step.name == "mul" and factor in step.arguments[1:2]:
            yield step.number


def _instead(value: Tensor) -> Edit:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        return (value,)

    return edit


def _by(old: float, new: float) -> Edit:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        arguments, keywords = playing.given(step)
        swapped: tuple[Any, ...] = (arguments[0], new, *arguments[2:])
        return playing.compute(step, *swapped, **keywords)

    return edit
