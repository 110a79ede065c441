"""The text of an audit: what a pass is worth in ten lines, what is missed and why, then every field and every cause."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from parity.records import Audit, AuditedCause, AuditedField, TriedMutation

_WIDTH = 116
_FIELDS = {
    "seen": "seen",
    "blind": "blind",
    "untried": "untried",
    "no_effect": "no effect",
    "silent": "silent",
}
_CAUSES = {
    "seen": "seen",
    "blind": "blind",
    "untried": "untried",
    "elsewhere": "elsewhere",
    "not_applicable": "not applicable",
}
_WORRYING = ("blind", "untried")
_SHOWN = 12  # missed mutations of one cause and one reason; the JSON has them all


def render(audit: Audit) -> Iterator[Text]:
    """The audit line by line, styled."""
    yield _headline(audit)
    yield _circumstances(audit)
    yield Text()
    yield from _totals(audit)
    yield from _blind(audit)
    yield Text("\nConfig fields", "bold")
    yield from _fields(audit.fields)
    yield Text("\nCauses, with mutations caught of those that change the function", "bold")
    yield from _causes(audit.causes)
    if audit.notes:
        yield Text("\nNot covered", "bold")
        yield from (Text(f"  {note}") for note in audit.notes)


def _headline(audit: Audit) -> Text:
    missed = len(audit.named("missed"))
    sees = _score(audit)
    blind = [each for each in audit.fields if each.verdict == "blind"]
    word, style = ("BLIND", "bold yellow") if missed or blind else ("SEES", "bold green")
    return Text.assemble((word, style), f"  a check of {audit.port} against {audit.reference} {sees}")


def _score(audit: Audit) -> str:
    caught, missed = len(audit.named("caught")), len(audit.named("missed"))
    return f"notices {caught:,} of {caught + missed:,} changes to the reference" + _share(caught, caught + missed)


def _share(caught: int, applicable: int) -> str:
    """The score; rounded down, so that 100 % is all."""
    return f", {caught * 1000 // applicable / 10:g} %" if applicable else ""


def _circumstances(audit: Audit) -> Text:
    versions = audit.versions
    made_with = f"transformers {versions.transformers}, torch {versions.torch}, random weights, seed {audit.seed}"
    return Text(f"      {made_with}, {audit.rows} rows of {audit.tokens} tokens", "dim")


def _totals(audit: Audit) -> Iterator[Text]:
    yield _total("config fields", [(each.verdict, _FIELDS) for each in audit.fields])
    yield _total("causes", [(each.verdict, _CAUSES) for each in audit.causes])
    caught, missed, equivalent = (len(audit.named(each)) for each in ("caught", "missed", "equivalent"))
    text = (
        f"{caught:,} caught, {missed:,} missed, {equivalent:,} equivalent: no input tried tells them from the reference"
    )
    yield Text(f"{'mutations':<15}{text}")


def _total(what: str, verdicts: Sequence[tuple[str, dict[str, str]]]) -> Text:
    words = verdicts[0][1] if verdicts else {}
    counts = {verdict: sum(each == verdict for each, _ in verdicts) for verdict in words}
    shown = [f"{counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict] or verdict == "blind"]
    return Text(f"{what:<15}{', '.join(shown)}")


def _blind(audit: Audit) -> Iterator[Text]:
    fields = [each for each in audit.fields if each.verdict in _WORRYING]
    causes = [each for each in audit.causes if each.verdict in _WORRYING]
    missed = audit.named("missed")
    if not (fields or causes or missed):
        yield Text("\nNothing that can be seen in this stage is missed.", "green")
        return
    yield Text("\nBlind spots", "bold")
    for field in fields:
        yield Text.assemble(f"  field {field.name}: ", (f"{_FIELDS[field.verdict]}, {field.reason}", "yellow"))
    for cause in causes:
        yield Text.assemble(f"  cause {cause.code}: ", (_cause_reason(cause), "yellow"))
        yield from _missed([each for each in missed if each.cause == cause.code])
    named = {cause.code for cause in causes}
    others = [each for each in missed if each.cause not in named]
    if others:
        yield Text("  without a cause of their own:")
        yield from _missed(others)


def _cause_reason(cause: AuditedCause) -> str:
    if cause.verdict == "untried":
        return f"untried, {cause.reason}"
    return f"{cause.applicable - cause.caught} of {cause.applicable} mutations missed"


def _missed(mutations: Sequence[TriedMutation]) -> Iterator[Text]:
    for reason, alike in _grouped((each.reason, each.name) for each in mutations):
        yield Text(f"    {reason}")
        yield from (Text(f"      {name}") for name in alike[:_SHOWN])
        if len(alike) > _SHOWN:
            yield Text(f"      {len(alike) - _SHOWN} more, in --format json", "dim")


def _fields(fields: Sequence[AuditedField]) -> Iterator[Text]:
    for verdict, word in _FIELDS.items():
        own = [each for each in fields if each.verdict == verdict]
        for number, (reason, names) in enumerate(_grouped((each.reason, each.name) for each in own)):
            yield from _row("" if number else word, names, reason)


def _causes(causes: Sequence[AuditedCause]) -> Iterator[Text]:
    for verdict, word in _CAUSES.items():
        own = [each for each in causes if each.verdict == verdict]
        reasons = _grouped(("" if verdict == "blind" else each.reason, _counted(each)) for each in own)
        for number, (reason, names) in enumerate(reasons):
            yield from _row("" if number else word, names, reason)


def _counted(cause: AuditedCause) -> str:
    return f"{cause.code} {cause.caught}/{cause.applicable}" if cause.applicable else cause.code


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Names by reason, those without one first."""
    found: dict[str, list[str]] = {}
    for reason, name in pairs:
        found.setdefault(reason, []).append(name)
    return sorted(found.items(), key=lambda item: item[0] != "")


def _row(word: str, names: Sequence[str], reason: str) -> Iterator[Text]:
    """Names behind their verdict, in as many lines as it takes; the reason after them."""
    text = ", ".join(names) + (f" ({reason})" if reason else "")
    lines = textwrap.wrap(text, _WIDTH - 18, break_long_words=False, break_on_hyphens=False)
    style = "yellow" if word in _WORRYING else "dim"
    for number, line in enumerate(lines):
        yield Text.assemble("  ", (f"{'' if number else word:<16}", style), line)
