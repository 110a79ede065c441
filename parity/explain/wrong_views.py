"""Wrong positions of tokens, and wrong views of keys, that a cache or padding leaves a port with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from parity.compare.rungs import Outcome

See = Callable[["Grid", Tensor, int | None], Tensor]


@dataclass(frozen=True)
class Hypothesis:
    """One thing that a port may do. see: of masks `[B, 1, T, T]`; positions: `[B, T]`."""

    cause: str
    name: str
    text: str
    positions: Tensor | None = None
    see: See | None = None


@dataclass(frozen=True)
class Grid:
    """The tokens of a program by the calls that they are run in, `[T]` each, and which are real, `[B, T]`."""

    start: Tensor
    end: Tensor
    real: Tensor
    positions: Tensor

    @classmethod
    def of(cls, outcome: Outcome) -> "Grid":
        """The grid of one program."""
        program = outcome.program
        lengths = [turn.input_ids.shape[1] for turn in program.turns]
        start = [at for at, length in zip(program.starts, lengths, strict=True) for _ in range(length)]
        end = [at + length for at, length in zip(program.starts, lengths, strict=True) for _ in range(length)]
        ids = program.input_ids
        real = torch.ones_like(ids, dtype=torch.bool) if program.real is None else program.real.bool()
        positions = (real.long().cumsum(1) - 1).clamp_min(0)
        return cls(torch.tensor(start), torch.tensor(end), real, positions)

    @property
    def place(self) -> Tensor:
        """`[T]`: 0, 1, 2 and so on."""
        return torch.arange(len(self.start))

    @property
    def later(self) -> Tensor:
        """`[T]`: whether a token is run in a call after the first."""
        return self.start > 0

    @property
    def first(self) -> int:
        """How many tokens the first call has."""
        return int(self.end[0])

    @property
    def call(self) -> Tensor:
        """`[T]`: the number of each token's call."""
        return (self.start[:, None] > self.starts[None]).sum(1)

    @property
    def starts(self) -> Tensor:
        """`[calls]`: where each call begins."""
        found: Tensor = torch.unique(self.start)
        return found

    @property
    def before(self) -> Tensor:
        """`[T]`: where the call before each token's own began."""
        return self.starts[(self.call - 1).clamp_min(0)]

    @property
    def causal(self) -> Tensor:
        """`[T, T]`: what a query may see of all keys."""
        return self.key <= self.query

    @property
    def so_far(self) -> Tensor:
        """`[T, T]`: the keys that there are by the end of a query's call."""
        return self.key < self.end[:, None]

    @property
    def hides(self) -> Tensor:
        """`[B, 1, 1, T]`: the keys that padding leaves."""
        return self.real[:, None, None]

    @property
    def query(self) -> Tensor:
        """`[T, 1]`."""
        return self.place[:, None]

    @property
    def key(self) -> Tensor:
        """`[1, T]`."""
        return self.place[None]


def window_in(mask: Tensor) -> int | None:
    """The window of a mask `[B, 1, T, T]`, None if every query sees all before it."""
    widest = int(mask.sum(-1).max())
    return widest if widest < mask.shape[-1] else None


def positions(grid: Grid, outcome: Outcome) -> Iterator[Hypothesis]:
    """Wrong positions of tokens."""
    found = [*(_padded_positions(grid) if outcome.program.real is not None else ())]
    if outcome.program.cached:
        found += [*_decoded_positions(grid), *_kept_positions(grid, outcome)]
    for name, text, places in found:
        told = f"behaves as if {text}"
        yield Hypothesis("position-ids", name, told, places.expand_as(grid.real).clamp_min(0))


_Places = tuple[str, str, Tensor]


def _padded_positions(grid: Grid) -> Iterator[_Places]:
    own, place, length = grid.positions, grid.place[None], len(grid.start)
    yield "positions=arange", "positions counted padding, the same in every row", place
    yield "positions=cumsum", "positions began at 1", own + 1
    yield "positions=arange in call", "positions counted padding, and began anew in every call", place - grid.start
    from_right = place - length + grid.real.long().sum(1, keepdim=True)
    yield "positions from the right", "positions were counted from the end of the call", from_right


