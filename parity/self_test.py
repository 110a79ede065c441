"""The self-test: one fault per stage, put into a port that passes, which the check has to see.

A fault is put into the built and loaded model, by hooks on its modules and by its tensors' values, so that it works on
any port. Before it counts, it has to change what the port computes.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parity.compare.sides import parameters
from parity.errors import ParityError
from parity.gate_records import Case, Trial, Wanted
from parity.pair import pair as pairs
from parity.pair import running
from parity.pair.pair import Pair
from parity.pair.port import Spoiled

_SCALE = 1 + 1e-3
_MATTERS = 1e-6  # relative change of float32 logits from which a fault is one; a pre-norm scale leaves less
_KEPT_BITS = 3  # of the mantissa, of bfloat16's eight: sixteen times its rounding and more
_MODULE_FAULTS = {
    "forward": "the output of {} is 0.1 % too large",
    "precision": "the output of {} is rounded to 3 bits in low precision",
    "gradient": "the output of {} is detached",
}
_TENSOR_FAULTS = {
    "forward": "{} is used 0.1 % too large",
    "precision": "{} is rounded to 3 bits in low precision",
    "gradient": "the gradient of {} is halved",
}
_HOOKED = {
    "cache": "the second call with a cache leaves nothing in it",
    "batch": "attention_mask is ignored",
}


@dataclass
class Fault:
    """A change to a loaded model; `fired` once it took effect."""

    words: str
    put_in: Callable[[nn.Module, "Fault"], object]
    fired: bool = field(default=False)

    def __call__(self, model: nn.Module) -> None:
        """Put it into a model."""
        self.put_in(model, self)


def trial(case: Case, stage: str, wanted: Wanted, progress: Callable[[str], object] = lambda _: None) -> Trial:
    """Put a fault into a port that passes `stage`, and check it.

    Args:
        case: port, config and dtype.
        stage: that the fault belongs to, and the only one that is run.
        wanted: how the case is checked otherwise.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: the case cannot be checked at all.
    """
    from parity.pipeline import check

    progress(f"self-test: {stage}")
    fault = _fault(case, stage, wanted)
    if fault is None:
        return Trial(case, stage, "", problem=f"no fault of stage {stage} is known that changes what the port computes")
    report = check(
        Spoiled(case.port, fault),
        config=case.config,
        small_config=wanted.small_config,
        seed=wanted.seed,
        dtype=case.dtype,
        stage=(stage,),
        progress=progress,
    )
    ran = next(each for each in report.stages if each.name == stage)
    if ran.verdict == "not_run":
        return Trial(case, stage, fault.words, problem=f"with the fault, the stage does not run: {ran.reason}")
    if not fault.fired:
        return Trial(case, stage, fault.words, problem="the check never runs what the fault is in")
    return Trial(case, stage, fault.words, seen=ran.verdict == "fail")


def _fault(case: Case, stage: str, wanted: Wanted) -> Fault | None:
    """One that changes what this port computes, None if none is known."""
    if stage == "cache":
        return Fault(_HOOKED[stage], _forgetting)
    if stage == "batch":
        return Fault(_HOOKED[stage], _unmasked)
    with tempfile.TemporaryDirectory(prefix="parity-") as directory:
        config = Path(case.config) if case.config else None
        pair = pairs.make(case.port, config, None, wanted.small_config, wanted.seed, Path(directory))
        if stage == "weights":
            return _misloaded(pair)
        return _in_a_module(pair, stage) or _in_a_tensor(pair, stage)


@torch.no_grad()
def _misloaded(pair: Pair) -> Fault | None:
    """A tensor with other values than the checkpoint's, as if it had never been loaded."""
    model = pair.port_model.model
    expected = _logits(pair)
    every = parameters(model)
    matrices = [name for name, value in every.items() if value.ndim >= 2]
    for name in _from_the_middle(matrices or list(every)):
        kept = every[name].clone()
        _overwrite(every[name])
        changed = _differs(_logits(pair), expected)
        every[name].copy_(kept)
        if changed:
            return Fault(f"{name} is never loaded", _overwriting(name))
    return None


def _overwriting(name: str) -> Callable[[nn.Module, Fault], None]:
    def put_in(model: nn.Module, fault: Fault) -> None:
        with torch.no_grad():
            _overwrite(parameters(model)[name])
        fault.fired = True

    return put_in


def _overwrite(tensor: Tensor) -> None:
    """Values of a usual initialiser; nothing of what was loaded, not even its size, stays."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    tensor.copy_(noise * tensor.shape[-1] ** -0.5)


@torch.no_grad()
def _in_a_module(pair: Pair, stage: str) -> Fault | None:
    """A fault in one module's output, as near to the middle of the model as there is one whose output matters."""
    model = pair.port_model.model
    expected = _logits(pair)
    for name in _from_the_middle(_matrices(pair)):
        with _undone(model):
            _on_output(name, "forward")(model, Fault("", _nothing))
            matters = _differs(_logits(pair), expected)
        if matters:
            return Fault(_MODULE_FAULTS[stage].format(name), _on_output(name, stage))
    return None


