"""Mutations of experts: how a router scores and picks, what becomes of its shares, and what is added up in the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from parity.explain.edit_common import mutation_of
from parity.explain.mutations import Context, Mutation, Region
from parity.explain.play import Edit, Playing
from parity.explain.roles import Role
from parity.explain.trace import Ref, Step

_SHARES, _CHOICE, _SUM = "router-norm-topk", "router-selection", "moe-combine"
_DIVIDING = ("div", "div_", "truediv", "__itruediv__", "__truediv__")
_SCORING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax over experts": lambda x: x.softmax(-1),
    "softmax over tokens": lambda x: x.softmax(0),
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "nothing": lambda x: x,
}


def of_router(context: Context, step: Step) -> Iterator[Mutation]:
    """Mutations of one operation of a router."""
    if context.place(step).role != Role.router:
        return
    if step.name in ("nn.functional.softmax", "softmax", "sigmoid", "nn.functional.sigmoid"):
        for name, score in _SCORING.items():
            text = f"scores were made by {name}, not by {step.name.rpartition('.')[2]}"
            yield mutation_of(context, step, f"scored by {name}", text, partial(_scored, score), 1.0, _SHARES)
    if step.name == "topk":
        yield from _picked(context, step)
    if step.name in _DIVIDING:
        yield from _brought_to_one(context, step)
    if step.name == "gather" or (step.name == "topk" and not _divided(context, step)):
        yield from _shares_changed(context, step)


def _scored(score: Callable[[Tensor], Tensor], playing: Playing, step: Step) -> Tensor:
    return score(playing.given(step)[0][0])


def _picked(context: Context, step: Step) -> Iterator[Mutation]:
    """The worst for the best, or as many as there are."""

    def worst(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        arguments, keywords = playing.given(step)
        return playing.compute(step, *arguments, **{**keywords, "largest": False})

    text = "behaves as if the worst were picked, not the best"
    yield Mutation(_CHOICE, "topk of the worst", text, {step.number: worst}, step.number)
    users = [context.tape.steps[number] for number in context.users.get(step.refs[0], ())]
    for user in users:
        if user.name != "sum" or user.keywords.get("keepdim"):
            continue

        def every(playing: Playing, made: Step, step: Step = step) -> tuple[Tensor, ...]:
            scores: Tensor = playing.given(step)[0][0]
            return (scores.sum(-1),)

        text = "behaves as if a group were judged by all of its experts"
        yield Mutation(_CHOICE, "group by all", text, {user.number: every}, user.number)


def _brought_to_one(context: Context, step: Step) -> Iterator[Mutation]:
    """Shares divided by their sum: not at all, by another measure, or by the sum over all experts."""
    shares = step.arguments[0]
    if not isinstance(shares, Ref) or not _is_sum_of(context, step.arguments[1], shares):
        return
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "left out": lambda x: x,
        "by their length": lambda x: x / x.norm(dim=-1, keepdim=True),
        "by the largest": lambda x: x / x.amax(-1, keepdim=True),
        "by a softmax": lambda x: x.softmax(-1),
    }
    for name, change in others.items():
        text = (
            f"the division of the shares by their sum is {name}"
            if name == "left out"
            else f"shares were normalised {name}, not by their sum"
        )
        yield mutation_of(context, step, f"shares {name}", text, partial(_scored, change), 0.95, _SHARES)
    whole = _scores_of(context, shares)
    if whole is not None:

        def over_all(playing: Playing, step: Step, whole: Ref = whole) -> Tensor:
            result: Tensor = playing.given(step)[0][0] / playing.value(whole, step).sum(-1, keepdim=True)
            return result

        text = "shares were divided by the sum over all experts, not over the chosen ones"
        yield mutation_of(context, step, "shares over all", text, over_all, 0.95, _SHARES)


def _is_sum_of(context: Context, divisor: object, shares: Ref) -> bool:
    """Whether a divisor is the sum of the shares, with an eps or without."""
    for _ in range(3):
        if not isinstance(divisor, Ref):
            return False
        made = context.producer(divisor)
        if made.name == "sum":
            return bool(made.arguments[0] == shares)
        divisor = made.arguments[0] if made.arguments else None
    return False


def _scores_of(context: Context, shares: Ref) -> Ref | None:
    """What shares were taken from: the scores of all experts."""
    made = context.producer(shares)
    taken = made.arguments[0] if made.name in ("gather", "topk") else None
    return taken if isinstance(taken, Ref) else None


def _divided(context: Context, step: Step) -> bool:
    users = [context.tape.steps[number] for number in context.users.get(step.refs[0], ())]
    return any(user.name in _DIVIDING or user.name == "sum" for user in users)


def _shares_changed(context: Context, step: Step) -> Iterator[Mutation]:
    """Shares of the chosen brought to a sum of one, or put through a softmax, where they are not to be."""
    users = {context.tape.steps[number].name for number in context.users.get(step.refs[0], ())}
    if users & {*_DIVIDING, "sum"}:
        return
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "brought to a sum of one": lambda x: x / x.sum(-1, keepdim=True),
        "put through a softmax": lambda x: x.softmax(-1),
    }
    for name, change in changes.items():

        def edit(playing: Playing, step: Step, change: Callable[[Tensor], Tensor] = change) -> tuple[Tensor, ...]:
            arguments, keywords = playing.given(step)
            values, *rest = playing.compute(step, *arguments, **keywords)
            return (change(values), *rest)

        text = f"behaves as if the shares of the chosen were {name}"
        yield Mutation(_SHARES, f"shares {name}", text, {step.number: edit}, step.number, 0.95)


def of_experts(context: Context, region: Region) -> Iterator[Mutation]:
    """Mutations of one call of the experts: of all of them at once, or of the first or last one alone."""
    turns = _turns(context, region)
    if not turns:
        return
    yield from _shares_elsewhere(context, turns)
    yield from _some_left_out(turns)
    yield from _written_over(turns)
    yield from _weights_of_others(context, region, turns)
    yield from _begun_with(context, region, turns)
    yield from _counted(context, turns)


class _Turn:
    """One expert's turn: what it is given, what it makes of it, the shares, and where its result is added."""

    def __init__(self, context: Context, region: Region, added: Step):
        self.added = added
        self.rows = added.arguments[2]
        self.weighed = context.producer(added.arguments[3])
        while self.weighed.name in ("to", "type_as", "view", "reshape") and self.weighed.inputs:
            self.weighed = context.producer(self.weighed.inputs[0])
        pair = [ref for ref in self.weighed.arguments[:2] if isinstance(ref, Ref)]
        narrow = [ref for ref in pair if context.tape.value(ref).shape[-1:] == (1,)]
        self.share = narrow[0] if len(pair) == 2 and len(narrow) == 1 else None
        self.made = next((ref for ref in pair if ref != self.share), None)
        inside = set(region.steps)
        self.given = next(
            (
                step
                for number in context.users.get(self.rows, ())
                if (step := context.tape.steps[number]).name in ("__getitem__", "index_select")
                and step.number in inside
                and step.values[0].is_floating_point()
                and step.number < added.number
                and step.refs[0] != self.share
            ),
            None,
        )


