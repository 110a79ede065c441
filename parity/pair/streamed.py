"""The reference on a checkpoint of any size: built without memory for weights, which stay in the files they are in."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from parity.errors import ParityError
from parity.names import fold
from parity.pair import reference as references
from parity.pair.lifting import Streamed
from parity.pair.mapped import Mapped, described, hold, without_memory
from parity.pair.reference import Made, Placement, Reference
from parity.pair.safetensors_header import Entry
from parity.pair.stand_in import Apart, Place

_SHOWN = 3  # names in an error


def reference_on(
    reference: Reference, tensors: Mapped, entries: Mapping[str, Entry], promoted: bool, ignored: Collection[str] = ()
) -> Streamed:
    """The reference with a checkpoint's tensors where `from_pretrained` puts them.

    Args:
        reference: on the checkpoint's config.
        tensors: the checkpoint's.
        entries: what the files' headers say of them, under the same names.
        promoted: buffers and tables are computed in promoted float64.
        ignored: tensors that may go nowhere.

    Raises:
        ParityError: tensors are missing, left over, or of another shape or kind than the class has.
    """
    model = references.build(reference, promoted, without_memory())
    expected = model.state_dict()
    places = _places(reference, expected, entries)
    bare, own = Apart(described(entries), places), Apart(tensors, places)
    placement = references.placement(model, bare)
    _check_names(reference, placement, places, ignored)
    given = {target: bare[name] for target, name in placement.plain.items()}
    sources = {target: places[name][0] for target, name in placement.plain.items()}
    for each in placement.made:
        made = each.made_of(bare)
        given |= made
        sources |= dict.fromkeys(made, places[each.tensors[0][0]][0])
    for target, tensor in given.items():
        _check_fit(reference, sources[target], tensor, target, expected[target])
    hold(model, {target: own[name] for target, name in placement.plain.items()})
    makers: dict[str, Callable[[], Tensor]] = {
        target: partial(_made, each, own, target) for each in placement.made for target in each.made_of(bare)
    }
    return Streamed(model, once(model, given), makers, tensors=sources, spare=_stored(placement.spare, places))


def spare_tensors(reference: Reference, entries: Mapping[str, Entry]) -> frozenset[str]:
    """Tensors of a checkpoint that the reference has no use for, and leaves out on purpose."""
    model = references.build(reference, False, without_memory())
    places = _places(reference, model.state_dict(), entries)
    return _stored(references.placement(model, Apart(described(entries), places)).spare, places)


def own_tensors(
    reference: Reference, tensors: Mapping[str, Tensor], entries: Mapping[str, Entry]
) -> Mapping[str, Tensor]:
    """A checkpoint's tensors as the reference's class has them on disk, which may stand in for that of the port."""
    expected = references.build(reference, False, without_memory()).state_dict()
    return Apart(tensors, _places(reference, expected, entries))


def _places(reference: Reference, expected: Mapping[str, Tensor], entries: Mapping[str, Entry]) -> dict[str, Place]:
    """Where the tensors of the reference's class lie in a checkpoint, by the names that the class has for them."""
    if reference.stand_in is None:
        return {name: (name, None) for name in entries}
    shapes = {name: entry.shape for name, entry in entries.items()}
    return reference.stand_in.apart(shapes, {name: tensor.shape for name, tensor in expected.items()})


def _stored(names: Iterable[str], places: Mapping[str, Place]) -> frozenset[str]:
    return frozenset(places[name][0] for name in names)


def tensor_names(reference: Reference) -> list[str]:
    """What the reference calls its parameters and stored buffers."""
    return list(references.build(reference, False, without_memory()).state_dict())


def _made(made: Made, tensors: Mapping[str, Tensor], target: str) -> Tensor:
    return made.made_of(tensors)[target]


def once(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Of names of tied weights one each, in the model's order."""
    every = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    wanted, seen = set(names), set[int]()
    found = []
    for name, value in every.items():
        if name in wanted and id(value) not in seen:
            found.append(name)
            seen.add(id(value))
    return tuple(found)


def _check_names(
    reference: Reference, placement: Placement, places: Mapping[str, Place], ignored: Collection[str]
) -> None:
    if placement.missing:
        stand_in = reference.stand_in
        missing = [stand_in.name_on_disk(name) for name in placement.missing] if stand_in else placement.missing
        raise ParityError(
            f"the checkpoint lacks {some(missing)}, which {reference.class_name} needs",
            _nearest(placement) or "Check config.json against the weights.",
        )
    left = sorted(_stored(placement.unexpected, places) - set(ignored))
    if left:
        raise ParityError(
            f"the checkpoint holds {some(left)}, for which {reference.class_name} has no place",
            "Check config.json against the weights: the reference would leave them out without a word.",
        )


def _nearest(placement: Placement) -> str:
    """A tensor that only differs by what comes before its name."""
    for wanted in placement.missing:
        for name in placement.unexpected:
            if name.endswith(f".{wanted}") or wanted.endswith(f".{name}"):
                return f"It holds {name!r} instead: the names' prefix does not fit."
    return ""


def some(names: Iterable[str]) -> str:
    """Names for an error, those of one kind as one, and not too many."""
    folded = fold(names)
    more = f" and {len(folded) - _SHOWN} more kinds" if len(folded) > _SHOWN else ""
    return ", ".join(folded[:_SHOWN]) + more


def _check_fit(reference: Reference, name: str, tensor: Tensor, target: str, expected: Tensor) -> None:
    if tensor.shape != expected.shape:
        raise ParityError(
            f"tensor {name!r} has shape {list(tensor.shape)}, {reference.class_name} expects "
            f"{list(expected.shape)} for {target!r}",
            "Check config.json against the weights.",
        )
    if expected.is_floating_point() and not tensor.is_floating_point():
        raise ParityError(
            f"tensor {name!r} is stored as {str(tensor.dtype).removeprefix('torch.')}, {reference.class_name} expects "
            "floating-point numbers",
            "Give a checkpoint in bfloat16, float16 or float32.",
        )
