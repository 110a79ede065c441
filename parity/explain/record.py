"""Both models traced: the reference as it runs freely, the port in isolation, each from its constructor on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from parity.compare import isolate as isolation
from parity.compare.capture import renumbered, run
from parity.compare.stages import Forward, Sides
from parity.explain.trace import Session, Tape
from parity.pair import pair as pairs
from parity.pair import port as ports
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.pair.promote import precision


@dataclass(frozen=True)
class Tapes:
    """What both models did, operation by operation. port_model is the model that the port's tape was made with."""

    reference: Tape
    port: Tape
    port_model: nn.Module
    own_code: tuple[str, ...]


@torch.no_grad()
def tapes(pair: Pair, sides: Sides, measured: Forward) -> Tapes:
    """Build, load and run both models once more, watched.

    Raises:
        TooLarge: more values than can be kept.
    """
    ours, theirs = Session(), Session()
    model, loaded = pairs.promoted(pair, (ours.mode, theirs.mode))
    ours.name(model)
    theirs.name(loaded.model)
    with precision(True, ours.mode):
        reference = run(model, lambda: references.logits(model, pair.input_ids), observer=ours)
        reference_tape = ours.tape(reference.logits).renumbered(renumbered(reference))
    with precision(True, theirs.mode):
        port = isolation.rerun(
            measured.isolated,
            sides.reference.trace,
            loaded.model,
            lambda: ports.logits(pair.port, loaded.model, pair.input_ids),
            theirs,
        )
        port_tape = theirs.tape(port.logits)
    return Tapes(reference_tape, port_tape, loaded.model, _own_code(loaded.model))


def _own_code(model: nn.Module) -> tuple[str, ...]:
    """Folders of the code that the port's classes are written in."""
    import sys

    folders = set()
    for module in model.modules():
        package = type(module).__module__
        file = getattr(sys.modules.get(package), "__file__", None)
        if file and not package.startswith("torch."):
            folders.add(str(Path(file).parent))
    return tuple(sorted(folders))
