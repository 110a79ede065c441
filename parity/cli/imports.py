"""Importing torch and transformers, which is most of what a small check costs."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_once() -> Iterator[None]:
    """Import inside this what is heavy, in a process of the command line's own.

    The garbage collector would go through the million objects that make up these libraries several times while they
    are imported, then during the check, and twice more at the end, for nothing: none of them is ever garbage.
    """
    if "torch" in sys.modules:  # somebody else's process, and it is imported already
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
    atexit.register(gc.freeze)
