"""A ground for mutations: the reference on some weights and tokens, recorded, so that changes to it can be tried."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from parity.compare.capture import LOGITS, renumbered, run
from parity.compare.isolate import logits_error
from parity.explain import config_mutations as configs
from parity.explain.config_mutations import ConfigMutation
from parity.explain.mutations import Context, Mutation, joined, propose
from parity.explain.play import Edit, Playing, play
from parity.explain.trace import Ref, Session, Step, Tape
from parity.names import numbers, template
from parity.pair import probe
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.pair.promote import double, precision
from parity.pair.reference import Reference
from parity.pair.small_config import context_length
from parity.pair.weights import randomise

Key = tuple[Any, ...]
State = Mapping[str, Tensor]

_EVERYWHERE = "everywhere"
_LARGER = 2.0  # times the usual weights


@dataclass(frozen=True)
class Ground:
    """The reference on one set of weights and one probe, recorded.

    sees: what is said of a change that shows here and on no ground before it.
    """

    reference: Reference
    state: State
    input_ids: Tensor
    tape: Tape
    context: Context
    sees: str = ""

    @classmethod
    def of(cls, reference: Reference, state: State, input_ids: Tensor, sees: str = "") -> "Ground":
        """Build, load and run the reference, watched."""
        session = Session()
        model = references.build(reference, True, session.mode)
        model.load_state_dict(state)
        session.name(model)

        def forward() -> Tensor:
            logits = references.logits(model, input_ids)
            session.passed(LOGITS, (logits,))  # the trace copies them, and the tape knows no copies
            return logits

        with precision(True, session.mode):
            trace = run(model, forward, observer=session)
            tape = session.tape(trace.logits).renumbered(renumbered(trace))
        tape = replace(tape, logits=tape.at(LOGITS))
        return cls(reference, model.state_dict(), input_ids, tape, Context.of(tape, model, reference.settings), sees)

    @property
    def logits(self) -> Ref:
        """Where the tape ends."""
        assert self.tape.logits is not None
        return self.tape.logits

    @cached_property
    def mutations(self) -> dict[Key, Mutation]:
        """Every mutation of the code and of what is loaded, one of each kind.

        Of those that differ in the layer alone, the last of each kind of layer stands for the others: replaying it is
        the least work. Those that stand in several places at once, as a fault in code that many modules share, come on
        top.
        """
        proposals = list(propose(self.context, [step.number for step in self.tape.steps]))
        proposals += _misloaded(self.context, _initial(self.reference))
        together = joined(self.context, proposals)[: -len(proposals)]
        alone = {self._key(mutation, self._kind(mutation)): mutation for mutation in proposals}
        return {self._key(mutation, _EVERYWHERE): mutation for mutation in together} | alone

    def _key(self, mutation: Mutation, where: str) -> Key:
        return mutation.name, mutation.cause, self.context.sites[mutation.site], where

    def _kind(self, mutation: Mutation) -> str:
        """The kind of layer that a mutation is made in; outside layers, the number of the call."""
        step = self.tape.steps[mutation.site]
        layer = numbers(step.label or step.module)
        kinds = self.reference.settings.get("layer_types") or ()
        if layer:
            return str(kinds[layer[0]]) if layer[0] < len(kinds) else ""
        return f"call {step.modules[0][1]}" if step.modules and step.modules[0][1] else ""

    def name(self, key: Key, mutation: Mutation) -> str:
        """What a mutation is called among all others: what it does, and where."""
        step = self.tape.steps[mutation.site]
        function = step.frames[0].code.co_name if step.frames else ""
        place = template(step.module) or function or "the model"
        line = f", line {step.frames[0].line}" if step.frames else ""
        where = f", {key[-1]}" if key[-1] else ""
        return f"{mutation.text.removeprefix('behaves as if ')} ({place}{line}{where})"

    def played(self, mutation: Mutation) -> float | None:
        """How far a mutation moves the logits; None if it does not run here, as a port with it would not."""
        try:
            with double():
                playing = play(self.tape, mutation.edits, self.context.users)
        except Exception:
            return None
        return self._moved(playing.own(self.logits))

    @cached_property
    def values(self) -> dict[str, ConfigMutation]:
        """Every other value for every field."""
        return {mutation.name: mutation for mutation in configs.config_mutations(self.reference)}

    def configured(self, name: str) -> tuple[float | None, str]:
        """How far another value of a field moves the logits, or None and why there are none."""
        if name not in self.values:
            return None, "not a value for this config"
        model, reason = configs.apply(self.values[name], self.state)
        if model is None:
            return None, reason
        try:
            with precision(True):
                return self._moved(references.logits(model, self.input_ids)), ""
        except Exception as error:  # whatever the reference raises, it does not run on this value
            return None, f"{type(error).__name__}: {error}"

    def _moved(self, logits: Tensor) -> float:
        return logits_error(logits, self.tape.value(self.logits))


def _initial(reference: Reference) -> State:
    """What the reference's class starts with: the values of a tensor that is never loaded."""
    torch.manual_seed(0)
    return references.build(reference, promoted=True).state_dict()


