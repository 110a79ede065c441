"""Parity: the layer-by-layer parity debugger for LLM architecture ports."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.pipeline import check as check
    from parity.records import Report as Report

__version__ = "0.1.0"
__all__ = ["ParityError", "Report", "__version__", "check"]

from parity.errors import ParityError


def __getattr__(name: str) -> Any:
    """Import `check` and `Report` on first use, so that importing the package does not import torch."""
    if name == "check":
        from parity.pipeline import check

        return check
    if name == "Report":
        from parity.records import Report

        return Report
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
