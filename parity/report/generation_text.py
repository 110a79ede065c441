"""The text of a generation: the verdict, what differs first, the tokens and texts, the rest along the reference's."""

from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from parity.generation_records import (
    Difference,
    Generation,
    Prompt,
    Row,
    TeacherForced,
    Token,
    ratio,
)
from parity.report.beside import BETWEEN, beside, marked, visible, wrapped

_WIDE = 80  # columns of a terminal from which on texts stand beside each other
_SHOWN = 12  # differences of one prompt; the JSON has them all
_ENDS = 24, 8  # tokens of a long prompt shown on a terminal: first and last ones
_LABEL = 11
_INDENT = " " * 2


def render(generation: Generation, width: int | None = None) -> Iterator[Text]:
    """The generation line by line, styled.

    Args:
        generation: what to tell.
        width: of the terminal; None off a terminal, where nothing is shortened or set in columns.
    """
    if not generation.compared:
        yield from _alone(generation)
        return
    yield _headline(generation)
    yield _circumstances(generation)
    yield from _look_first(generation)
    yield from _tokens(generation, width)
    yield from _texts(generation, width)
    yield from _along(generation)
    yield from _speeds(generation)
    yield from _notes(generation.notes)


def _alone(generation: Generation) -> Iterator[Text]:
    """The port's text and nothing much around it."""
    for number, (prompt, row) in enumerate(zip(generation.prompts, generation.rows, strict=True)):
        if number:
            yield Text()
        given = visible(prompt.rendered or prompt.text or "") or _bare(prompt.tokens)
        gap = "" if row.port_text else " "
        yield Text.assemble((given, "dim"), gap, _ended(Text(visible(row.port_text) or _bare(row.port))))
    count, speed = sum(len(row.port) for row in generation.rows), generation.port_speed
    rate = speed.cached if generation.cached else speed.uncached
    how = "with a cache" if generation.cached else "without a cache"
    told = f", {_rate(rate)} a second after {_seconds(speed.prefill)} for the prompt" if rate else ""
    yield Text(
        f"\n{count} new tokens by {generation.port}, {generation.dtype}, {how}{told}; {_stopped(generation)}", "dim"
    )
    for finding in generation.findings:
        yield Text.assemble((f"{finding.cause}: ", "bold red" if finding.fault else "yellow"), finding.title)
    for note in generation.notes:
        yield Text(f"Note: {note}", "dim")


def _stopped(generation: Generation) -> str:
    ended = sum(row.stopped == "end of text" for row in generation.rows)
    if ended == len(generation.rows):
        return "ended by itself" if ended == 1 else "all ended by themselves"
    return "ended by length" if not ended else f"{ended} of {len(generation.rows)} ended by themselves"


def _headline(generation: Generation) -> Text:
    word, style = ("FAIL", "bold red") if generation.verdict == "fail" else ("PASS", "bold green")
    return Text.assemble((word, style), f"  {generation.port} against {generation.reference}: {_summary(generation)}")


def _summary(generation: Generation) -> str:
    rows = generation.rows
    many = f" of {len(rows)} prompts" if len(rows) > 1 else ""
    if any(finding.fault for finding in generation.findings):
        return "other token ids for the same prompt"
    count = sum(len(row.reference) for row in rows)
    faulty = [(number, row) for number, row in enumerate(rows, 1) if row.fault]
    if faulty:
        number, row = faulty[0]
        first = row.first_difference
        place = f" of prompt {number}" if len(rows) > 1 else ""
        if first is not None and first.verdict == "fault":
            return f"another text from new token {first.index + 1}{place} on"
        assert row.teacher_forced is not None
        index = row.teacher_forced.faults[0].index
        return f"another choice at new token {index + 1}{place}, along the reference's text"
    ties = sum(len(row.teacher_forced.differences) for row in rows if row.teacher_forced)
    but = ", but logits further apart than rounding explains" if any(row.off for row in rows) else ""
    if any(row.first_difference for row in rows):
        return f"the same text but for near-ties, {ties} in {count} new tokens{many}{but}"
    return f"the same {count} new tokens{many}{but}"


def _circumstances(generation: Generation) -> Text:
    versions = generation.versions
    revision = f" at {generation.revision[:12]}" if generation.revision else ""
    how = "" if generation.cached else ", no cache in the port"
    device = "" if generation.device == "cpu" else f" on {generation.device}"
    made_with = f"transformers {versions.transformers}, torch {versions.torch}"
    run = f"{generation.dtype}{device}, greedy, eager attention{how}"
    return Text(f"      {made_with}, {generation.checkpoint}{revision}, {run}", "dim")


def _look_first(generation: Generation) -> Iterator[Text]:
    faults = list(_faults(generation))
    if not faults:
        return
    yield Text("\nLook first at", "bold")
    for number, (title, rows) in enumerate(faults, 1):
        yield Text.assemble(f"{number:3d}. ", (title, "bold" if number == 1 else ""))
        yield from (Text.assemble("       ", (f"{label:<{_LABEL}}", "dim"), value) for label, value in rows)