@torch.no_grad()
def _in_a_tensor(pair: Pair, stage: str) -> Fault | None:
    """The same in one of the model's tensors, for a port that calls no module with a matrix."""
    every = parameters(pair.port_model.model)
    expected = _logits(pair)
    for name in _from_the_middle([name for name, value in every.items() if value.ndim >= 2]):
        kept = every[name].clone()
        every[name].mul_(_SCALE)
        matters = _differs(_logits(pair), expected)
        every[name].copy_(kept)
        if matters:
            return Fault(_TENSOR_FAULTS[stage].format(name), _on_tensor(name, stage))
    return None


def _nothing(_model: nn.Module, _fault: Fault) -> None:
    """For a fault that is put in otherwise."""


def _matrices(pair: Pair) -> list[str]:
    """Modules that multiply by a matrix of their own, in the order in which a forward calls them.

    Norms are left out: one that rounds coarsely is a note of the stage precision, and no fault.
    """
    called: list[str] = []
    model = pair.port_model.model
    with _undone(model):
        for name, module in model.named_modules():
            if name and any(each.ndim >= 2 for each in module.parameters(recurse=False)):
                module.register_forward_hook(lambda *_, name=name: called.append(name))
        _logits(pair)
    return list(dict.fromkeys(called))


def _from_the_middle(names: Sequence[str]) -> Iterator[str]:
    """The middle one, then its neighbours, outwards."""
    middle = len(names) // 2
    yield from sorted(names, key=lambda name: abs(names.index(name) - middle))


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """Takes back, at the end, every forward hook that is registered meanwhile."""
    before = {module: set(module._forward_hooks) for module in model.modules()}
    try:
        yield
    finally:
        for module, kept in before.items():
            for key in [key for key in module._forward_hooks if key not in kept]:
                del module._forward_hooks[key]


def _logits(pair: Pair) -> Tensor:
    return running.call(pair.port, pair.port_model.model, pair.input_ids).double()


def _differs(logits: Tensor, expected: Tensor) -> bool:
    return not torch.linalg.vector_norm(logits - expected) <= _MATTERS * torch.linalg.vector_norm(expected)


def _on_output(name: str, stage: str) -> Callable[[nn.Module, Fault], None]:
    """Changes what a module returns."""
    change = {"forward": _scaled, "precision": _coarse, "gradient": Tensor.detach}[stage]

    def put_in(model: nn.Module, fault: Fault) -> None:
        def after(_module: nn.Module, _given: object, output: Any) -> Any:
            if stage == "precision" and not _is_low(model):
                return None
            fault.fired = True
            return _with_first(output, change)

        dict(model.named_modules())[name].register_forward_hook(after)

    return put_in


def _on_tensor(name: str, stage: str) -> Callable[[nn.Module, Fault], None]:
    """Changes a tensor when the model runs, so that it was loaded as it should be."""

    def put_in(model: nn.Module, fault: Fault) -> None:
        state = {"done": False}

        def halved(gradient: Tensor) -> Tensor:
            fault.fired = True
            return gradient / 2

        def before(_module: nn.Module, _given: object) -> None:
            if state["done"] or (stage == "precision" and not _is_low(model)):
                return
            state["done"] = fault.fired = True
            with torch.no_grad():
                tensor = parameters(model)[name]
                tensor.copy_(_scaled(tensor) if stage == "forward" else _coarse(tensor))

        if stage != "gradient":
            model.register_forward_pre_hook(before)
        elif (tensor := parameters(model)[name]).requires_grad:
            tensor.register_hook(halved)  # type: ignore[no-untyped-call]

    return put_in


def _scaled(value: Tensor) -> Tensor:
    return value * _SCALE


def _coarse(value: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(value.float())
    return torch.ldexp((mantissa * 2**_KEPT_BITS).round() / 2**_KEPT_BITS, exponent).to(value.dtype)


def _is_low(model: nn.Module) -> bool:
    return any(value.dtype in (torch.bfloat16, torch.float16) for value in parameters(model).values())


def _with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its first tensor changed."""
    if isinstance(output, Tensor):
        return change(output) if output.is_floating_point() else output
    if isinstance(output, tuple | list) and output:
        changed = [_with_first(output[0], change), *output[1:]]
        return changed if isinstance(output, list) else tuple(changed)
    return output


def _forgetting(model: nn.Module, fault: Fault) -> None:
    """The second call that gets a cache works on a copy, so that what it appends is lost."""
    seen: dict[str, Any] = {"cache": None, "calls": 0}

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        cache = named.get("cache")
        if cache is None:
            return None
        seen["calls"] = seen["calls"] + 1 if cache is seen["cache"] else 1
        seen["cache"] = cache
        if seen["calls"] != 2:
            return None
        try:
            other = copy.deepcopy(cache)
        except Exception as error:  # whatever a port keeps there
            raise ParityError("the port's cache cannot be copied", "The self-test cannot spoil it.") from error
        fault.fired = True
        return given, {**named, "cache": other}

    model.register_forward_pre_hook(before, with_kwargs=True)


def _unmasked(model: nn.Module, fault: Fault) -> None:
    """Padding is taken for tokens."""

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        mask = named.get("attention_mask")
        if not isinstance(mask, Tensor) or bool(mask.all()):
            return None
        fault.fired = True
        return given, {**named, "attention_mask": torch.ones_like(mask)}

    model.register_forward_pre_hook(before, with_kwargs=True)
