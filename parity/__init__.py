"""Parity: the layer-by-layer parity debugger for LLM architecture ports."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parity.errors import ParityError

if TYPE_CHECKING:
    from parity.audits import audit as audit
    from parity.generation import generate as generate
    from parity.generation_records import Generation as Generation
    from parity.pipeline import check as check
    from parity.records import Audit as Audit
    from parity.records import Report as Report

__version__ = "0.1.0"
__all__ = ["Audit", "Generation", "ParityError", "Report", "__version__", "audit", "check", "generate"]

_HOMES = {
    "Audit": "parity.records",
    "Generation": "parity.generation_records",
    "Report": "parity.records",
    "audit": "parity.audits",
    "check": "parity.pipeline",
    "generate": "parity.generation",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that importing the package does not import torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
