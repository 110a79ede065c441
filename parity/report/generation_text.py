"""The text of a generation: the verdict, what differs first, the tokens and texts, the rest along the reference's."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from parity.generation_records import Difference, Generation, Prompt, ratio
from parity.report import cache_text
from parity.report import generation_words as words
from parity.report.beside import BETWEEN, beside, marked, visible, wrapped

_WIDE = 80  # columns of a terminal from which on texts stand beside each other
_SHOWN = 12  # differences of one prompt; the JSON has them all
_ENDS = 24, 8  # tokens of a long prompt shown on a terminal: first and last ones
_LABEL = 11
_INDENT = " " * 2
_STYLES = {"PASS": "bold green", "FAIL": "bold red"}


def render(generation: Generation, width: int | None = None) -> Iterator[Text]:
    """The generation line by line, styled.

    Args:
        generation: what to tell.
        width: of the terminal; None off a terminal, where nothing is shortened or set in columns.
    """
    if not generation.compared:
        yield from _alone(generation)
        yield from _caches(generation, width)
        return
    word = words.VERDICTS[generation.verdict or "pass"]
    yield Text.assemble((word, _STYLES[word]), f"  {words.headline(generation)}")
    yield Text(f"      {words.circumstances(generation)}", "dim")
    yield from _look_first(generation)
    yield from _tokens(generation, width)
    yield from _texts(generation, width)
    yield from _along(generation)
    yield from _speeds(generation)
    yield from _caches(generation, width)
    yield from _notes(generation.notes)


def _caches(generation: Generation, width: int | None) -> Iterator[Text]:
    if generation.caches is not None:
        yield from cache_text.render(generation, generation.caches, width)


def _alone(generation: Generation) -> Iterator[Text]:
    """The port's text and nothing much around it."""
    for number, (prompt, row) in enumerate(zip(generation.prompts, generation.rows, strict=True)):
        if number:
            yield Text()
        given = visible(prompt.rendered or prompt.text or "") or words.bare(prompt.tokens)
        gap = "" if row.port_text else " "
        yield Text.assemble((given, "dim"), gap, _ended(Text(visible(row.port_text) or words.bare(row.port))))
    yield Text(f"\n{words.alone(generation)}", "dim")
    for finding in generation.findings:
        yield Text.assemble((f"{finding.cause}: ", "bold red" if finding.fault else "yellow"), finding.title)
    for note in generation.notes:
        yield Text(f"Note: {note}", "dim")


def _look_first(generation: Generation) -> Iterator[Text]:
    found = list(words.faults(generation))
    if not found:
        return
    yield Text("\nLook first at", "bold")
    for number, (title, rows) in enumerate(found, 1):
        yield Text.assemble(f"{number:3d}. ", (title, "bold" if number == 1 else ""))
        yield from (Text.assemble("       ", (f"{label:<{_LABEL}}", "dim"), value) for label, value in rows)


def _tokens(generation: Generation, width: int | None) -> Iterator[Text]:
    yield Text("\nTokens", "bold")
    for finding in generation.findings:
        yield Text.assemble(_INDENT, (f"{finding.cause}: {finding.title}", "red" if finding.fault else "yellow"))
    for number, prompt in enumerate(generation.prompts, 1):
        name = f"prompt {number}" if len(generation.prompts) > 1 else "prompt"
        text = "" if prompt.text is None else f": {prompt.text!r}"
        yield Text(f"{_INDENT}{name}, {len(prompt.tokens)} tokens{text}")
        yield Text(f"{_INDENT}  {_listed(prompt, width)}", "dim")


def _listed(prompt: Prompt, width: int | None) -> str:
    shown = [words.named(token) for token in prompt.tokens]
    first, last = _ENDS
    if width is not None and len(shown) > first + last:
        shown = [*shown[:first], f"({len(shown) - first - last} more)", *shown[-last:]]
    return "  ".join(shown)


def _texts(generation: Generation, width: int | None) -> Iterator[Text]:
    yield Text("\nText", "bold")
    for number, row in enumerate(generation.rows, 1):
        if len(generation.rows) > 1:
            yield Text(f"{_INDENT}prompt {number}", "dim")
        ours, theirs = (
            visible(text) or words.bare(tokens)
            for text, tokens in ((row.port_text, row.port), (row.reference_text, row.reference))
        )
        if row.port == row.reference:
            yield from _labelled("both", Text(ours))
        elif width is not None and width >= _WIDE:
            yield from _columns(ours, theirs, width)
        else:
            left, right = marked(ours, theirs)
            yield from _labelled("port", left)
            yield from _labelled("reference", right)


def _labelled(label: str, text: Text) -> Iterator[Text]:
    for number, line in enumerate(_ended(text).split("\n", allow_blank=True)):
        yield Text.assemble(
            _INDENT, ("" if number else label, "dim"), " " * (_LABEL - (0 if number else len(label))), line
        )


def _ended(text: Text) -> Text:
    """Without empty lines at the end, of which a model that is lost may make many; how many there were."""
    kept = text.plain.rstrip("\n")
    empty = len(text) - len(kept)
    return text if not empty else Text.assemble(text[: len(kept)], (f" (and {empty} line ends)", "dim"))


def _columns(ours: str, theirs: str, width: int) -> Iterator[Text]:
    column = (width - len(_INDENT) - len(BETWEEN)) // 2
    left, right = marked(ours, theirs)
    heads = Text("port", "dim"), Text("reference", "dim")
    texts = wrapped(_ended(left), column), wrapped(_ended(right), column)
    rows = beside([heads[0], *texts[0]], [heads[1], *texts[1]], column)
    yield from (Text.assemble(_INDENT, row) for row in rows)


def _along(generation: Generation) -> Iterator[Text]:
    yield Text("\nAlong the reference's tokens", "bold")
    for number, row in enumerate(generation.rows, 1):
        forced = row.teacher_forced
        if forced is None:
            continue
        name = f"prompt {number}: " if len(generation.rows) > 1 else ""
        yield Text(f"{_INDENT}{name}{words.agreement(forced)}")
        off = words.beyond(forced)
        if off is not None:
            yield Text(f"{_INDENT}{off}", "yellow")
        for difference in forced.differences[:_SHOWN]:
            yield _listed_difference(difference)
        if len(forced.differences) > _SHOWN:
            yield Text(f"{_INDENT}  {len(forced.differences) - _SHOWN} more, in --format json", "dim")


def _listed_difference(difference: Difference) -> Text:
    word, text = words.difference(difference)
    style = "yellow" if word == "near-tie" else "bold red"
    return Text.assemble(f"{_INDENT}  ", (f"{word:<9}", style), text)


def _speeds(generation: Generation) -> Iterator[Text]:
    port, reference = generation.port_speed, generation.reference_speed
    yield Text.assemble(("\nTokens per second", "bold"), (f"{'port':>14}{'reference':>12}{'ratio':>8}", "dim"))
    for name, ours, theirs in (
        ("with a cache", port.cached, reference.cached),
        ("without", port.uncached, reference.uncached),
    ):
        if ours is not None or theirs is not None:
            times = ratio(ours, theirs)
            shown = "-" if times is None else f"{times:.2f}"
            yield Text(f"{_INDENT}{name:<22}{words.rate(ours):>7}{words.rate(theirs):>12}{shown:>8}")
    yield Text(f"{_INDENT}{'prompt':<22}{words.seconds(port.prefill):>7}{words.seconds(reference.prefill):>12}")


def _notes(notes: Sequence[str]) -> Iterator[Text]:
    if notes:
        yield Text("\nNotes", "bold")
        yield from (Text(f"{_INDENT}{note}") for note in notes)
