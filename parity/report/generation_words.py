"""What every view of a generation says in the same words: summary, circumstances, faults, differences, figures."""

from collections.abc import Iterable, Iterator, Sequence

from parity.generation_records import Difference, Generation, Row, TeacherForced, Token

VERDICTS = {"pass": "PASS", "fail": "FAIL"}
Told = tuple[str, Iterable[tuple[str, str]]]


def headline(generation: Generation) -> str:
    """What was compared with what, and what came of it; for two texts that were compared."""
    return f"{generation.port} against {generation.reference}: {_summary(generation)}"


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


def circumstances(generation: Generation) -> str:
    """Versions, checkpoint and how both ran."""
    versions = generation.versions
    revision = f" at {generation.revision[:12]}" if generation.revision else ""
    how = "" if generation.cached else ", no cache in the port"
    device = "" if generation.device == "cpu" else f" on {generation.device}"
    made_with = f"transformers {versions.transformers}, torch {versions.torch}"
    run = f"{generation.dtype}{device}, greedy, eager attention{how}"
    return f"{made_with}, {generation.checkpoint}{revision}, {run}"


def alone(generation: Generation) -> str:
    """How a port wrote that was compared with nothing."""
    count, speed = sum(len(row.port) for row in generation.rows), generation.port_speed
    per_second = speed.cached if generation.cached else speed.uncached
    how = "with a cache" if generation.cached else "without a cache"
    told = f", {rate(per_second)} a second after {seconds(speed.prefill)} for the prompt" if per_second else ""
    return f"{count} new tokens by {generation.port}, {generation.dtype}, {how}{told}; {_stopped(generation)}"


def _stopped(generation: Generation) -> str:
    ended = sum(row.stopped == "end of text" for row in generation.rows)
    if ended == len(generation.rows):
        return "ended by itself" if ended == 1 else "all ended by themselves"
    return "ended by length" if not ended else f"{ended} of {len(generation.rows)} ended by themselves"


def faults(generation: Generation) -> Iterator[Told]:
    """What to mend, the first one first: a title, and labelled lines about it."""
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


def _apart(generation: Generation, row: Row, place: str) -> Told:
    """The same text, of logits that are not the same."""
    forced = row.teacher_forced
    assert forced is not None
    assert forced.beyond is not None
    title = f"from new token {forced.beyond + 1}{place} on, logits differ by more than rounding explains"
    figures = f"{forced.largest:.2g} at most, rounding alone {forced.rounding:.2g}"
    return title, [("apart", figures), ("next", f"parity check {generation.port} --pretrained {generation.checkpoint}")]


def _different(difference: Difference, place: str) -> str:
    ours, theirs = named(difference.port), named(difference.reference)
    return f"new token {difference.index + 1}{place}: the port gives {ours}, the reference {theirs}"


def _details(difference: Difference, row: Row) -> Iterator[tuple[str, str]]:
    yield from _figures(difference)
    if row.blame is not None:
        yield "stage", row.blame.stage
        yield "why", row.blame.text
        yield "next", row.blame.next_step


def _figures(difference: Difference) -> Iterator[tuple[str, str]]:
    theirs, ours = named(difference.reference), named(difference.port)
    (their_a, their_b), (our_a, our_b) = difference.reference_logits, difference.port_logits
    yield "reference", f"{theirs} {their_a:.7g}, {ours} {their_b:.7g}: margin {figure(difference.reference_margin)}"
    yield "port", f"{theirs} {our_a:.7g}, {ours} {our_b:.7g}: margin {figure(difference.port_margin)}"
    yield "rounding", f"{figure(difference.rounding)}, the largest error of the reference's own logits there"


def agreement(forced: TeacherForced) -> str:
    """How the port chose along the reference's tokens."""
    ties = len(forced.differences) - len(forced.faults)
    found = [
        f"{count} {word}{'s' * (count > 1)}"
        for count, word in ((len(forced.faults), "fault"), (ties, "near-tie"))
        if count
    ]
    also = f", {' and '.join(found)}" if found else ""
    return (
        f"{forced.agreeing} of {forced.tokens} choices agree{also}; "
        f"logits differ by {figure(forced.largest)} at most, rounding alone by {figure(forced.rounding)}; "
        f"mean KL {figure(forced.mean_kl)} nats"
    )


def beyond(forced: TeacherForced) -> str | None:
    """From where on the logits are wrong, if they are."""
    if forced.beyond is None:
        return None
    where = "parity check says where it comes from"
    return f"from new token {forced.beyond + 1} on logits differ by more than rounding explains; {where}"


def difference(each: Difference) -> tuple[str, str]:
    """A place where both chose different tokens: whether that is a near-tie, and its figures."""
    margins = f"margins {figure(each.reference_margin)} and {figure(each.port_margin)}"
    text = f"new token {each.index + 1}: reference {named(each.reference)}, port {named(each.port)}; "
    return "near-tie" if each.verdict == "near_tie" else "fault", f"{text}{margins}, rounding {figure(each.rounding)}"


def named(token: Token) -> str:
    """An id, and what it stands for if that is known."""
    return f"{token.id} {token.piece!r}" if token.piece else str(token.id)


def bare(tokens: Sequence[Token]) -> str:
    """Ids alone."""
    return " ".join(str(token.id) for token in tokens)


def figure(value: float) -> str:
    """A difference of logits, for people."""
    return f"{value:.2g}"


def rate(value: float | None) -> str:
    """Tokens per second."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def seconds(value: float | None) -> str:
    """How long it took."""
    return "-" if value is None else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
