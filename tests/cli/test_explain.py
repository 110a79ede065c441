"""`parity explain`, and the line of a report that leads there."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from parity.explain.causes import CAUSES
from parity.records import Finding, Report, Unmatched, Versions
from parity.report.text import render

Run = Callable[..., tuple[int, str, str]]


def test_a_page_is_printed_as_plain_text(run: Run) -> None:
    """Off a terminal: the whole page, no markup of ours, no links to files, no colours."""
    code, out, err = run("explain", "softmax-scale")
    assert (code, err) == (0, "")
    assert out.startswith("# softmax-scale: ")
    assert "query_pre_attn_scalar" in out
    assert "\n  1. layers.0.attention goes wrong" in out
    assert out.rstrip().endswith("```")
    assert not any(mark in out for mark in ("<!--", "](", "\x1b"))


def test_a_code_may_be_written_as_people_write_it(run: Run) -> None:
    """Underscores and capitals."""
    assert run("explain", "GQA_repeat") == run("explain", "gqa-repeat")


def test_without_a_cause_all_are_listed(run: Run) -> None:
    """A line each, with a title."""
    code, out, _ = run("explain")
    assert code == 0
    rows = [line.split("  ", 1) for line in out.splitlines()]
    assert sorted({cause.code for cause in CAUSES} | {"unknown"}) == [row[0] for row in rows]
    assert all(row[1].strip() for row in rows)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("softmaxscale", "Did you mean softmax-scale"), ("rope", "rope-"), ("xyzzy", "parity explain lists all.")],
)
def test_an_unknown_cause_is_a_line_with_those_near(word: str, hint: str, run: Run) -> None:
    """Exit code 2, nothing on stdout."""
    code, out, err = run("explain", word)
    assert (code, out) == (2, "")
    assert err.startswith(f"parity: there is no cause '{word}'. ")
    assert hint in err
    assert err.count("\n") == 1


def test_it_imports_nothing_heavy() -> None:
    """It answers at once."""
    program = (
        "import sys\nfrom parity import cli\nsys.argv = ['parity', 'explain', 'sinks']\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_finding_ends_with_where_to_read_on() -> None:
    """Once per finding whose cause is known."""
    found = (
        Finding("forward", "softmax-scale", "a goes wrong", "m.a", "a", evidence=("it is so", "also m.b")),
        Finding("forward", "unknown", "b goes wrong", "m.c", "c"),
    )
    report = Report(Versions("0", "0", "0"), "p", "R", "random", 0, (), (), found, Unmatched())
    lines = [line.plain for line in render(report)]
    assert [line.split() for line in lines if "parity explain" in line] == [
        ["more", "parity", "explain", "softmax-scale"]
    ]
    first = lines[: next(number for number, line in enumerate(lines) if "b goes wrong" in line)]
    assert "parity explain softmax-scale" in first[-1]
