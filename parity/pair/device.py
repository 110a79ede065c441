"""The device of a run: whether it is there, and what running out of its memory means."""

import contextlib
from collections.abc import Iterator

import torch

from parity.errors import ParityError

DEVICES = ("cpu", "cuda", "mps")
_FULL = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")


def device_of(name: str, dtype: torch.dtype) -> torch.device:
    """The device of a name, for runs in a dtype.

    Raises:
        ParityError: there is no such device here, or it has not the dtype.
    """
    if name.partition(":")[0] not in DEVICES:
        raise ParityError(f"there is no device {name!r}", f"Devices are {', '.join(DEVICES)}.")
    if name.startswith("mps") and dtype == torch.float64:
        raise ParityError("mps has no float64", "Add --dtype float32, or use --device cpu.")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ParityError(f"there is no {name} device here: {first}", "Use --device cpu.") from error
    return device


@contextlib.contextmanager
def told_when_full(
    where: str,
    device: torch.device,
    next_step: str = "Lower --max-blocks, give a shorter --prompt, or use --dtype float32 or bfloat16.",
) -> Iterator[None]:
    """Running out of memory as one line that says what to lower.

    Raises:
        ParityError: no memory was left.
    """
    try:
        yield
    except (RuntimeError, MemoryError, ParityError) as error:
        if not is_full(error):
            raise
        raise ParityError(f"out of memory on {device} {where}", next_step) from error


def is_full(error: BaseException | None) -> bool:
    """Whether no memory was left, be it under other errors."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _FULL):
            return True
        error = error.__cause__
    return False
