"""Whether an edited port computes another function: its promoted float64 logits beside those of the port as it was.

Nothing of Parity's comparison is in this, only what builds and loads a port.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from bench.bugs.edits import Config, source, write_config
from parity import ParityError
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import running
from parity.pair.pair import Pair
from parity.pair.port import ConfigRefused, DoesNotFit, Port
from parity.pair.program import Program, decoding, padded
from parity.pair.promote import precision
from parity.pair.reference import ConfigRejected
from parity.pair.weights import Tensors

SAME = 1e-9
UNLOADABLE = float("inf")
REFUSED = (ConfigRefused, DoesNotFit, ConfigRejected)


@dataclass(frozen=True)
class Original:
    """A port as it was, on one small config: its checkpoint, probe and logits."""

    port: str
    pair: Pair
    logits: Tensor


@contextlib.contextmanager
def original(port: str, config: Config) -> Iterator[Original]:
    """Build a port as it is on the small form of a config, and run it once."""
    with TemporaryDirectory(prefix="parity-truth-") as name:
        folder = Path(name)
        (folder / "checkpoint").mkdir()
        path = write_config(folder, "config", port, config)
        pair = pairs.make(source(port), path, None, True, 0, folder / "checkpoint")
        yield Original(port, pair, _logits(pair.promoted_port, pair))


def difference(before: Original, path: Path, config: Path) -> float:
    """Relative error of the edited port's logits, infinite if it cannot be built, loaded or run.

    Where it cannot be on the small config, the check falls back on one that is closer to the real config; so does this.
    """
    try:
        return _error(_logits(ports.resolve(path, promoted=True), before.pair), before.logits)
    except REFUSED:
        with TemporaryDirectory(prefix="parity-truth-") as name:
            return _on_its_own_config(before.port, path, config, Path(name))
    except ParityError:
        return UNLOADABLE


def _on_its_own_config(port: str, path: Path, config: Path, folder: Path) -> float:
    try:
        pair = pairs.make(path, config, None, True, 0, folder)
        expected = _logits(ports.resolve(source(port), promoted=True), pair)
        return _error(_logits(pair.promoted_port, pair), expected)
    except ParityError:
        return UNLOADABLE


@torch.no_grad()
def staged(before: Original, path: Path) -> dict[str, float]:
    """How far the edited port is from the original where one full forward does not look, by what was done.

    In decoding one token at a time and in chunks, in a batch padded on the left, and in bfloat16.
    """
    pair, edited = before.pair, ports.resolve(path, promoted=True)
    ids = pair.input_ids[:, :18]
    real = torch.ones_like(ids, dtype=torch.bool)
    real[-1, :5] = False
    programs = (
        decoding("singly", ids, [4] + [1] * 14),
        decoding("chunks", ids, [2, 1, 6, 9]),
        padded("padded", ids, real),
        padded("padded, decoded", ids, real, [12, 3, 3]),
    )
    found = {program.name: _error(*(_run(port, pair, program, real) for port in (edited, pair.promoted_port)))
             for program in programs}  # fmt: skip
    low = [_in_bfloat16(port, pair) for port in (ports.resolve(path), pair.port)]
    return found | {"bfloat16": _error(*low)}


def _run(port: Port, pair: Pair, program: Program, real: Tensor) -> Tensor:
    """The logits of real tokens; nothing that fits if the port raises."""
    loaded = ports.build(port, pair.reference.config, Tensors(pair.checkpoint, True), True, pair.seed)
    with precision(True):
        try:
            logits = running.execute(port, loaded.model, program)
        except ParityError:
            return torch.zeros(1, 1)
    return logits[real if program.real is not None else torch.ones_like(real)]


def _in_bfloat16(port: Port, pair: Pair) -> Tensor:
    loaded = ports.build(port, pair.reference.config, Tensors(pair.checkpoint, False), False, pair.seed)
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.bfloat16()
    return running.call(port, loaded.model, pair.input_ids).double()


def gradients(before: Original, path: Path) -> float:
    """How far the edited port's parameter gradients, taken together, are from the original's."""
    edited = ports.resolve(path, promoted=True)
    return _error(*(_gradients(port, before.pair) for port in (edited, before.pair.promoted_port)))


def _gradients(port: Port, pair: Pair) -> Tensor:
    """Of some sum of the logits, for all parameters `[1, N]`; zeros where none arrives."""
    loaded = ports.build(port, pair.reference.config, Tensors(pair.checkpoint, True), True, pair.seed)
    with precision(True), torch.enable_grad():
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(True)
        logits = running.call(port, loaded.model, pair.input_ids)
        loss = logits.mul(torch.linspace(-1.0, 1.0, logits.shape[-1], dtype=logits.dtype)).sum()
        parameters = list(loaded.model.parameters())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    filled = [torch.zeros_like(each) if grad is None else grad for each, grad in zip(parameters, found, strict=True)]
    return torch.cat([grad.flatten() for grad in filled])[None]


@torch.no_grad()
def _logits(port: Port, pair: Pair) -> Tensor:
    loaded = ports.build(port, pair.reference.config, Tensors(pair.checkpoint, True), True, pair.seed)
    with precision(True):
        return running.call(port, loaded.model, pair.input_ids)


def _error(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error; fewer positions are compared with the last ones, and a NaN is a difference."""
    if found.ndim == expected.ndim - 1:
        found = found.unsqueeze(1)
    expected = expected[:, -found.shape[1] :]
    if found.shape != expected.shape:
        return UNLOADABLE
    error = float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))
    return UNLOADABLE if math.isnan(error) else error
