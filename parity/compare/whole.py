"""Two models of any size run whole, for a port without blocks that can be run alone: the logits, and what is beside."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from parity.compare.boxes import box
from parity.compare.capture import Endpoint, run, settled
from parity.compare.places import Place, ended, places_of
from parity.compare.registers import register
from parity.compare.wires import Wire
from parity.names import numbers
from parity.pair.lifting import Lifter, Streamed
from parity.pair.parts import running


def whole(
    sides: tuple[Streamed, Streamed],
    forwards: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    wires: Sequence[Wire],
    elsewhere: frozenset[Endpoint],
    input_ids: Tensor,
    lifter: Lifter,
    promoted: bool,
) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Run both models on token ids `[B, T]`, weights lifted as each operation uses them.

    Returns:
        Boundaries of modules that carry no number and are in both models, the logits last; and weights that hold a NaN
        or an infinity.
    """
    plain = [
        wire
        for wire in wires
        if not (wire.counts_features or numbers(wire.reference.module) or numbers(wire.port.module))
        and not wire.reference.number
    ]
    modules = {wire.reference.module for wire in plain}, {wire.port.module for wire in plain}
    traces, broken = [], []
    for side, forward, names in zip(sides, forwards, modules, strict=True):
        made = [name for name in side.names if side.held(name).is_meta]
        kept = [name for name in side.names if name not in made]
        stored = register([(side, kept)], lifter, promoted)
        outer = box(side.model, [name for name in names if not _around(name, names)])
        with lifter.lifted([(side, made)]), running(promoted, lifter.dtype, lifter.device, stored):
            traces.append(run(outer, partial(forward, input_ids)))
        broken += [*lifter.not_finite, *stored.not_finite]
    ours, theirs = settled(traces[0]), traces[1]
    found = ended(plain, theirs, ours)
    return places_of(plain, elsewhere, ours, found, found), tuple(dict.fromkeys(broken))


def _around(name: str, names: set[str]) -> bool:
    """Whether a module is in another of these, with which it is watched."""
    return any(name.startswith(f"{other}.") for other in names)
