"""What a safetensors file holds, read from its header: names, shapes and dtypes, and no data."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.errors import ParityError

_PREFIX = 8  # bytes that give the header's length
_LONGEST = 100_000_000  # bytes of header, as the format has it
_POINTER = b"version https://git-lfs"
_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that it takes as stored."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: Path) -> dict[str, Entry]:
    """The tensors of one file, by name.

    Raises:
        ParityError: not a safetensors file, shorter than its header says, or of a dtype that torch has not.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(max(_PREFIX, len(_POINTER)))
            if start.startswith(_POINTER):
                raise ParityError(
                    f"{path} is a Git LFS pointer, not the weights", "Fetch them with git lfs pull, or download them."
                )
            length = struct.unpack("<Q", start[:_PREFIX])[0] if len(start) >= _PREFIX else 0
            if not 0 < length <= _LONGEST:
                raise _foreign(path, "its first bytes give no header length")
            file.seek(_PREFIX)
            raw = file.read(length)
    except OSError as error:
        raise ParityError(f"cannot read {path}: {error.strerror}", "Check the file and its permissions.") from error
    if len(raw) < length:
        if not raw.startswith(b"{"):
            raise _foreign(path, "it does not begin with a header")
        raise ParityError(f"{path} is truncated: {size:,} bytes, its header alone takes {_PREFIX + length:,}", _AGAIN)
    return _checked(path, _parsed(path, raw), size - _PREFIX - length)


def _foreign(path: Path, why: str) -> ParityError:
    return ParityError(f"{path} is not a safetensors file: {why}", _AGAIN)


def _parsed(path: Path, raw: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(raw)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise _foreign(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _foreign(path, f"its header is a {type(header).__name__}")
    return header


def _checked(path: Path, header: Mapping[str, Any], room: int) -> dict[str, Entry]:
    """Entries whose data lie within the file; `room` is the number of bytes after the header."""
    found: dict[str, Entry] = {}
    ends = [0]
    for name, described in header.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape = str(described["dtype"]), tuple(int(size) for size in described["shape"])
            begin, end = (int(offset) for offset in described["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise _foreign(path, f"its header does not describe {name!r}") from error
        if kind not in _DTYPES:
            raise ParityError(
                f"{path}: {name!r} is stored as {kind}, which cannot be compared",
                "Give a checkpoint in bfloat16, float16 or float32.",
            )
        found[name] = Entry(shape, _DTYPES[kind])
        if begin < 0 or end - begin != found[name].nbytes:
            raise _foreign(path, f"its header gives {name!r} {end - begin:,} bytes for {list(shape)} of {kind}")
        ends.append(end)
    if max(ends) > room:
        raise ParityError(f"{path} is truncated: {room:,} bytes of data, its header says {max(ends):,}", _AGAIN)
    if max(ends) < room:
        raise _foreign(path, f"it goes on for {room - max(ends):,} bytes after its last tensor")
    return found