def _decoded_positions(grid: Grid) -> Iterator[_Places]:
    own, start, size, later = grid.positions, grid.start, grid.end - grid.start, grid.later
    inside, call = grid.place - start, grid.call
    yield "positions-start", "positions began at 0 in every call", own - start
    yield "positions+start", "the offset of positions were added twice", own + start
    for by in (1, -1, 2):
        text = f"positions after the first call were {abs(by)} too {'far' if by > 0 else 'near'}"
        yield f"positions{by:+d}", text, own + by * later
    yield "positions+call", "positions began after the call's own tokens", own + size * later
    yield "positions+call-1", "every call began at the position of its last token", own + (size - 1) * later
    yield "positions=start", "all tokens of a call had the position of its first", torch.where(later, own - inside, own)
    last = torch.where(later, own - inside + size - 1, own)
    yield "positions=end", "all tokens of a call had the position of its last", last
    yield "positions=calls", "positions continued from the number of calls", own - start + call
    counted = torch.where(later, own - start + grid.first + call - 1, own)
    yield "positions=first+calls", "positions grew by one in every call, whatever its length", counted
    grown = own - start + grid.starts.cumsum(0)[call]
    yield "positions=sum of starts", "the offset of positions grew by the whole length in every call", grown
    yield "positions*2", "positions after the first call counted double", torch.where(later, 2 * own, own)


def _kept_positions(grid: Grid, outcome: Outcome) -> Iterator[_Places]:
    """Positions that continue from what the cache keeps, of the lengths at which the port goes wrong."""
    first = outcome.first[1] if outcome.first else 0
    for kept in range(max(1, first - 2), first + 3):
        text = f"positions continued from the {kept} tokens that the cache keeps"
        yield f"positions<={kept}", text, grid.positions - grid.start + grid.start.clamp_max(kept)


def views(grid: Grid, outcome: Outcome) -> Iterator[Hypothesis]:
    """Wrong views of keys: what a window is first, then masks, then what the cache keeps."""
    if outcome.program.real is not None:
        yield from _paddings(grid, outcome.program.cached)
    if outcome.program.cached:
        yield from _windows(len(grid.start))
        yield from _masks()
        yield from _in_full_layers(len(grid.start))


_Seen = Callable[[Grid], Tensor]  # [T, T]
_SeenIn = Callable[[Grid, int], Tensor]  # the same, given the window


def _masks() -> Iterator[Hypothesis]:
    """Calls with a cache that see too much or too little, in layers of every kind."""
    table: tuple[tuple[str, str, str, _Seen, bool], ...] = (
        ("attention-mask", "mask: not causal", "a call with a cache were not causal", lambda g: g.so_far, True),
        ("attention-mask", "mask: none with a cache", "a call with a cache had no mask at all",
         lambda g: g.so_far, False),
        ("attention-mask", "mask: from the top left", "the mask of a call began at the first key, not at its own",
         lambda g: g.key <= g.query - g.start[:, None], True),
        ("kv-cache", "cache: not read", "a call saw its own tokens alone",
         lambda g: g.causal & (g.key >= g.start[:, None]), True),
        ("kv-cache", "cache: first call only", "what is decoded were forgotten after its call",
         lambda g: g.causal & ((g.key < g.first) | (g.key >= g.start[:, None])), True),
        ("kv-cache", "cache: own call not read", "a token saw the cache and itself alone",
         lambda g: (g.key < g.start[:, None]) | (g.key == g.query), True),
        ("kv-cache", "cache: own token not read", "a token did not see itself", lambda g: g.key < g.query, True),
        ("kv-cache", "cache: last call alone", "the cache kept the last call alone",
         lambda g: g.causal & (g.key >= g.before[:, None]), True),
    )  # fmt: skip
    for cause, name, text, seen, within in table:
        yield Hypothesis(cause, name, f"behaves as if {text}", see=partial(_with_cache, seen, within))


def _with_cache(seen: _Seen, within: bool, grid: Grid, mask: Tensor, window: int | None) -> Tensor:
    """Masks of calls after the first; within: inside the window all the same."""
    found = seen(grid)[None, None].expand_as(mask)
    if window is not None and within:
        found = found & (grid.key > grid.query - window)
    return torch.where(grid.later[:, None], found & grid.real[:, None, None], mask)


