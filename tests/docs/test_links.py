"""The pages hang together: no dead link, every page linked, every file of Parity in the architecture."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "fixtures").rglob("*.md"))
    if path.is_file()
)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """Relative links of a page, in the order they stand there."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """What `#` can be followed by: headings as GitHub writes them, `-1` and so on for those that are there twice."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\]\([^)]*\)", "", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    return {slug + (f"-{number}" if number else "") for slug, count in found.items() for number in range(count)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    """The file is there, and so is the heading."""
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: there is no such heading"


def test_every_page_is_linked_from_the_index() -> None:
    """Whatever is in docs/ can be found from docs/README.md, pages on causes from their own index."""
    for index in (ROOT / "docs" / "README.md", ROOT / "docs" / "causes" / "README.md"):
        linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
        below = [path for path in PAGES if path.is_relative_to(index.parent) and path != index]
        own = [
            path for path in below if path.name == "README.md" or path.parent.name != "causes" or "causes" in str(index)
        ]
        assert not [path for path in own if path.resolve() not in linked]


def test_the_architecture_names_every_file() -> None:
    """A new file has its line, and a line has its file."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Files of `parity/`")[2].partition("\n## ")[0]
    rows = [
        name for cell in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", cell)
    ]
    files = [path for path in (ROOT / "parity").rglob("*.py") if path.name != "__init__.py"]
    assert sorted(name for name in rows if name != "__init__.py") == sorted(path.name for path in files)
