"""The pages on causes: one for every code, whole, and true."""

import re
from pathlib import Path

import pytest

from bench.causes.examples import keys, page_of, refreshed
from parity.explain.causes import CAUSES
from parity.report import causes

ROOT = Path(__file__).parents[2]
CODES = sorted({*(cause.code for cause in CAUSES), "unknown"})
SECTIONS = (
    "What it looks like",
    "Why it happens",
    "How to tell it from its neighbours",
    "How to mend it",
    "As Parity tells it",
)

# Pages whose example carries another code, and say so. What is named one day has to leave this list.
NAMED_OTHERWISE = {
    "alibi": "unknown",
    "sinks": "unknown",
}


def text_of(cause: str) -> str:
    """A page."""
    return page_of(cause).read_text(encoding="utf-8")


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    """The catalogue, what Parity adds to it, and `unknown`."""
    assert list(causes.codes()) == CODES


def test_the_index_links_every_page_with_its_title() -> None:
    """Nobody finds a page that is not there."""
    index = (ROOT / "docs" / "causes" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[`([a-z-]+)`\]\(\1\.md\) \| (.+) \|$", index, re.MULTILINE))
    assert rows == {code: text_of(code).splitlines()[0].partition(": ")[2] for code in CODES}


@pytest.mark.parametrize("cause", CODES)
def test_a_page_has_all_that_it_should(cause: str) -> None:
    """Title, sections in order and none empty, a mend with both sides, neighbours, an output with the code."""
    text = text_of(cause)
    assert text.startswith(f"# {cause}: ")
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
    parts = [part.strip() for part in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]]
    assert all(parts)
    mend = re.findall(r"```diff\n(.*?)```", parts[3], re.DOTALL)
    assert len(mend) == 1
    assert "\n+" in f"\n{mend[0]}"
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", parts[2]))
    assert cause not in linked
    assert linked or cause in ("gradient-blocked",)
    assert len(keys(text)) == 1
    assert re.findall(r"^ +cause +(\S+)$", parts[4], re.MULTILINE) == [NAMED_OTHERWISE.get(cause, cause)]
    assert max(map(len, text.partition("\n## As Parity tells it\n")[0].splitlines())) <= 120


@pytest.mark.parametrize("cause", ["softmax-scale", "kv-cache", "sinks", "weights-silently-missing"])
def test_an_output_is_what_parity_says(cause: str) -> None:
    """A sample, run again: a mutant of the benchmark, one with a cache, a wrapped reference, a loader."""
    text = text_of(cause)
    assert refreshed(text) == text