def _turns(context: Context, region: Region) -> list[_Turn]:
    """The experts' turns in one call, in the order they come."""
    steps = [context.tape.steps[number] for number in region.steps]
    here = [step for step in steps if step.module == region.name and len(step.arguments) == 4]
    added = [step for step in here if step.name in ("index_add_", "index_add")]
    return [_Turn(context, region, step) for step in added if isinstance(step.arguments[2], Ref)]


def _shares_elsewhere(context: Context, turns: Sequence[_Turn]) -> Iterator[Mutation]:
    """The share times what an expert is given, none at all, or always that of the first place."""
    whole = [turn for turn in turns if turn.share is not None and turn.made is not None and turn.given is not None]
    if len(whole) != len(turns):
        return
    on_input: dict[int, Edit] = {}
    forgotten: dict[int, Edit] = {}
    first_place: dict[int, Edit] = {}
    for turn in whole:
        assert turn.share is not None
        assert turn.made is not None
        assert turn.given is not None
        taken = context.producer(turn.share)

        def weighed(playing: Playing, step: Step, taken: Step = taken) -> tuple[Tensor, ...]:
            arguments, keywords = playing.given(step)
            own, named = playing.given(taken)
            share = playing.compute(taken, *own, **named)[0]
            return (playing.compute(step, *arguments, **keywords)[0] * share,)

        def bare(playing: Playing, step: Step, made: Ref = turn.made) -> tuple[Tensor, ...]:
            return (playing.value(made, step),)

        def first(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            (values, places), _ = playing.given(step)
            return (values[tuple(torch.zeros_like(at) if n == 1 else at for n, at in enumerate(places))],)

        on_input |= {turn.given.number: weighed, turn.weighed.number: bare}
        forgotten[turn.weighed.number] = bare
        if taken.name == "__getitem__" and isinstance(taken.arguments[1], tuple) and len(taken.arguments[1]) > 1:
            first_place[taken.number] = first
    site = turns[0].weighed.number
    text = "behaves as if what an expert is given were weighed by its share, not what it gives"
    yield Mutation(_SUM, "shares on the input", text, on_input, site, 0.95)
    text = "behaves as if the shares were left out of the sum of the experts"
    yield Mutation(_SUM, "shares left out", text, forgotten, site, 0.95, omits=True)
    if len(first_place) == len(turns):
        text = "behaves as if every expert had the share of the first one chosen"
        yield Mutation(_SUM, "shares of the first", text, first_place, min(first_place), 0.95)


def _left(playing: Playing, step: Step) -> tuple[Tensor, ...]:
    return (playing.given(step)[0][0],)


def _some_left_out(turns: Sequence[_Turn]) -> Iterator[Mutation]:
    """The first expert or the last one never has its turn."""
    for which, turn in (("first", turns[0]), ("last", turns[-1])) if len(turns) > 1 else ():
        text = f"behaves as if the {which} expert had no part in the sum"
        edits: dict[int, Edit] = {turn.added.number: _left}
        yield Mutation(_SUM, f"{which} expert left out", text, edits, turn.added.number, 0.9, omits=True)


def _written_over(turns: Sequence[_Turn]) -> Iterator[Mutation]:
    """What an expert gives takes the place of what others gave, rather than being added to it."""

    def written(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        total, axis, rows, values = playing.given(step)[0]
        return (total.index_copy(axis, rows, values),)

    text = "behaves as if each expert's result took the place of the others', not added to them"
    edits: dict[int, Edit] = {turn.added.number: written for turn in turns}
    yield Mutation(_SUM, "written over", text, edits, turns[0].added.number, 0.95)


def _weights_of_others(context: Context, region: Region, turns: Sequence[_Turn]) -> Iterator[Mutation]:
    """Every expert with the weights of its neighbour, one of them left out or all in a ring."""
    inside = [context.tape.steps[number] for number in region.steps]
    taking = [step for step in inside if step.name in ("__getitem__", "select") and _takes_weights(context, step)]
    if not taking:
        return
    for by, words in ((1, "next"), (-1, "previous")):

        def other(playing: Playing, step: Step, by: int = by) -> tuple[Tensor, ...]:
            weights, at = playing.given(step)[0][:2]
            return (weights[(int(at) + by) % len(weights)],)

        edits: dict[int, Edit] = {step.number: other for step in taking}
        text = f"behaves as if every expert had the weights of the {words} one"
        yield Mutation("weights-misplaced", f"weights of the {words} expert", text, edits, taking[0].number, 0.95)
        alone = turns[-1 if by > 0 else 0].added.number
        text = f"behaves as if the {words} expert took every expert's tokens, and those of the last none"
        yield Mutation(_SUM, f"counted to the {words}", text, {**edits, alone: _left}, taking[0].number, 0.95)


def _takes_weights(context: Context, step: Step) -> bool:
    """Whether a step takes one expert's matrix out of those of all."""
    if (
        len(step.arguments) < 2
        or not isinstance(step.arguments[0], Ref)
        or not isinstance(step.arguments[1], Ref | int)
    ):
        return False
    return bool(context.producer(step.arguments[0]).label) and step.values[0].ndim == 2


def _begun_with(context: Context, region: Region, turns: Sequence[_Turn]) -> Iterator[Mutation]:
    """The sum begun with what the experts are given."""
    first = turns[0].added
    values = [
        ref for ref in region.inputs if not context.producer(ref).label and context.tape.value(ref).is_floating_point()
    ]
    given = next((ref for ref in values if context.tape.value(ref).shape == first.values[0].shape), None)
    if given is None:
        return

    def begun(playing: Playing, step: Step) -> tuple[Tensor, ...]:
        (total, *rest), keywords = playing.given(step)
        return playing.compute(step, total + playing.value(given, step), *rest, **keywords)

    text = "behaves as if what the experts are given were added to what they give"
    yield Mutation(_SUM, "sum begun with the input", text, {first.number: begun}, first.number, 0.95)


def of_sum(context: Context, step: Step) -> Iterator[Mutation]:
    """Experts and what stands beside them, added with other weights."""
    if step.name != "add" or not has_experts(context, step.module):
        return
    refs = [ref for ref in step.arguments[:2] if isinstance(ref, Ref)]
    if len(refs) != 2:
        return
    for factor, words in _factors(context).items():
        for at in (0, 1, None):

            def scaled(playing: Playing, step: Step, at: int | None = at, factor: float = factor) -> Tensor:
                parts = [value * factor if at in (n, None) else value for n, value in enumerate(playing.given(step)[0])]
                result: Tensor = parts[0] + parts[1]
                return result

            what = "the sum" if at is None else context.name_of(refs[at])
            text = f"{what} counted {words}"
            yield mutation_of(context, step, f"operand {at} times {factor:g}", text, scaled, 1.05, _SUM)


def _factors(context: Context) -> dict[float, str]:
    """What a share or a sum may be multiplied by, in words."""
    named = {name: number for name, number in context.numbers.items() if "scal" in name or "factor" in name}
    said = {1 / 2: "half of it", 2.0: "twice as much"}
    for name, number in named.items():
        if number not in (0, 1):
            said |= {number: f"`{name}` times as much", 1 / number: f"as much as if it were divided by `{name}`"}
    return said


def _counted(context: Context, turns: Sequence[_Turn]) -> Iterator[Mutation]:
    """All that experts give, multiplied once more."""
    for factor, words in _factors(context).items():

        def scaled(playing: Playing, step: Step, factor: float = factor) -> tuple[Tensor, ...]:
            (total, axis, rows, values), keywords = playing.given(step)
            return playing.compute(step, total, axis, rows, values * factor, **keywords)

        text = f"behaves as if what the experts give counted {words}"
        edits: dict[int, Edit] = {turn.added.number: scaled for turn in turns}
        yield Mutation(_SUM, f"experts times {factor:g}", text, edits, turns[-1].added.number, 1.05)


def has_experts(context: Context, module: str) -> bool:
    """Whether a module holds experts, or a router that picks among them, as its own parts."""
    inner = (name for name in context.classes if name.startswith(f"{module}.") and "." not in name[len(module) + 1 :])
    return bool(module) and any(context.role_of(name) in (Role.experts, Role.router) for name in inner)
