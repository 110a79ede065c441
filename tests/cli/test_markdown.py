"""Markdown of a check and of a generation, read as GitHub reads it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token as Markup

from parity import Report
from parity.generation_records import Difference, Generation, Prompt, Row, Speed, TeacherForced, Token
from parity.records import Boundary, Finding, Source, Stage, Unmatched, Versions
from parity.report import markdown, markdown_generation

Checked = Callable[[str], Report]

VERSIONS = Versions("1", "2", "3")
NASTY = "a | b `c` ``d *e* _f_ <b>g</b> [h](i) # j $k$ ~~l~~ &amp; \\ m\nn"
FLAT = " ".join(NASTY.split())
SPOKEN = FLAT.replace("`c`", "c")  # what stands between backticks is code


def tokens(text: str) -> list[Markup]:
    """The document, read."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def spoken(token: Markup) -> str:
    """What a paragraph, a heading or a cell shows."""
    return "".join(each.content for each in token.children or [])


def shown(text: str, opens: str) -> list[str]:
    """What all headings, cells or items of a document show."""
    found = tokens(text)
    return [
        spoken(next(token for token in found[at:] if token.type == "inline"))
        for at, token in enumerate(found)
        if token.type == opens
    ]


def fences(text: str) -> list[str]:
    """Blocks of code."""
    return [token.content for token in tokens(text) if token.type == "fence"]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of all tables."""
    found: list[list[str]] = []
    inside = False
    for token in tokens(text):
        inside = token.type == "tr_open" or (inside and token.type != "tr_close")
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline" and inside:
            found[-1].append(spoken(token))
    return found


def test_a_failure(checked: Checked) -> None:
    """Verdict, finding with the lines of both sides marked, stages, figures of what is wrong by itself."""
    report = checked("failing")
    text = markdown.render(report)
    headings = shown(text, "heading_open")
    assert headings[0].startswith("FAIL: ")
    assert headings[0].endswith("own_port.py against Gemma3ForCausalLM: 1 finding, first in layers.0.attention")
    assert headings[1:] == [
        "Look first at",
        f"1. {report.findings[0].title}",
        "Stages",
        "Boundaries that are wrong by themselves",
        "Not covered",
    ]
    ours, theirs = fences(text)
    assert [line for line in ours.splitlines() if line.startswith(">")] == [
        f"> {report.findings[0].port_source.line}      {report.findings[0].port_source.text}"
    ] or f"> {report.findings[0].port_source.line}" in ours
    assert "kv_idx > q_idx - sliding_window" in theirs
    cells = rows(text)
    assert [row[:2] for row in cells if row[0] == "weights"] == [["weights", "pass"]]
    assert next(row[1] for row in cells if row[0] == "forward") == "fail"
    wrong = [each.name for each in report.boundaries if each.verdict == "diff" and not each.inherited]
    assert [row[1] for row in cells if row[0] == "forward"][1:] == wrong
    inherited = sum(each.inherited for each in report.boundaries)
    assert f"{inherited} more boundaries differ only because of what came in" in text


def test_a_pass_is_calm(checked: Checked) -> None:
    """The verdict, the stages, and what was not covered."""
    assert shown(markdown.render(checked("passing")), "heading_open")[1:] == ["Stages", "Not covered"]


def test_what_was_not_compared(checked: Checked) -> None:
    """Each reason once, with its boundaries."""
    told = shown(markdown.render(checked("sparse")), "list_item_open")
    assert "model.embed_tokens: not compared, the port's module ends at another point" in told[0]
    assert any(
        each.startswith("reference modules with no counterpart in the port: model.layers.{0-5}") for each in told
    )


def test_any_text_stays_text() -> None:
    """Nothing in a title, a name, a reason or a line of code is taken for markup."""
    source = Source("port.py", 2, NASTY, ((1, "```"), (2, "````"), (3, "x")))
    finding = Finding(
        "forward", NASTY, NASTY, NASTY, NASTY, source, None, evidence=(NASTY, "1. first", "- list", "+ x")
    )
    place = Boundary("forward", NASTY, "m", NASTY, "output", own=1.0, total=1.0, ratio=3.0)
    report = Report(
        VERSIONS, NASTY, NASTY, "random", 0, (Stage("forward", "fail"), Stage("cache", "not_run", NASTY)),
        (place,), (finding,), Unmatched(), notes=(NASTY, "1. first", "- list", "+ x"),
    )  # fmt: skip
    text = markdown.render(report)
    assert not [token for token in tokens(text) if token.type.startswith(("html", "hr", "blockquote", "ordered"))]
    kinds = {child.type for token in tokens(text) for child in token.children or []}
    assert kinds <= {"text", "code_inline", "text_special", "strong_open", "strong_close"}
    headings = shown(text, "heading_open")
    assert headings[0].startswith(f"FAIL: {SPOKEN} against {SPOKEN}")
    assert headings[2] == f"1. {SPOKEN}"
    items = shown(text, "list_item_open")
    assert f"port: {FLAT}" in items
    assert [f"evidence: {each}" for each in (SPOKEN, "1. first", "- list", "+ x")] == [
        each for each in items if each.startswith("evidence")
    ]
    assert fences(text) == ["  1  ```\n> 2  ````\n  3  x\n"]
    figures = [row for row in rows(text) if row[0] == "forward"][-1]
    assert figures == ["forward", FLAT, "-", "-", "1.0e+00", "3.00", FLAT]
    assert [row[-1] for row in rows(text) if row[0] == "cache"] == [SPOKEN]


def generation(port: str, reference: str) -> Generation:
    """Both wrote these texts; they part at the second token."""
    first = Difference(1, Token(5, " a"), Token(6, " b"), (2.0, 1.0), (1.0, 3.0), 1e-6)
    row = Row(
        (Token(4), Token(6)), port, "length", (Token(4), Token(5)), reference, first,
        TeacherForced(2, (first,), 2.0, 1e-6, 1, 0.5),
    )  # fmt: skip
    return Generation(
        VERSIONS, "port.py", "Reference", "checkpoint", None, "float32", "cpu", True,
        (Prompt((Token(1), Token(2)), "Once"),), (row,), Speed(0.5, 30.0, 2.0), Speed(0.25, 15.0, 4.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("port", "reference", "parts"),
    [
        ("same```\n*x*", "same```\n*y*", ["same```\n*\n", "x*\n", "y*\n"]),
        ("a\n```\nb", "a\n```\nc", ["a\n```\n\n", "b\n", "c\n"]),
        ("ab", "xy", ["ab\n", "xy\n"]),
        ("ab", "abc", ["ab\n", "c\n"]),
    ],
)
def test_texts_part_where_they_differ(port: str, reference: str, parts: list[str]) -> None:
    """What both share once, then each side's own, as it was written."""
    text = markdown_generation.render(generation(port, reference))
    assert fences(text)[0] == "Once\n"
    assert fences(text)[1:] == parts
    assert ("Port ends there." in text) == (port == "ab" and reference == "abc")


def test_a_generation() -> None:
    """The verdict, the first difference with both candidates, choices, and tokens per second."""
    made = generation("ab", "ac")
    text = markdown_generation.render(made)
    headings = shown(text, "heading_open")
    assert headings[0] == "FAIL: port.py against Reference: another text from new token 2 on"
    assert headings[2] == "1. new token 2: the port gives 6 ' b', the reference 5 ' a'"
    assert ["with a cache", "30.0", "15.0", "2.00"] in rows(text)
    assert any(
        each.startswith("fault: new token 2: reference 5 ' a', port 6 ' b'") for each in shown(text, "list_item_open")
    )
    same = replace(made.rows[0], reference=made.rows[0].port, first_difference=None, teacher_forced=None)
    assert "Both, 2 tokens:" in markdown_generation.render(replace(made, rows=(same,)))
    alone = markdown_generation.render(replace(made, reference="", rows=(replace(same, reference=()),)))
    assert shown(alone, "heading_open")[0] == "Text by port.py"
    assert "Port, 2 tokens:" in alone
