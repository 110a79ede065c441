"""The tutorial and its neighbours hold: their files run, their edits fit, and Parity says what they show."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import pages

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]

# What has to be as shown; figures and speeds may differ from machine to machine.
_WORDS = re.compile(
    r"^(?:[A-Z]+  .*| +\d+\. .+| +(?:port|reference|cause|why|port line|more|also in) .+|\[[\w-]+\] +[^:]+)"
)
_FIGURE = re.compile(r"\b\d[\d.e+-]*\b")


def said(output: str) -> list[str]:
    """The lines of an output that have to agree, without figures."""
    found = (match.group() for match in map(_WORDS.match, output.splitlines()) if match)
    return [_FIGURE.sub("#", line) for line in found]


def outputs(page: str) -> list[str]:
    """What a page shows, one text per command."""
    return re.findall(r"<!-- output: [^\n]*? -->\n```\w+\n(.*?)```\n", page, re.DOTALL)


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_shows_what_parity_says(name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the top: files written, edits applied, commands run, their words as shown."""
    page = (ROOT / name).read_text(encoding="utf-8")
    monkeypatch.chdir(pages.prepared(tmp_path))

    def command(words: list[str]) -> str:
        _, out, err = run(*words[1:])
        return out or err

    fresh = pages.refreshed(page, tmp_path, command)
    assert outputs(page)
    for shown, told in zip(outputs(page), outputs(fresh), strict=True):
        assert said(shown), "nothing of this output could be compared"
        assert said(shown) == said(told)


def test_the_tutorial_mends_one_fault_after_another() -> None:
    """Three findings, two, one, none: so it is told."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    heads = [output.splitlines()[0] for output in outputs(page)]
    assert [re.search(r"\d+ finding", head)[0] for head in heads[:3]] == ["3 finding", "2 finding", "1 finding"]  # type: ignore[index]
    assert heads[3].startswith("PASS")


def test_an_edit_has_to_fit() -> None:
    """One that changes nothing, or that could mean two places, would go unnoticed."""
    assert pages.edited("a\nb\nc\n", " a\n-b\n+x\n") == "a\nx\nc\n"
    for text in ("a\nc\n", "a\nb\na\nb\n"):
        with pytest.raises(ValueError, match="occurs"):
            pages.edited(text, " a\n-b\n+x\n")
