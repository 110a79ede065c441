"""Two models in lockstep, block by block: each block gets the reference's input, is compared, and is dropped.

`Lockstep.block` is the seam: it needs one block's arguments, the reference's input to it and the weights' files, and
nothing of the blocks before it but what they leave in those arguments, so that blocks can be spread over processes
where they leave nothing. Given the port's own state as well, it
runs the port freely, and in isolation only if that goes wrong: of two values that agree within rounding at each
boundary, neither can hide an error of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from parity.compare import isolate as isolation
from parity.compare.blocks import Arguments, main_tensor
from parity.compare.boxes import beside, box
from parity.compare.capture import Endpoint, Trace, run, settled
from parity.compare.isolate import Isolation
from parity.compare.places import Place, ended, places_of
from parity.compare.plan import Plan
from parity.compare.registers import register
from parity.compare.tally import Tally, added, tallies
from parity.compare.wires import Wire
from parity.compare.wiring import Wiring
from parity.pair.lifting import Lifter, Streamed
from parity.pair.mapped import release
from parity.pair.parts import LARGE, running
from parity.pair.port import PORT_FAILS, DoesNotFit, said
from parity.records import PROMOTED_NOISE

State = Mapping[int, Tensor]
Forward = Callable[[Tensor], Tensor]
_Tallies = Mapping[Endpoint, Tally]
_MOST_LOGITS = 1 << 23  # values in the logits of the tokens that the head runs on at once


@dataclass(frozen=True)
class BlockWork:
    """What it takes to compare one block.

    index: of the block. arguments: what the reference's and the port's block are called with, but for the state.
    reference_state: what the reference's block before it handed on. port_state: the port's own, None to run the port on
    the reference's alone. isolated_state: what the port handed on with the reference's values in it, None if it was not
    run so.
    """

    index: int
    arguments: tuple[Arguments, Arguments]
    reference_state: State
    port_state: State | None = None
    isolated_state: State | None = None


@dataclass(frozen=True)
class BlockResult:
    """What one block gave: its boundaries, and what each side hands on.

    port_state: of the free run. isolated_state: of the port with the reference's values handed on, where it was run so.
    """

    index: int
    places: tuple[Place, ...]
    reference_state: State
    port_state: State
    isolated_state: State | None = None


@dataclass(frozen=True)
class Start:
    """What comes before the blocks: its boundaries, and what each block is called with."""

    places: tuple[Place, ...]
    arguments: tuple[tuple[Arguments, Arguments], ...]
    reference_state: State
    port_state: State


@dataclass(frozen=True)
class Both:
    """The two models on one checkpoint, and how they are run.

    forwards: run the whole of the reference's and of the port's model on token ids. promoted: in promoted float64,
    where rounding is too small to be mistaken for anything.
    vocabulary: values in one token's logits. noise: relative error from which values differ.
    """

    reference: Streamed
    port: Streamed
    forwards: tuple[Forward, Forward]
    plan: Plan
    lifter: Lifter
    vocabulary: int
    promoted: bool = True
    noise: float = PROMOTED_NOISE


class Lockstep:
    """Compares two models from the embedding to the logits, a block at a time."""

    def __init__(self, both: Both):
        self.both = both
        self._sides = both.reference, both.port
        names = [chain.names(side.model) for chain, side in zip(both.plan.chains, self._sides, strict=True)]
        self.blocks = list(zip(*names, strict=True))
        outside = [
            [name for name in side.names if not _within(name, blocks)]
            for side, blocks in zip(self._sides, names, strict=True)
        ]
        large = [
            {name for name in found if not side.held(name).is_meta and side.held(name).numel() >= LARGE}
            for side, found in zip(self._sides, outside, strict=True)
        ]
        self._small = [
            (side, [name for name in found if name not in kept])
            for side, found, kept in zip(self._sides, outside, large, strict=True)
        ]
        self._register = register(zip(self._sides, large, strict=True), both.lifter, both.promoted)
        self._outer = [
            box(side.model, [*beside(side.model, chain.parent), blocks[0]])
            for side, chain, blocks in zip(self._sides, both.plan.chains, names, strict=True)
        ]
        self._wiring = Wiring(both.plan, (both.reference.model, both.port.model), self.blocks)
        into_first = Endpoint(self.blocks[0][0], 0, "input")
        entry = [wire for wire in self._wiring.inside(0)[0] if wire.reference == into_first]
        self._wires = [*both.plan.outside, *entry]  # of all that is not in a block

    @property
    def not_finite(self) -> list[str]:
        """Weights met so far that hold a NaN or an infinity."""
        return list(dict.fromkeys((*self.both.lifter.not_finite, *self._register.not_finite)))

    @property
    def unlike(self) -> list[str]:
        """Blocks met so far that are built otherwise than any on the small config: only their ends are compared."""
        return [self.blocks[index][0] for index in self._wiring.unknown]

    def start(self, input_ids: Tensor) -> Start:
        """Run what comes before the blocks on token ids `[B, T]`."""
        plan = self.both.plan
        calls: list[list[Arguments]] = [[], []]

        def before(side: int) -> Tensor:
            chain, model = plan.chains[side], self._sides[side].model
            calls[side] = chain.arguments(model, lambda: self.both.forwards[side](input_ids))
            return main_tensor(calls[side][0].leaves)

        with self.both.lifter.lifted(self._small), self._running():
            ours = settled(run(self._outer[0], lambda: before(0)))
            theirs = run(self._outer[1], lambda: before(1))
            free = own = tallies(self._wires, theirs, ours)
            states = self._first_states(calls)
            if self._alone or self._wrong(free.values()):
                again = self._rerun(self._outer[1], self._wires, plan.outside_elsewhere, ours, lambda: before(1))
                own = tallies(self._wires, again, ours)
        arguments = tuple(zip(*calls, strict=True))
        places = self._places(self._wires, plan.outside_elsewhere, ours, free, own)
        return Start(places, arguments, *states)

    def block(self, work: BlockWork) -> BlockResult:
        """Compare one block."""
        names = self.blocks[work.index]
        boxes = [box(side.model, [name]) for side, name in zip(self._sides, names, strict=True)]
        lifted = [(side, side.inside(name)) for side, name in zip(self._sides, names, strict=True)]
        results: list[tuple[object, ...]] = [(), ()]

        def call(side: int, state: State) -> Tensor:
            block = self._sides[side].model.get_submodule(names[side])
            try:
                results[side] = work.arguments[side].call(block, state)
            except PORT_FAILS as error:
                if side == 0:
                    raise
                raise DoesNotFit(
                    f"{names[side]} of the port raised {said(error)}",
                    "It runs on the small config; compare the shapes.",
                ) from error
            return main_tensor(results[side])

        alone = work.isolated_state or work.port_state or {}
        onward: tuple[object, ...] = ()
        isolated: tuple[object, ...] = ()
        with self.both.lifter.lifted(lifted), self._running():
            ours = run(boxes[0], lambda: call(0, work.reference_state))
            if work.port_state is None:
                wires, elsewhere = self._wiring.inside(work.index)
                plain = [wire for wire in wires if not wire.counts_features]
                theirs = self._rerun(boxes[1], plain, elsewhere, ours, lambda: call(1, alone))
                again = self._wiring.fit(work.index, (ours, theirs))
            else:
                theirs = run(boxes[1], lambda: call(1, work.port_state or {}))
                self._wiring.fit(work.index, (ours, theirs))
                again = False
            wires, elsewhere = self._wiring.inside(work.index)
            free = own = tallies(wires, theirs, ours)
            onward = results[1]
            if again or (work.port_state is not None and self._wrong(free.values())):
                theirs = self._rerun(boxes[1], wires, elsewhere, ours, lambda: call(1, alone))
                own, isolated = tallies(wires, theirs, ours), results[1]
        if work.port_state is None:
            free, isolated = own, results[1]
        if work.index == 0 or not alone:  # it was compared where it was made, or is the reference's own
            into = Endpoint(names[0], 0, "input")
            free, own = ({end: each for end, each in found.items() if end != into} for found in (free, own))
        chains = self.both.plan.chains
        return BlockResult(
            work.index,
            self._places(wires, elsewhere, ours, free, own),
            chains[0].state(results[0]),
            chains[1].state(onward),
            chains[1].state(isolated) if isolated else None,
        )

    def end(self, input_ids: Tensor, start: Start, last: BlockResult) -> tuple[Place, ...]:
        """Run what comes after the blocks, the head on a few tokens at a time."""
        done = {place.reference for place in start.places}
        wires = [wire for wire in self._wires if wire.reference not in done]
        isolated = last.port_state if last.isolated_state is None else last.isolated_state
        free: dict[Endpoint, Tally] = {}
        own: dict[Endpoint, Tally] = {}
        with self.both.lifter.lifted(self._small), self._running():
            release()  # of the last block's weights
            for ids, states in self._token_parts(input_ids, (last.reference_state, last.port_state, isolated)):
                ours, found, alone = self._after_blocks(ids, states, wires)
                free, own = added(free, found), added(own, alone)
        return self._places(wires, self.both.plan.outside_elsewhere, ours, free, own)

    def _after_blocks(
        self, input_ids: Tensor, states: Sequence[State], wires: Sequence[Wire]
    ) -> tuple[Trace, dict[Endpoint, Tally], dict[Endpoint, Tally]]:
        """What comes after the blocks on some tokens: the reference's run, the boundaries freely and in isolation."""

        def call(side: int, state: State) -> Tensor:
            chain, forward = self.both.plan.chains[side], self.both.forwards[side]
            return chain.after(self._sides[side].model, lambda: forward(input_ids), state)

        ours = run(self._outer[0], lambda: call(0, states[0]))
        theirs = run(self._outer[1], lambda: call(1, states[1]))
        free = own = ended(wires, theirs, ours)
        if self._alone or self._wrong(free.values()):
            elsewhere = self.both.plan.outside_elsewhere
            theirs = self._rerun(self._outer[1], wires, elsewhere, ours, lambda: call(1, states[2]))
            own = ended(wires, theirs, ours)
        return ours, free, own

    def _running(self) -> AbstractContextManager[None]:
        both = self.both
        return running(both.promoted, both.lifter.dtype, both.lifter.device, self._register)

    @property
    def _alone(self) -> bool:
        """Whether boundaries are judged alone from the first: rounding adds up in all but promoted runs."""
        return not self.both.promoted

    def _wrong(self, found: Iterable[Tally]) -> bool:
        return any(not each.relative <= self.both.noise for each in found)

    def _first_states(self, calls: Sequence[Sequence[Arguments]]) -> tuple[State, State]:
        """What the first blocks are given of what blocks hand on."""
        ours, theirs = (
            {place: value for _, place in chain.carried if isinstance(value := made[0].leaves[place], Tensor)}
            for chain, made in zip(self.both.plan.chains, calls, strict=True)
        )
        return ours, theirs

    def _places(
        self, wires: Sequence[Wire], elsewhere: frozenset[Endpoint], ours: Trace, free: _Tallies, own: _Tallies
    ) -> tuple[Place, ...]:
        """Boundaries in order; where rounding adds up, no more is asked of the port's own run than of each stretch."""
        return places_of(wires, elsewhere, ours, own if self._alone else free, own)

    def _rerun(
        self,
        model: nn.Module,
        wires: Sequence[Wire],
        elsewhere: frozenset[Endpoint],
        ours: Trace,
        call: Callable[[], Tensor],
    ) -> Trace:
        """Run the port with the reference's values handed on at every boundary."""
        return isolation.rerun(Isolation(tuple(wires), {}, elsewhere, ours), ours, model, call)

    def _token_parts(self, input_ids: Tensor, states: Sequence[State]) -> Iterator[tuple[Tensor, list[State]]]:
        """Token ids and states of as many tokens as the head runs on at once; all if it is unclear what counts them."""
        length = input_ids.shape[1]
        step = max(1, _MOST_LOGITS // (self.both.vocabulary * input_ids.shape[0]))
        axes = [
            axis for state in states for value in state.values() if (axis := _token_axis(value, length)) is not None
        ]
        if len(axes) < sum(map(len, states)):
            step = length
        for begin in range(0, length, step):
            size = min(step, length - begin)
            parts: list[State] = [
                {place: _cut(value, begin, size, length) for place, value in state.items()} for state in states
            ]
            yield input_ids[:, begin : begin + size], parts


def _within(weight: str, blocks: Iterable[str]) -> bool:
    return any(weight.startswith(f"{block}.") for block in blocks)


def _token_axis(value: Tensor, length: int) -> int | None:
    """The axis of a value that counts tokens, None if it is not clear."""
    axes = [axis for axis, size in enumerate(value.shape) if size == length]
    return axes[0] if len(axes) == 1 else None


def _cut(value: Tensor, begin: int, size: int, length: int) -> Tensor:
    axis = _token_axis(value, length)
    return value if size == length or axis is None else value.narrow(axis, begin, size)