def _misloaded(context: Context, initial: State) -> Iterator[Mutation]:
    """Tensors left as initialised or transposed, biases left out, a tied head with a matrix of its own."""
    for step in context.tape.steps:
        if step.function is not None or step.label not in initial:
            continue
        fresh = initial[step.label]
        kind = template(step.label)
        yield _loaded("weights-silently-missing", f"{kind} were never loaded", step, fresh)
        if step.label.endswith(".bias"):
            yield _loaded("bias-dropped", f"{kind} were left out", step, torch.zeros_like(fresh))
        if fresh.ndim == 2 and fresh.shape[0] == fresh.shape[1]:
            yield _loaded("weight-transposed", f"{kind} were transposed", step, step.values[0].T.contiguous())
        yield from _untied(context, step, fresh)


def _loaded(cause: str, name: str, step: Step, value: Tensor) -> Mutation:
    return Mutation(cause, name, f"behaves as if {name}", {step.number: lambda _playing, _step: (value,)}, step.number)


def _untied(context: Context, leaf: Step, fresh: Tensor) -> Iterator[Mutation]:
    """A matrix that both embeds and gives logits, left as initialised in the second place."""
    users = [context.tape.steps[number] for number in context.users.get(Ref(leaf.number), ())]
    if not any("embedding" in user.name for user in users):
        return
    for user in users:
        if "embedding" in user.name:
            continue

        def change(playing: Playing, step: Step) -> tuple[Tensor, ...]:
            arguments, keywords = playing.given(step)
            given = zip(step.arguments, arguments, strict=True)
            own = [fresh if argument == Ref(leaf.number) else value for argument, value in given]
            return playing.compute(step, *own, **keywords)

        edit: Edit = change
        text = "behaves as if the head were not tied"
        yield Mutation("tied-head", "head not tied", text, {user.number: edit}, user.number)


def own_ground(pair: Pair) -> Ground:
    """The ground that a check stands on: its weights, its probe."""
    return Ground.of(pair.reference, pair.reference_model.state_dict(), pair.input_ids)


def other_grounds(pair: Pair, full: Mapping[str, Any]) -> Iterator[Ground]:
    """Grounds on which more may show: other random numbers, a longer probe, larger weights, heads of their full width.

    Wider heads than those of the full-size config would show what is no fault of a port of it.
    """
    length = pair.input_ids.shape[1]
    longest = context_length(pair.reference.settings, 4 * length + 3)
    longer, much_longer = min(2 * length + 1, longest), min(4 * length + 3, longest)
    numbers_show = "other random weights or tokens show it"
    yield _ground(pair.reference, pair.seed + 1, length, 1.0, numbers_show)
    needs = f"needs a longer probe: {longer} tokens show it" if longer > length else numbers_show
    yield _ground(pair.reference, pair.seed + 2, longer, 1.0, needs)
    needs = f"needs larger weights or a longer probe: weights twice as large and {much_longer} tokens show it"
    yield _ground(pair.reference, pair.seed + 3, much_longer, _LARGER, needs)
    wider = _wider(pair.reference, full)
    if wider is not None:
        needs = f"needs wider heads: {wider.settings['head_dim']} features each show it"
        yield _ground(wider, pair.seed + 4, length, 1.0, needs)


def _ground(reference: Reference, seed: int, tokens: int, larger: float, sees: str) -> Ground:
    ids = probe.make(reference.settings, tokens, seed).input_ids
    return Ground.of(reference, _weights(reference, seed, larger), ids, sees)


def _wider(reference: Reference, full: Mapping[str, Any]) -> Reference | None:
    """The reference with heads as wide as the full-size model has them, so that rope has as many frequencies.

    Fields that say the same width again go on agreeing. None where that does not run: the width has a part in others.
    """
    settings, width = reference.settings, full.get("head_dim")
    narrow = settings.get("head_dim")
    if not isinstance(width, int) or not isinstance(narrow, int) or width <= narrow:
        return None
    same = [name for name, value in settings.items() if name.endswith("head_dim") and value == narrow]
    try:
        wider = references.describe({**settings, **{name: width for name in same if full.get(name) == width}})
        with precision(True):
            references.logits(references.build(wider, True), torch.zeros(1, 2, dtype=torch.long))
    except Exception:  # whatever the class raises, it does not run on this width
        return None
    return wider


def _weights(reference: Reference, seed: int, larger: float) -> State:
    model = references.build(reference, promoted=False)
    randomise(model, seed, references.input_axes(model))
    for tensor in model.parameters():
        tensor.mul_(larger)
    return model.state_dict()