def _apart(generation: Generation, row: Row, place: str) -> tuple[str, Iterable[tuple[str, str]]]:
    """The same text, of logits that are not the same."""
    forced = row.teacher_forced
    assert forced is not None
    assert forced.beyond is not None
    title = f"from new token {forced.beyond + 1}{place} on, logits differ by more than rounding explains"
    figures = f"{forced.largest:.2g} at most, rounding alone {forced.rounding:.2g}"
    return title, [("apart", figures), ("next", f"parity check {generation.port} --pretrained {generation.checkpoint}")]


def _faults(generation: Generation) -> Iterator[tuple[str, Iterable[tuple[str, str]]]]:
    for finding in generation.findings:
        if finding.fault:
            yield finding.title, [("cause", finding.cause)]
    for number, row in enumerate(generation.rows, 1):
        if not row.fault:
            if row.off:
                yield _apart(generation, row, f" of prompt {number}" if len(generation.rows) > 1 else "")
            continue
        first, forced = row.first_difference, row.teacher_forced
        fault = first if first is not None and first.verdict == "fault" else forced.faults[0] if forced else None
        assert fault is not None
        place = f" of prompt {number}" if len(generation.rows) > 1 else ""
        yield _different(fault, place), _details(fault, row)


def _different(difference: Difference, place: str) -> str:
    ours, theirs = _named(difference.port), _named(difference.reference)
    return f"new token {difference.index + 1}{place}: the port gives {ours}, the reference {theirs}"


def _details(difference: Difference, row: Row) -> Iterator[tuple[str, str]]:
    yield from _figures(difference)
    if row.blame is not None:
        yield "stage", row.blame.stage
        yield "why", row.blame.text
        yield "next", row.blame.next_step


def _figures(difference: Difference) -> Iterator[tuple[str, str]]:
    theirs, ours = _named(difference.reference), _named(difference.port)
    (their_a, their_b), (our_a, our_b) = difference.reference_logits, difference.port_logits
    yield "reference", f"{theirs} {their_a:.7g}, {ours} {their_b:.7g}: margin {_figure(difference.reference_margin)}"
    yield "port", f"{theirs} {our_a:.7g}, {ours} {our_b:.7g}: margin {_figure(difference.port_margin)}"
    yield "rounding", f"{_figure(difference.rounding)}, the largest error of the reference's own logits there"


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
    shown = [_named(token) for token in prompt.tokens]
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
            visible(text) or _bare(tokens)
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
        yield Text(f"{_INDENT}{name}{_agreement(forced)}")
        if forced.beyond is not None:
            where = "parity check says where it comes from"
            told = f"from new token {forced.beyond + 1} on logits differ by more than rounding explains; {where}"
            yield Text(f"{_INDENT}{told}", "yellow")
        for difference in forced.differences[:_SHOWN]:
            yield _listed_difference(difference)
        if len(forced.differences) > _SHOWN:
            yield Text(f"{_INDENT}  {len(forced.differences) - _SHOWN} more, in --format json", "dim")


def _agreement(forced: TeacherForced) -> str:
    ties = len(forced.differences) - len(forced.faults)
    found = [
        f"{count} {word}{'s' * (count > 1)}"
        for count, word in ((len(forced.faults), "fault"), (ties, "near-tie"))
        if count
    ]
    also = f", {' and '.join(found)}" if found else ""
    return (
        f"{forced.agreeing} of {forced.tokens} choices agree{also}; "
        f"logits differ by {_figure(forced.largest)} at most, rounding alone by {_figure(forced.rounding)}; "
        f"mean KL {_figure(forced.mean_kl)} nats"
    )


def _listed_difference(difference: Difference) -> Text:
    word, style = ("near-tie", "yellow") if difference.verdict == "near_tie" else ("fault", "bold red")
    margins = f"margins {_figure(difference.reference_margin)} and {_figure(difference.port_margin)}"
    return Text.assemble(
        f"{_INDENT}  ",
        (f"{word:<9}", style),
        f"new token {difference.index + 1}: reference {_named(difference.reference)}, port {_named(difference.port)}; "
        f"{margins}, rounding {_figure(difference.rounding)}",
    )


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
            yield Text(f"{_INDENT}{name:<22}{_rate(ours):>7}{_rate(theirs):>12}{shown:>8}")
    yield Text(f"{_INDENT}{'prompt':<22}{_seconds(port.prefill):>7}{_seconds(reference.prefill):>12}")


def _notes(notes: Sequence[str]) -> Iterator[Text]:
    if notes:
        yield Text("\nNotes", "bold")
        yield from (Text(f"{_INDENT}{note}") for note in notes)


def _named(token: Token) -> str:
    return f"{token.id} {token.piece!r}" if token.piece else str(token.id)


def _bare(tokens: Sequence[Token]) -> str:
    return " ".join(str(token.id) for token in tokens)


def _figure(value: float) -> str:
    return f"{value:.2g}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
