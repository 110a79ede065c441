"""The plain debugger that everybody writes first, for comparison.

The reference is built in float32 as its initialiser leaves it, the port loads its weights, eight tokens go through
both with a hook on every module, and `torch.allclose` is asked about each pair of outputs and about the logits. It is
given for free what Parity works out: the small config, and which module corresponds to which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from bench.bugs.mutant import Benign, Mutant
from parity import ParityError
from parity.compare import stages
from parity.compare.align import align
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair import running
from parity.pair.pair import Pair
from parity.pair.promote import precision
from parity.pair.weights import Tensors

TOLERANCE = 1e-5
TOKENS = 8


@dataclass(frozen=True)
class Plain:
    """What it says of one port: whether anything differs, and the first module that does."""

    key: str
    detected: bool
    localised: bool
    module: str


def debug(case: Mutant | Benign) -> Plain:
    """Debug one mutant or rewrite the plain way; a port that cannot be loaded is detected, nowhere."""
    with TemporaryDirectory(prefix="parity-bugs-") as name:
        folder = Path(name)
        written = case.write(folder)
        try:
            differing = _first_difference(written.path, written.config, folder)
        except (ParityError, RuntimeError):
            return Plain(case.key, True, False, "")
    localised = isinstance(case, Mutant) and differing is not None and case.at(differing)
    return Plain(case.key, differing is not None, localised, differing or "")


def _first_difference(path: Path, config: Path, folder: Path) -> str | None:
    """The reference's module whose output differs first, "" for the logits alone, None if nothing differs."""
    for checkpoint in ("randomised", "initial"):
        (folder / checkpoint).mkdir()
    pair = pairs.make(path, config, None, True, 0, folder / "randomised")
    sides = stages.load(pair)
    aligned = align(sides.reference, sides.port, sides.loading, pair.port.modules)
    partners = {match.reference: match.port for match in aligned if not match.partial}
    model, loaded = _initial(pair, folder / "initial")
    ids = pair.input_ids[:1, :TOKENS]
    with torch.no_grad(), precision(False):
        expected = _outputs(model)
        found = _outputs(loaded)
        logits = references.logits(model, ids)
        own = running.call(pair.port, loaded, ids)
    for module, output in expected.items():
        other = found.get(partners.get(module, ""))
        if other is not None and output.shape == other.shape and not _close(output, other):
            return module
    return None if logits[:, -own.shape[1] :].shape == own.shape and _close(logits[:, -own.shape[1] :], own) else ""


def _initial(pair: Pair, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Both models with the reference's initial weights."""
    torch.manual_seed(pair.seed)
    model = references.build(pair.reference, promoted=False)
    references.save(model, folder, pair.reference.config, pair.reference.stand_in)
    loaded = ports.build(pair.port, pair.reference.config, Tensors(folder, False), False, pair.seed)
    return model, loaded.model


def _outputs(model: nn.Module) -> Mapping[str, Tensor]:
    """The first output tensor of every module, filled in when the model runs, in the order in which modules end."""
    found: dict[str, Tensor] = {}

    def keep(name: str, result: object) -> None:
        if isinstance(result, tuple | list) and result:
            result = result[0]
        if isinstance(result, Tensor):
            found.setdefault(name, result.clone())

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(lambda _module, _inputs, result, name=name: keep(name, result))
    return found


def _close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE)
