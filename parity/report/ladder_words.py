"""What every view of a ladder says in the same words: headline, states, rows."""

from collections.abc import Iterator

from parity.workflow_records import Workflow

STATES = {"done": "done", "failed": "failed", "not_run": "not run", "not_possible": "not possible here"}
MARKS = {"done": "✓", "failed": "✕", "not_run": "·", "not_possible": "–"}  # noqa: RUF001
HEAD = ("rung", "state", "why", "command")


def headline(found: Workflow) -> str:
    """How far it is."""
    counts = {state: sum(each.state == state for each in found.rungs) for state in STATES}
    told = ", ".join(f"{count} {STATES[state]}" for state, count in counts.items() if count)
    return f"{found.port} on the ladder to {found.reference}: {told}"


def circumstances(found: Workflow) -> str:
    """The config, and versions."""
    return f"{found.source}, stages on the small config, transformers {found.transformers}"


def rows(found: Workflow) -> Iterator[tuple[str, str, str, str]]:
    """A row for each rung, from the lowest on."""
    for each in found.rungs:
        yield each.name, STATES[each.state], each.why, each.command


def following(found: Workflow) -> str:
    """What to run next, or that there is nothing."""
    return found.next or "nothing is left to run"
