"""Where the inner values of attention, MLP, router and recurrence stand on a tape, told by the structure of what ran.

The same search is made on both sides, so that a value of the reference and the one that a port has in its place are
found without a name: a softmax whose shares weigh other values is attention, whatever module or function it is in.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.explain.reader import FURTHEST, PRODUCTS, Reader
from parity.explain.roles import Role
from parity.explain.trace import Frame, Ref, Step

_SOFTMAX = {"softmax", "nn.functional.softmax", "special.softmax"}
_ATTENTION = {"nn.functional.scaled_dot_product_attention", "scaled_dot_product_attention"}
_SCALED = {"mul", "__mul__", "__rmul__", "mul_", "div", "div_", "truediv", "__truediv__"}
_MERGED = {"mul", "__mul__", "__rmul__", "mul_"}
_LINEAR = {*_SCALED, "add", "__add__", "__radd__", "add_", "sub", "rsub", "__sub__", "neg", "__neg__", "clamp"}
_FEWEST_STEPS = 12  # of a recurrence
_WRAPPED = ("wrap", "<", "_call", "__call__", "inner", "decorat")
_ROUTING = (Role.router, Role.experts, Role.mlp)
_HIDDEN = -1e9  # what a mask adds to a score, at most
Kind = str


@dataclass(frozen=True)
class Unit:
    """One attention, MLP, router or recurrence of a run: its inner values by name, in the order data flows.

    taps: name -> the forms in which a value stands on the tape, the barest first; keys that are repeated for several
    heads have two. module and number: the call in which it ran, ("", 0) outside any. hidden: scores with their mask.
    causal: an attention function that was told to hide what comes after.
    """

    kind: Kind
    module: str
    number: int
    taps: Mapping[str, tuple[Ref, ...]]
    causal: bool = False
    hidden: Ref | None = None

    @property
    def call(self) -> tuple[str, int]:
        """The call in which it ran."""
        return self.module, self.number

    @property
    def last(self) -> Ref:
        """Its last value, which tells it from all others."""
        return tuple(self.taps.values())[-1][0]

    @property
    def refs(self) -> list[Ref]:
        """Its values but for the mask, which may be that of other layers too."""
        return [ref for name, forms in self.taps.items() if name != "mask" for ref in forms]


@dataclass(frozen=True)
class Places(Reader):
    """A tape, searched for units."""

    def units(self, kinds: tuple[Kind, ...] = ("attention", "mlp", "router", "recurrence")) -> tuple[Unit, ...]:
        """All units of some kinds in the order in which they ran."""
        find = {
            "attention": self._attention,
            "mlp": self._mlps,
            "router": self._routers,
            "recurrence": self._recurrences,
        }
        return tuple(unit for kind in kinds for unit in find[kind]())

    def _unit(self, kind: Kind, step: Step, taps: Mapping[str, tuple[Ref, ...]], **more: Any) -> Unit:
        module, number = step.modules[0] if step.modules else ("", 0)
        return Unit(kind, module, number, taps, **more)

    # Attention

    def _attention(self) -> Iterator[Unit]:
        for step in self.tape.steps:
            if step.name in _SOFTMAX and (found := self._weighed(step)) is not None:
                yield found
            elif step.name in _ATTENTION:
                yield self._fused(step)

    def _weighed(self, softmax: Step) -> Unit | None:
        """Attention around a softmax, if its shares weigh anything."""
        shares = Ref(softmax.number)
        weighing = None
        for own, user in self.after_layout(shares):
            if user.name in PRODUCTS and not self.is_projection(user) and len(self.inputs[user.number]) > 1:
                weighing = own, user
                break
        if weighing is None:
            return None
        own, product = weighing
        values = next(ref for ref in self.inputs[product.number] if ref != own)
        pair, mask = self._scored(self.inputs[softmax.number][0])
        taps: dict[str, tuple[Ref, ...]] = {}
        if pair is not None:
            taps |= {"q": self._forms(pair[0]), "k": self._forms(pair[1])}
        taps["v"] = self._forms(values)
        if mask is not None:
            taps["mask"] = (mask,)
        taps |= {
            "scores": (self.inputs[softmax.number][0],),
            "probabilities": (shares,),
            "context": self._merged(Ref(product.number)),
        }
        return self._unit("attention", softmax, taps, hidden=self.inputs[softmax.number][0])

    def _forms(self, ref: Ref) -> tuple[Ref, ...]:
        """A value before it is scaled by a number, and before it is repeated for several heads, and as it is used."""
        found = [ref]
        bare = self.before_layout(ref, repeated=True)
        for _ in range(2):
            step = self.step(bare)
            tensors = [other for other in self.inputs[step.number] if self.size(other) > 1]
            if step.name not in _SCALED or len(tensors) != 1:
                break
            bare = self.before_layout(tensors[0], repeated=True)
        return tuple(dict.fromkeys((bare, *found)))

    def _merged(self, ref: Ref) -> tuple[Ref, ...]:
        """A value, and what is handed on of it when its heads are side by side."""
        views = [own for own, _ in self.after_layout(ref) if self.size(own) == self.size(ref)]
        return tuple(dict.fromkeys((ref, max(views, default=ref))))

    def _scored(self, scores: Ref) -> tuple[tuple[Ref, Ref] | None, Ref | None]:
        """Queries and keys that scores were made from, and the mask that was laid over them."""
        mask = None
        ref = scores
        for _ in range(FURTHEST):
            step = self.step(ref)
            if step.name in PRODUCTS:
                pair = self.floating(step)[-2:]
                return ((pair[0], pair[1]) if len(pair) == 2 else None), mask
            if step.function is None and step.name == "leaf":
                break
            masks = [other for other in self.inputs[step.number] if _is_mask(self.tape.value(other))]
            mask = mask or next(iter(masks), None)
            others = [other for other in self.floating(step) if other not in masks and self.size(other) > 1]
            if not others:
                break
            ref = others[-1] if step.name == "written" else max(others, key=self.size)
        return None, mask

    def _fused(self, step: Step) -> Unit:
        """One call of an attention function."""
        given = dict(zip(("query", "key", "value", "attn_mask"), step.arguments, strict=False)) | dict(step.keywords)
        taps = {
            name: self._forms(given[argument])
            for name, argument in (("q", "query"), ("k", "key"), ("v", "value"))
            if isinstance(given.get(argument), Ref)
        }
        mask = given.get("attn_mask")
        if isinstance(mask, Ref):
            taps["mask"] = (mask,)
        taps["context"] = self._merged(Ref(step.number))
        causal = bool(given.get("is_causal") or step.arguments[5:6] == (True,))
        return self._unit("attention", step, taps, causal=causal)

    # MLP

    def _mlps(self) -> Iterator[Unit]:
        seen: set[Ref] = set()
        for ref in self._projected():
            made = self.before_layout(ref)
            if made in seen:
                continue
            seen.add(made)
            maker = self.step(made)
            around = next((role for name, _ in maker.modules if (role := self.role(name)) in _ROUTING), None)
            if maker.function is None or around in (Role.router, Role.experts):
                continue
            taps = self._gated(maker) or self._activated(maker)
            if taps is None:
                continue
            own = self.role(maker.module) == Role.activation  # a module of its own: the MLP is around it
            module, number = (*maker.modules[own:], ("", 0))[0]
            yield Unit("mlp", module, number, taps)

    def _projected(self) -> list[Ref]:
        """Values that parameters are multiplied with: those that steps take, and those handed to modules."""
        found: list[Ref] = []
        for step in self.tape.steps:
            if step.name in PRODUCTS:
                weights = [ref for ref in self.inputs[step.number] if self.is_weight(ref)]
                others = [ref for ref in self.floating(step) if ref not in weights]
                found += [max(others, key=self.size)] if weights and others else []
        for endpoint, refs in self.tape.marks.items():
            found += [ref for ref in refs[:1] if ref is not None and endpoint.kind == "input"]
        return sorted(set(found))

    def _gated(self, maker: Step) -> dict[str, tuple[Ref, ...]] | None:
        """A product of an activated projection with another projection."""
        if maker.name not in _MERGED or len(self.inputs[maker.number]) != 2:
            return None
        for gate, up in (self.inputs[maker.number], self.inputs[maker.number][::-1]):
            origin = self._projection_behind(gate)
            plain = self.before_layout(up)
            if origin is not None and self._is_projected(plain) and not self._same_part(origin, plain):
                return {"activation": (self.before_layout(gate),), "product": (Ref(maker.number),)}
        return None

    def _activated(self, maker: Step) -> dict[str, tuple[Ref, ...]] | None:
        """An activated projection."""
        own = Ref(maker.number)
        return {"activation": (own,)} if self._projection_behind(own) is not None else None

    def _same_part(self, first: Ref, second: Ref) -> bool:
        return first == second or torch.equal(self.tape.value(first).flatten(), self.tape.value(second).flatten())

    def _projection_behind(self, ref: Ref) -> Ref | None:
        """The projection that a value is made from element by element; None if from anything else, or unchanged."""
        size, origin, changed = self.size(ref), None, False
        waiting, seen = [ref], {ref}
        while waiting:
            own = self.before_layout(waiting.pop())
            if self._is_projected(own):
                if origin is not None and own != origin:
                    return None
                origin = own
                continue
            step = self.step(own)
            changed = changed or step.name not in _LINEAR or len(self.floating(step)) > 1
            inputs = [other for other in self.floating(step) if self.size(other) > 1]
            if not inputs or step.name in PRODUCTS or any(self.size(other) != size for other in inputs):
                return None
            if len(seen) > FURTHEST:
                return None
            waiting += [other for other in inputs if other not in seen]
            seen |= set(inputs)
        return origin if changed else None

    def _is_projected(self, ref: Ref) -> bool:
        """Whether a value is what a projection gives, or a part of it; a port is handed such values as they are."""
        for _ in range(FURTHEST):
            step = self.step(ref)
            if step.function is None and step.name == "leaf":
                return not step.label and step.values[0].ndim > 1
            if self.is_projection(step):
                return True
            inputs = self.floating(step)
            biased = step.name in ("add", "__add__", "add_") and any(self.is_weight(other) for other in inputs)
            inputs = [other for other in inputs if not self.is_weight(other)]
            if not (self.moves(step) or biased) or len(inputs) != 1:
                return False
            ref = inputs[0]
        return False

    # Routers

    def _routers(self) -> Iterator[Unit]:
        for step in self.tape.steps:
            if step.name.rpartition(".")[2] != "topk" or len(step.values) != 2 or self._chosen_among(step):
                continue
            scores = self.inputs[step.number][0]
            if self.named and self.role(step.module) not in _ROUTING:
                yield self._unit("router", step, {"index_scores": (scores,), "indices": (Ref(step.number, 1),)})
                continue
            logits = self._logits(scores)
            weights = self._weights(step)
            taps = {} if logits is None or logits == self.before_layout(scores) else {"router_logits": (logits,)}
            taps |= {"router_scores": (scores,), "experts": (Ref(step.number, 1),)}
            if weights is not None:
                taps["expert_weights"] = (weights,)
            yield self._unit("router", step, taps)

    def _chosen_among(self, topk: Step) -> bool:
        """Whether a choice only prepares the next one, such as that of groups of experts."""
        waiting, seen = list(topk.refs), set(topk.refs)
        while waiting and len(seen) < 2 * FURTHEST:
            for number in self.users.get(waiting.pop(0), ()):
                step = self.tape.steps[number]
                if step.name.rpartition(".")[2] == "topk":
                    return True
                if step.modules[:1] == topk.modules[:1] and step.name not in PRODUCTS:
                    waiting += [ref for ref in step.refs if ref not in seen]
                    seen |= set(step.refs)
        return False

    def _logits(self, scores: Ref) -> Ref | None:
        """The projection that scores were made from."""
        waiting, seen = [scores], {scores}
        while waiting and len(seen) < 2 * FURTHEST:
            ref = self.before_layout(waiting.pop(0))
            step = self.step(ref)
            if self.is_projection(step) or (step.name == "leaf" and not step.label and step.values[0].ndim > 1):
                return ref
            fresh = [other for other in self.floating(step) if other not in seen and not self.is_weight(other)]
            seen |= set(fresh)
            waiting += fresh
        return None

    def _weights(self, topk: Step) -> Ref | None:
        """What the chosen are weighed by: the last value of as many elements that is made from the choice."""
        size, last = topk.values[0].numel(), None
        waiting, seen = list(topk.refs), set(topk.refs)
        while waiting:
            ref = waiting.pop(0)
            if self.tape.value(ref).is_floating_point() and self.size(ref) == size:
                last = ref if last is None else max(last, ref)
            for number in self.users.get(ref, ()):
                step = self.tape.steps[number]
                if step.modules[:1] != topk.modules[:1] or step.name in PRODUCTS:
                    continue
                fresh = [other for other in step.refs if other not in seen and self.size(other) <= size]
                waiting += fresh
                seen |= set(fresh)
        return None if last is None else self.before_layout(last)

    # Recurrences

    def _recurrences(self) -> Iterator[Unit]:
        """The longest function that the forward of a recurrent module calls: what it is given, by name, and gives."""
        inside: dict[tuple[str, int], list[Step]] = {}
        for step in self.tape.steps:
            if step.modules and step.function is not None:
                inside.setdefault(step.modules[0], []).append(step)
        for (module, number), steps in inside.items():
            if self.role(module) != Role.recurrent:
                continue
            runs: dict[int, list[tuple[Step, Frame]]] = {}
            for step in steps:
                frame = self._called(step, module)
                if frame is not None:
                    runs.setdefault(frame.instance, []).append((step, frame))
            longest = max(runs.values(), key=len, default=[])
            if len(longest) >= _FEWEST_STEPS:
                taps = self._arguments([step for step, _ in longest], longest[0][1])
                yield Unit("recurrence", module, number, taps)

    def _called(self, step: Step, module: str) -> Frame | None:
        """The frame of the function that a module's forward called, decorators aside."""
        own = inspect.unwrap(type(self.model.get_submodule(module)).forward).__code__
        depth = next((at for at, frame in enumerate(step.frames) if frame.code is own), 0)
        inner = [frame for frame in step.frames[:depth] if not frame.code.co_name.startswith(_WRAPPED)]
        return inner[-1] if inner else None

    def _arguments(self, steps: list[Step], frame: Frame) -> dict[str, tuple[Ref, ...]]:
        """What a function was given, by the names of its arguments, and what it gives; parameters are left out."""
        code = frame.code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        numbers = {step.number for step in steps}
        known = dict.fromkeys(ref for step in steps for ref in self.inputs[step.number] if not self.is_weight(ref))
        known |= dict.fromkeys(ref for step in steps for ref in step.refs)
        taps: dict[str, tuple[Ref, ...]] = {}
        shapes: dict[str, torch.Size] = {}
        for step in steps:
            if not step.frames or step.frames[0].instance != frame.instance:
                continue
            for name in names:
                value = step.scope.get(name)
                if not isinstance(value, Tensor) or shapes.setdefault(name, value.shape) != value.shape:
                    continue
                if value.is_floating_point() and value.ndim > 1:
                    ref = next((ref for ref in known if _equal(self.tape.value(ref), value)), None)
                    taps |= {} if ref is None else {name: (ref,)}
        given = [
            ref for step in steps for ref in step.refs if any(user not in numbers for user in self.users.get(ref, ()))
        ]
        return taps | ({"recurrence": (given[-1],)} if given else {})


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and bool(torch.equal(first, second))


def _is_mask(value: Tensor) -> bool:
    """Whether a value says nothing but what is visible."""
    if value.dtype == torch.bool or value.ndim < 2:
        return value.dtype == torch.bool
    hidden = value <= _HIDDEN
    return value.is_floating_point() and bool(hidden.any()) and bool((value[~hidden] == 0).all())
