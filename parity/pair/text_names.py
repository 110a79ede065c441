"""Tensors of a language model inside a larger one, by the names that a checkpoint of the former alone has for them."""

from collections import Counter
from collections.abc import Collection


def text_names(expected: Collection[str], stored: Collection[str]) -> dict[str, str]:
    """What the language model's tensors are called in a checkpoint of more: expected name -> stored name.

    Names agree from some dot on, and what comes before it is the same for most of them. Names that are there as
    expected are left alone; those that are nowhere are left out, as is everything else.
    """
    found = {name: name for name in expected if name in stored}
    by_ending: dict[str, list[str]] = {}
    for name in stored:
        for ending in _endings(name):
            by_ending.setdefault(ending, []).append(name)
    while True:
        votes: Counter[tuple[str, str]] = Counter()
        for name in expected:
            if name not in found:
                for ending in _endings(name)[:2]:  # as it is, and without the first part
                    for other in by_ending.get(ending, ()):
                        votes[name.removesuffix(ending), other.removesuffix(ending)] += 1
        if not votes:
            return found
        (ours, theirs), _ = votes.most_common(1)[0]
        for name in stored:  # and whatever else is there: experts are stored one by one, and fused in memory
            if name.startswith(theirs):
                found.setdefault(ours + name.removeprefix(theirs), name)


def _endings(name: str) -> list[str]:
    """A name from its beginning, and from each of its dots on but for the last: many names end alike there."""
    parts = name.split(".")
    return [".".join(parts[at:]) for at in range(max(1, len(parts) - 1))]
