"""A generation in Markdown: verdict, faults, both texts parted where they differ, choices, tokens per second."""

from collections.abc import Iterator

from parity.generation_records import Generation, Row, ratio
from parity.report import cache_markdown
from parity.report import generation_words as words
from parity.report.beside import visible
from parity.report.markup import block, code, items, prose, table


def render(generation: Generation) -> str:
    """The generation as Markdown."""
    return "\n".join(_blocks(generation))


def _blocks(generation: Generation) -> Iterator[str]:
    if generation.compared:
        yield f"# {words.VERDICTS[generation.verdict or 'pass']}: {prose(words.headline(generation))}\n"
        yield f"{prose(words.circumstances(generation))}\n"
    else:
        yield f"# Text by {prose(generation.port)}\n"
        yield f"{prose(words.alone(generation))}\n"
    yield from _faults(generation)
    yield from _texts(generation)
    if generation.compared:
        yield "## Along the reference's tokens\n\n" + items(_along(generation))
        yield "## Tokens per second\n\n" + _speeds(generation)
    if generation.caches is not None:
        yield from cache_markdown.blocks(generation, generation.caches)
    notes = [f"{finding.cause}: {finding.title}" for finding in generation.findings if not finding.fault]
    if notes or generation.notes:
        yield "## Notes\n\n" + items([*notes, *generation.notes])


def _faults(generation: Generation) -> Iterator[str]:
    for number, (title, rows) in enumerate(words.faults(generation), 1):
        heading = "## Look first at\n\n" if number == 1 else ""
        told = "".join(f"- {label}: {code(text) if label == 'next' else prose(text)}\n" for label, text in rows)
        yield f"{heading}### {number}. {prose(title)}\n\n{told}"


def _texts(generation: Generation) -> Iterator[str]:
    for number, (prompt, row) in enumerate(zip(generation.prompts, generation.rows, strict=True), 1):
        name = f"Prompt {number}" if len(generation.prompts) > 1 else "Prompt"
        given = _lines(prompt.rendered or prompt.text or words.bare(prompt.tokens))
        yield f"## {name}\n\n{len(prompt.tokens)} tokens:\n\n{block(given)}"
        yield from _answers(row, generation.compared)


def _answers(row: Row, compared: bool) -> Iterator[str]:
    """The text of both, in one where it is the same, then each side's own."""
    ours = row.port_text or words.bare(row.port)
    theirs = row.reference_text or words.bare(row.reference)
    if not compared or row.port == row.reference:
        yield f"{'Both' if compared else 'Port'}, {len(row.port)} tokens:\n\n{block(_lines(ours))}"
        return
    same = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    same = min(len(ours), len(theirs)) if same is None else same
    if same:
        yield f"Both begin with:\n\n{block(_lines(ours[:same]))}"
    for side, text in (("Port", ours), ("Reference", theirs)):
        rest = text[same:]
        goes_on = f", from the first difference on:\n\n{block(_lines(rest))}" if rest else " ends there.\n"
        yield f"{side}{goes_on}"


def _lines(text: str) -> list[str]:
    return visible(text).split("\n")


def _along(generation: Generation) -> Iterator[str]:
    for number, row in enumerate(generation.rows, 1):
        forced = row.teacher_forced
        if forced is None:
            continue
        name = f"prompt {number}: " if len(generation.rows) > 1 else ""
        yield name + words.agreement(forced)
        off = words.beyond(forced)
        if off is not None:
            yield name + off
        for difference in forced.differences:
            yield f"{name}{': '.join(words.difference(difference))}"


def _speeds(generation: Generation) -> str:
    port, reference = generation.port_speed, generation.reference_speed
    kinds = (("with a cache", port.cached, reference.cached), ("without", port.uncached, reference.uncached))
    rows = [
        (name, words.rate(ours), words.rate(theirs), "-" if (times := ratio(ours, theirs)) is None else f"{times:.2f}")
        for name, ours, theirs in kinds
        if ours is not None or theirs is not None
    ]
    rows.append(("prompt", words.seconds(port.prefill), words.seconds(reference.prefill), ""))
    return table(("", "port", "reference", "ratio"), rows, right=(1, 2, 3))
