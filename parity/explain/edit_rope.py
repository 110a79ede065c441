"""Mutations of rotary position encodings: which features pair, on what, how often, and in which order with q/k norm."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from parity.explain.mutations import Context, Mutation, Region, again
from parity.explain.play import Edit, Playing
from parity.explain.roles import _FUNCTIONS, Role
from parity.explain.trace import Ref, Step

_FEWEST = 4  # pairs of features of which a part is worth trying
Rotate = Callable[[Tensor, Tensor, Tensor], Tensor]


def propose(context: Context, region: Region) -> Iterator[Mutation]:
    """Mutations of one call of a function that rotates queries and keys by cosines and sines."""
    if not _rotates(region):
        return
    rotated = _rotated(context, region)
    if not rotated:
        return
    tables = [ref for ref in region.inputs if ref not in rotated.values()]
    if len(tables) != 2:
        return
    cos, sin = tables
    both = dict(rotated)
    names = ["q", "k"] if len(both) == 2 else ["q and k"]
    choices: list[tuple[str, dict[Ref, Ref]]] = [
        (name, {out: both[out]}) for name, out in zip(names, both, strict=False)
    ]
    if len(both) == 2:
        choices.insert(0, ("q and k", both))
    for name, function, cause, text in _VARIANTS:
        for which, outputs in choices:
            edits: dict[int, Edit] = {
                output.step: _edit(context, region, given, cos, sin, output, function)
                for output, given in outputs.items()
            }
            yield Mutation(
                cause,
                f"rope {name} {which}",
                f"behaves as if {which} {text}",
                edits,
                max(edits),
                1.0 if len(outputs) == len(both) else 1.05,
            )
    yield from _after_norm(context, region, rotated)


def _rotates(region: Region) -> bool:
    """Whether a function's name says that it rotates."""
    return any(role == Role.rope and pattern.search(region.name) for pattern, role in _FUNCTIONS)


def standing(context: Context, step: Step) -> Iterator[Mutation]:
    """The slow pairs of a table of frequencies stand still: a part of each head is rotated, as if all of it were."""
    value = step.values[0]
    if value.ndim != 1 or not value.is_floating_point() or "div" not in step.name or value.shape[0] < _FEWEST:
        return
    shares = {number for name, number in context.numbers.items() if "partial" in name and 0 < number < 1}
    for share in sorted(shares | {0.25, 0.5, 0.75}):

        def edit(playing: Playing, step: Step, share: float = share) -> tuple[Tensor, ...]:
            arguments, keywords = playing.given(step)
            table = playing.compute(step, *arguments, **keywords)[0].clone()
            table[int(share * table.shape[0]) :] = 0
            return (table,)

        text = f"behaves as if only {share:g} of the pairs of features were rotated"
        yield Mutation("partial-rotary", f"{step.name} to {share:g}", text, {step.number: edit}, step.number)


def rotations(context: Context) -> Iterator[tuple[Region, dict[Ref, Ref]]]:
    """Every call of a function that rotates, with what it gives by what that is a rotation of."""
    for region in context.functions:
        rotated = _rotated(context, region) if _rotates(region) else {}
        if rotated:
            yield region, rotated


def before_norms(context: Context, inside: set[int]) -> Iterator[Mutation]:
    """The rotation made before the norm of queries or keys: what a port hands to that norm then."""
    for region in context.functions:
        if not _rotates(region):
            continue
        for output, given in _rotated(context, region).items():
            norm = _norm_before(context, given)
            if norm is None or norm[1].step not in inside:
                continue
            _, source, normed = norm

            def edit(
                playing: Playing,
                step: Step,
                region: Region = region,
                output: Ref = output,
                given: Ref = given,
                source: Ref = source,
                normed: Ref = normed,
            ) -> tuple[Tensor, ...]:
                bare = playing.tape.value(source)
                plain = _as(bare.reshape(playing.tape.value(normed).shape), playing, context, normed, given)
                turned = again(playing, context, region, {given: plain}, output)
                values = list(step.values)
                values[source.part] = _as_back(turned, playing, normed, given).reshape(bare.shape)
                return tuple(values)

            text = "behaves as if q/k norm came after rope, not before it"
            yield Mutation(
                "qknorm-order", "rope before q/k norm", text, {source.step: edit}, source.step, 0.95, moves=True
            )