def _windows(length: int) -> Iterator[Hypothesis]:
    """What sliding layers see when decoding."""
    table: list[tuple[str, str, _SeenIn]] = [
        ("window: none", "sliding layers had no window when decoding", lambda g, w: g.causal),
        ("cache: the oldest", "a full cache kept its oldest keys, not its latest",
         lambda g, w: (g.key > g.query - w) & ((g.key < w) | (g.key >= g.start[:, None]))),
        ("cache: last place", "a full cache wrote every new key into its last place",
         lambda g, w: (g.key < w - 1) | (g.key >= g.start[:, None])),
    ]  # fmt: skip
    for by in (-1, 1, -2, 2):
        wider = f"{abs(by)} token{'s' * (abs(by) > 1)} {'wider' if by > 0 else 'narrower'}"
        table.append((f"window{by:+d}", f"the window were {wider} when decoding", partial(_window, by)))
    for by in (1, 2):
        much = f"{by} token{'s' * (by > 1)} more than the window needs, and all of them were seen"
        table.append((f"cache{by:+d}", f"the cache of sliding layers kept {much}", partial(_kept_more, by)))
    for by in (0, -1, 1):
        text = "keys left the cache of sliding layers before the call that pushes them out was done"
        table.append((f"cache of the call{by:+d}", text, partial(_kept_early, by)))
    for kept in range(1, length):
        text = f"the cache of sliding layers kept {kept} token{'s' * (kept > 1)}"
        table.append((f"cache={kept}", text, partial(_kept, kept)))
    for name, text, seen in table:
        yield Hypothesis("swa-cache", name, f"behaves as if {text}", see=partial(_sliding, seen))


def _sliding(seen: _SeenIn, grid: Grid, mask: Tensor, window: int | None) -> Tensor:
    if window is None:
        return mask
    found = seen(grid, window) & grid.causal & grid.real[:, None, None]
    return torch.where(grid.later[:, None], found.expand_as(mask), mask)


def _window(by: int, grid: Grid, window: int) -> Tensor:
    return grid.key > grid.query - window - by


def _kept_more(by: int, grid: Grid, window: int) -> Tensor:
    return grid.key >= grid.start[:, None] - (window - 1) - by


def _kept_early(by: int, grid: Grid, window: int) -> Tensor:
    return (grid.key > grid.query - window) & (grid.key >= grid.end[:, None] - window - by)


def _kept(kept: int, grid: Grid, window: int) -> Tensor:
    return (grid.key > grid.query - window) & (grid.key >= grid.start[:, None] - kept)


def _in_full_layers(length: int) -> Iterator[Hypothesis]:
    """Layers that attend to everything, of which too little is kept."""
    for kept in range(1, length):
        text = f"behaves as if the cache of layers that attend to everything kept {kept} token{'s' * (kept > 1)}"
        yield Hypothesis("swa-cache", f"cache={kept} in full layers", text, see=partial(_full, kept))


def _full(kept: int, grid: Grid, mask: Tensor, window: int | None) -> Tensor:
    found = mask & (grid.key >= grid.start[:, None] - kept)
    return torch.where(grid.later[:, None], found, mask) if window is None else mask


def _paddings(grid: Grid, cached: bool) -> Iterator[Hypothesis]:
    """Padding that is seen, or hidden in the wrong place; positions count it or not."""
    table: tuple[tuple[str, str, _Seen, bool], ...] = (
        ("mask: padding seen", "padding were seen like any token", lambda g: torch.ones_like(g.hides), False),
        ("mask: padding of the first row", "every row were padded like the first",
         lambda g: g.hides[:1].expand_as(g.hides), False),
        ("mask: padding of the last row", "every row were padded like the last",
         lambda g: g.hides[-1:].expand_as(g.hides), False),
        ("mask: queries", "padding were hidden as a query, not as a key", lambda g: g.hides.transpose(2, 3), False),
        ("mask: from the right", "padding were on the right", lambda g: g.hides.flip(3), False),
        ("mask: inverted", "padding were seen, and real tokens were not", lambda g: ~g.hides, False),
        ("mask: padding-1", "one token of padding were seen", partial(_longer, -1), False),
        ("mask: padding+1", "the first real token were hidden like padding", partial(_longer, 1), False),
    )  # fmt: skip
    if cached:
        seen = "padding were seen once tokens are decoded with the cache"
        table += (("mask: padding seen when decoding", seen, lambda g: torch.ones_like(g.hides), True),)
    for name, text, hides, later in table:
        see = partial(_padded, hides, later)
        counted = grid.place[None].expand_as(grid.real)
        yield Hypothesis("attention-mask", name, f"behaves as if {text}", counted, see)
        yield Hypothesis("attention-mask", f"{name}, positions of real tokens", f"behaves as if {text}", see=see)


def _padded(hides: _Seen, later: bool, grid: Grid, mask: Tensor, window: int | None) -> Tensor:
    inside = grid.causal if window is None else grid.causal & (grid.key > grid.query - window)
    found = (inside & hides(grid)).expand_as(mask)
    return torch.where(grid.later[:, None], found, mask) if later else found


def _longer(by: int, grid: Grid) -> Tensor:
    pads = (~grid.real).sum(1, keepdim=True)
    return (grid.key >= torch.where(pads > 0, pads + by, pads))[:, None, None]
