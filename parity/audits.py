"""`parity audit`: what a check of a port would fail to notice, beside the line that compares."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from parity.explain import coverage
from parity.explain.audit import audit as run
from parity.pair import pair as pairs
from parity.pair.pair import Pair
from parity.records import Audit

Progress = Callable[[str], object]


def audit(
    port: object,
    *,
    config: str | Path | None = None,
    reference: str | Path | None = None,
    small_config: bool = True,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Audit:
    """Find out what a check with the same arguments is able to notice, and keep it for the next check to tell.

    Args:
        port: a built-in name, a file, a dotted module, or an object that fulfils the contract of
            docs/writing-a-port.md.
        config: a config.json; by default that of `reference`, else the built-in one of the port's first model type.
        reference: a directory or Hub id whose config.json is used.
        small_config: shrink the config first; a full-size model is too large to be changed a thousand times.
        seed: of random weights and probe.
        progress: called with a phrase whenever something that takes time begins.

    Raises:
        ParityError: bad input; says what to do next.
    """
    pair, found = audited(port, config, reference, small_config, seed, progress)
    progress("keeping it for the next check")
    coverage.keep(pair, found)
    return found


def audited(
    port: object,
    config: str | Path | None,
    reference: str | Path | None,
    small_config: bool,
    seed: int,
    progress: Progress,
) -> tuple[Pair, Audit]:
    """The audit, with the pair that it is of; nothing is kept."""
    with tempfile.TemporaryDirectory(prefix="parity-") as directory:
        progress("building both models")
        source = Path(config) if config else None, str(reference) if reference else None
        pair = pairs.make(port, *source, small_config, seed, Path(directory))
        full, _ = pairs.find_reference(pair.port, *source)
        with _one_thread():
            return pair, run(pair, full.settings, progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A thousand runs on small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
