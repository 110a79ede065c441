"""What belongs to the reference alone, found out once, whatever ports are held against it."""

from collections.abc import Callable, Hashable
from typing import TypeVar

Found = TypeVar("Found")


class Kept:
    """What was found out, by name, for as long as a session lasts.

    A session of one check keeps nothing: then each thing is found out where it is needed, and gone after that.
    """

    def __init__(self, keeps: bool = False):
        self.keeps = keeps
        self._found: dict[Hashable, tuple[Hashable, object]] = {}

    def once(self, name: Hashable, make: Callable[[], Found], given: Hashable = None) -> Found:
        """What is kept under a name, made now if there is nothing yet.

        Args:
            name: what it is, the same for the same thing alone.
            make: finds it out; nothing of a port may be in what it returns.
            given: what else it follows from. The last one alone is kept, so that no number of ports fills the memory.
        """
        if not self.keeps:
            return make()
        kept = self._found.get(name)
        if kept is None or kept[0] != given:
            kept = self._found[name] = (given, make())
        found: Found = kept[1]  # type: ignore[assignment]
        return found
