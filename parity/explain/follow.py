"""What could not be followed: code whose source is not at hand, and values that leave torch on the way."""

import linecache
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.compare.capture import Endpoint, run
from parity.compare.stages import Sides
from parity.compare.witness import in_transform
from parity.explain.record import code_files
from parity.explain.shape import saying
from parity.names import shown
from parity.pair import running
from parity.pair.pair import Pair
from parity.pair.promote import precision
from parity.records import Finding

_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), "<frozen")
_LEAVING = {"numpy": "numpy", "__array__": "numpy", "tolist": "a list"}


def admitted(pair: Pair, sides: Sides, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings that say what of the port could not be followed, where that is why they say no more."""
    findings = list(found)
    lineless = next((place for place, each in enumerate(findings) if each.port_source is None), None)
    unread = unreadable(sides.port.model) if lineless is not None else ()
    if lineless is not None and unread:
        line = f"no line is named: the port's source cannot be read ({', '.join(unread)})"
        findings[lineless] = saying(findings[lineless], [line])
    puzzling = [each for each in findings if each.stage == "forward" and each.cause == "unknown"]
    left = _departures(pair, sides) if puzzling else ()
    return tuple(_with(each, left) if each in puzzling else each for each in findings)


def unreadable(model: nn.Module) -> tuple[str, ...]:
    """The files of a port's own classes that are not there: it was compiled, typed in, or generated."""
    return tuple(shown(file) for file in code_files(model) if not linecache.getlines(file))


def _with(finding: Finding, left: Iterable[tuple[str, str]]) -> Finding:
    own = finding.port_module
    return saying(finding, (line for module, line in left if not own or f"{module}.".startswith(f"{own}.")))


@torch.no_grad()
def _departures(pair: Pair, sides: Sides) -> tuple[tuple[str, str], ...]:
    """Where in one run of the port values leave torch: module, and what to say of it."""
    model = sides.port.model
    watcher = _Watcher()
    with precision(True, watcher):
        run(model, lambda: running.execute(pair.port, model, pair.program), observer=watcher)
    return tuple(watcher.found)


class _Watcher(TorchFunctionMode):
    """Sees values leave, and in which module."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], None] = {}
        self._open: list[str] = []

    def enter(self, module: str, number: int) -> None:
        """A module begins."""
        del number
        self._open.append(module)

    def leave(self) -> None:
        """The module that began last ends."""
        self._open.pop()

    def passed(self, endpoint: Endpoint, tensors: Sequence[Tensor]) -> None:
        """The run passes an endpoint."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        where = _place(sys._getframe(1)) if in_transform() or self._leaves(func, args) else ""
        if where:
            name = _LEAVING.get(getattr(func, "__name__", ""))
            what = "values are transformed by torch.func" if name is None else f"values leave torch for {name}"
            module = self._open[-1] if self._open else ""
            self.found[module, f"{what} at {where}; what is computed there was not followed"] = None
        return func(*args, **(kwargs or {}))

    def _leaves(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        leaving = getattr(func, "__name__", "") in _LEAVING
        return leaving and bool(args) and isinstance(args[0], Tensor) and args[0].numel() > 1


def _place(frame: FrameType | None) -> str:
    """The line of an author's code."""
    while frame is not None and frame.f_code.co_filename.startswith(_FOREIGN):
        frame = frame.f_back
    return "" if frame is None else f"{shown(frame.f_code.co_filename)}:{frame.f_lineno}"