Variant = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor], Tensor]


def _edit(context: Context, region: Region, given: Ref, cos: Ref, sin: Ref, output: Ref, function: Variant) -> Edit:
    def edit(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        def rotate(value: Tensor, **tables: Tensor) -> Tensor:
            inputs = {given: value}
            if "cos" in tables:
                inputs |= {cos: tables["cos"], sin: tables["sin"]}
            return again(playing, context, region, inputs, output)

        value = playing.value(given, step)
        return (function(rotate, value, playing.value(cos, step), playing.value(sin, step)),)

    return edit


def _interleave(value: Tensor) -> Tensor:
    """Halves -> pairs of neighbours."""
    return torch.stack(value.chunk(2, -1), -1).flatten(-2)


def _separate(value: Tensor) -> Tensor:
    """Pairs of neighbours -> halves."""
    return torch.cat((value[..., ::2], value[..., 1::2]), -1)


def _neighbours(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _interleave(rotate(_separate(value)))


def _neighbours_kept(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(_separate(value))


def _halves(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _separate(rotate(_interleave(value)))


def _halves_kept(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Of a rotation of neighbours that gives them half by half."""
    return rotate(_interleave(value))


def _mixed(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbours are paired, but the tables are laid out for halves."""
    pairs = torch.stack((-value[..., 1::2], value[..., ::2]), -1).flatten(-2)
    cos, sin = (table if table.ndim == value.ndim else table.unsqueeze(1) for table in (cos, sin))
    size = cos.shape[-1]
    if size != value.shape[-1]:
        raise ValueError("tables of another width")
    return value * cos + pairs * sin


def _none(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return value


def _twice(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(rotate(value))


def _backwards(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(value, cos=cos, sin=-sin)


def _exchanged(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(value, cos=sin, sin=cos)


def _head_axis(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads, tokens = value.shape[1], cos.shape[-2]
    if heads == tokens != value.shape[2]:
        raise ValueError("tokens come before heads here, so that this is the right axis")
    tables = [
        table.narrow(-2, 0, heads).unsqueeze(-2).squeeze(1) if table.ndim == 4 else table[:, :heads, None]
        for table in (cos, sin)
    ]
    half = value.shape[-1] // 2
    turned = torch.cat((-value[..., half:], value[..., :half]), -1)
    cos_, sin_ = (table.reshape(-1, heads, 1, table.shape[-1]) for table in tables)
    return value * cos_ + turned * sin_


def _half_of_it(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Only the first half of the features is rotated, by the tables' first half."""
    size = value.shape[-1] // 2
    part, rest = value[..., :size], value[..., size:]
    cos, sin = (table if table.ndim == value.ndim else table.unsqueeze(1) for table in (cos, sin))
    angles = (_narrow(cos, size), _narrow(sin, size))
    first, second = part.chunk(2, -1)
    return torch.cat((part * angles[0] + torch.cat((-second, first), -1) * angles[1], rest), -1)


def _half_kept(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first half of what is rotated stays rotated, the rest passes through."""
    size = value.shape[-1] // 2
    return torch.cat((rotate(value)[..., :size], value[..., size:]), -1)


def _quarter(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Only the first half of the features is rotated, by the first frequencies of the whole."""
    size = value.shape[-1] // 2
    part, rest = value[..., :size], value[..., size:]
    cos, sin = (table if table.ndim == value.ndim else table.unsqueeze(1) for table in (cos, sin))
    cos, sin = (torch.cat((table[..., : size // 2],) * 2, -1) for table in (cos, sin))
    first, second = part.chunk(2, -1)
    return torch.cat((part * cos + torch.cat((-second, first), -1) * sin, rest), -1)


def _narrow(table: Tensor, size: int) -> Tensor:
    """The table of a rope half as wide: every other frequency."""
    frequencies = table[..., : table.shape[-1] // 2][..., ::2][..., : size // 2]
    return torch.cat((frequencies, frequencies), -1)


def _neighbour_table(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(value, cos=_interleave(cos), sin=_interleave(sin))


def _half_table(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(value, cos=_separate(cos), sin=_separate(sin))


def _every_feature(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """All of the head is rotated, where only a part is to be: as if the tables were as wide as it."""
    size, part = value.shape[-1], cos.shape[-1]
    if part >= size or part < 4:
        raise ValueError("nothing is left out of the rotation")
    gain = (cos[..., :1, :1] ** 2 + sin[..., :1, :1] ** 2).sqrt()
    angles = torch.atan2(sin, cos)
    steps = (angles[..., 1:, :] - angles[..., :-1, :]).remainder(2 * torch.pi)
    positions = torch.cat((angles[..., :1, :1], angles[..., :1, :1] + steps[..., :1].cumsum(-2)), -2)
    base = float(steps.flatten(0, -2)[0, 1]) ** (-part / 2)
    wide = positions / base ** (torch.arange(0, size, 2, dtype=value.dtype) / size)
    wide = torch.cat((wide, wide), -1)
    wide = wide if wide.ndim == value.ndim else wide.unsqueeze(1)
    first, second = value.chunk(2, -1)
    return gain.reshape(-1)[0] * (value * wide.cos() + torch.cat((-second, first), -1) * wide.sin())


def _last_features(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The last features are rotated, where the first are to be."""
    size, part = value.shape[-1], cos.shape[-1]
    if part >= size:
        raise ValueError("nothing is left out of the rotation")
    return rotate(value.roll(part, -1)).roll(-part, -1)


def _one_position(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(value, cos=cos[..., :1, :].expand_as(cos), sin=sin[..., :1, :].expand_as(sin))


def _later(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One position later than it should: the tables are rotated by their own first step."""
    gain = cos[..., :1, :]  # at position 0 a cosine is one, but for what tables are multiplied by
    step_cos, step_sin = cos[..., 1:2, :] / gain, sin[..., 1:2, :] / gain
    return rotate(value, cos=cos * step_cos - sin * step_sin, sin=sin * step_cos + cos * step_sin)


def _earlier(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    gain = cos[..., :1, :]  # at position 0 a cosine is one, but for what tables are multiplied by
    step_cos, step_sin = cos[..., 1:2, :] / gain, -sin[..., 1:2, :] / gain
    return rotate(value, cos=cos * step_cos - sin * step_sin, sin=sin * step_cos + cos * step_sin)


def _rolled(rotate: Callable[..., Tensor], value: Tensor, cos: Tensor, sin: Tensor, by: int) -> Tensor:
    """One position off, and the position at the end taken from the other end."""
    return rotate(value, cos=cos.roll(by, -2), sin=sin.roll(by, -2))


_VARIANTS: tuple[tuple[str, Variant, str, str], ...] = (
    ("none", _none, "nope-and-temperature", "were not rotated"),
    ("neighbours", _neighbours, "rope-pairing", "were rotated in pairs of neighbours (0 1) (2 3), not in halves"),
    ("neighbours separated", _neighbours_kept, "rope-pairing", "were reordered from neighbours to halves first"),
    ("halves", _halves, "rope-pairing", "were rotated in halves, not in pairs of neighbours"),
    ("halves kept", _halves_kept, "rope-pairing", "were rotated in halves, not in pairs of neighbours"),
    ("mixed", _mixed, "rope-pairing", "were paired as neighbours with tables laid out for halves"),
    ("twice", _twice, "rope-axis-or-twice", "were rotated twice"),
    ("backwards", _backwards, "rope-pairing", "were rotated the other way round"),
    ("cos and sin exchanged", _exchanged, "rope-pairing", "were rotated with cosines and sines exchanged"),
    ("head axis", _head_axis, "rope-axis-or-twice", "were rotated by their head's index, not their position"),
    ("first half", _half_of_it, "partial-rotary", "were rotated in their first half only, as a narrower rope"),
    ("first quarter", _quarter, "partial-rotary", "were rotated in their first half only, by the first frequencies"),
    (
        "table of neighbours",
        _neighbour_table,
        "rope-pairing",
        "were rotated in halves by tables laid out for neighbours",
    ),
    ("table of halves", _half_table, "rope-pairing", "were rotated by tables laid out for halves"),
    ("half kept", _half_kept, "partial-rotary", "were rotated in their first half only"),
    ("every feature", _every_feature, "partial-rotary", "were rotated in all of their features, not in a part"),
    ("last features", _last_features, "partial-rotary", "were rotated in their last features, not in the first"),
    ("one position", _one_position, "position-ids", "were all rotated as position 0"),
    ("later", _later, "position-ids", "were rotated one position further"),
    ("earlier", _earlier, "position-ids", "were rotated one position less"),
    ("rolled on", partial(_rolled, by=-1), "position-ids", "were rotated one position on, the last as the first"),
    ("rolled back", partial(_rolled, by=1), "position-ids", "were rotated one position back, the first as the last"),
)


def _rotated(context: Context, region: Region) -> dict[Ref, Ref]:
    """Outputs of the call, and the input that each is a rotation of: same shape, not a table."""
    found: dict[Ref, Ref] = {}
    for output in region.outputs:
        shape = context.tape.value(output).shape
        for given in region.inputs:
            if given in found.values() or context.tape.value(given).shape != shape:
                continue
            if len(shape) > 3:
                found[output] = given
                break
    return found


def _after_norm(context: Context, region: Region, rotated: dict[Ref, Ref]) -> Iterator[Mutation]:
    """q/k norm applied after the rotation."""
    edits: dict[int, Edit] = {}
    for output, given in rotated.items():
        norm = _norm_before(context, given)
        if norm is None:
            continue
        call, source, normed = norm

        def edit(
            playing: Playing,
            step: Step,
            output: Ref = output,
            given: Ref = given,
            call: Region = call,
            source: Ref = source,
            normed: Ref = normed,
        ) -> tuple[Tensor, ...]:
            bare = playing.value(source, step)
            moved = bare.reshape(playing.tape.value(normed).shape)
            plain = _as(moved, playing, context, normed, given)
            turned = again(playing, context, region, {given: plain}, output)
            back = _as_back(turned, playing, normed, given)
            result = again(playing, context, call, {source: back.reshape(bare.shape)}, normed)
            return (_as(result, playing, context, normed, given),)

        edits[output.step] = edit
    if edits:
        text = "behaves as if q/k norm came after rope, not before it"
        yield Mutation("qknorm-order", "q/k norm after rope", text, edits, max(edits), 1.0)


def _as(value: Tensor, playing: Playing, context: Context, normed: Ref, given: Ref) -> Tensor:
    """A value in the norm's layout, in that of the rotation's input: nothing or one exchange of axes lies between."""
    shape = playing.tape.value(given).shape
    return value if value.shape == shape else value.reshape(*shape[:1], shape[2], shape[1], shape[3]).transpose(1, 2)


def _as_back(value: Tensor, playing: Playing, normed: Ref, given: Ref) -> Tensor:
    shape = playing.tape.value(normed).shape
    return value if value.shape == shape else value.transpose(1, 2).reshape(shape)


def _norm_before(context: Context, given: Ref) -> tuple[Region, Ref, Ref] | None:
    """The norm from which a value came unchanged but for its layout: its call, its input and its output."""
    from parity.explain.match import is_layout

    ref = given
    while True:
        step = context.producer(ref)
        if context.place(step).role == Role.qk_norm and step.modules:
            call = context.calls[step.modules[0]]
            values = [source for source in call.inputs if not context.producer(source).label]
            if len(values) == 1 and len(call.outputs) == 1:
                return call, values[0], call.outputs[0]
            return None
        if not is_layout(step.name) or not step.inputs:
            return None
        ref = step.inputs[0]
