"""The tutorial holds: its file passes, and each of its mistakes is reported in the words it shows."""

import re
from pathlib import Path

import pytest

import parity
from parity.records import Report

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "writing-a-port.md").read_text(encoding="utf-8")
CONFIG = ROOT / "fixtures" / "configs" / "llama-3.2-1b.json"
PYTHON = r"```python\n(.*?)```"

FILES = dict(re.findall(rf"<!-- file: (\S+) -->\n{PYTHON}", TUTORIAL, re.DOTALL))
EDITS = {
    name: (right, wrong)
    for name, right, wrong in re.findall(rf"<!-- mistake: (\S+) -->\n{PYTHON}\n+{PYTHON}", TUTORIAL, re.DOTALL)
}


def draft(*mistakes: str) -> str:
    """The tutorial's file with mistakes put in."""
    text = FILES["tiny_llama.py"]
    for name in mistakes:
        right, wrong = EDITS[name]
        assert text.count(right) == 1, f"the text that {name} changes occurs {text.count(right)} times in the file"
        text = text.replace(right, wrong)
    return text


def check(directory: Path, text: str) -> Report:
    """The check of one port, given as text."""
    path = directory / "port.py"
    path.write_text(text, encoding="utf-8")
    return parity.check(path, config=CONFIG, small_config=True)


def shown(heading: str) -> list[tuple[str, str, str]]:
    """The findings in the first output under a heading: title, port's module, reference's module."""
    section = TUTORIAL.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    output = re.findall(r"```text\n(.*?)```", section, re.DOTALL)[0]
    return re.findall(r"^ +\d+\. (.+)\n +port +(.+)\n +reference +(.+)$", output, re.MULTILINE)


def told(report: Report) -> list[tuple[str, str, str]]:
    """The same of a report."""
    return [(finding.title, finding.port_module, finding.reference_module) for finding in report.findings]


def test_the_right_file_passes(tmp_path: Path) -> None:
    """The whole file, as it is printed."""
    report = check(tmp_path, draft())
    assert report.verdict == "pass"
    assert report.findings == ()


@pytest.mark.parametrize(
    ("mistake", "heading"),
    [
        ("norm-not-loaded", "A loading mistake"),
        ("rope-scaling-forgotten", "A rope mistake"),
        ("kv-heads-tiled", "A glue mistake"),
    ],
)
def test_a_mistake_is_reported_as_shown(mistake: str, heading: str, tmp_path: Path) -> None:
    """One mistake, one finding, in the words of the tutorial."""
    report = check(tmp_path, draft(mistake))
    assert report.verdict == "fail"
    assert len(report.findings) == 1
    assert told(report) == shown(heading)


def test_all_mistakes_are_reported_at_once_as_shown(tmp_path: Path) -> None:
    """None hides another."""
    report = check(tmp_path, draft(*EDITS))
    assert report.verdict == "fail"
    assert len(report.findings) == len(EDITS) == 3
    assert told(report) == shown("All three at once")


def test_the_adapter_passes_and_says_what_it_could_not_cover(tmp_path: Path) -> None:
    """The second try, on a config that keeps the real one's equalities."""
    report = check(tmp_path, FILES["llama_adapter.py"])
    assert report.verdict == "pass"
    assert [note for note in report.notes if "hidden_size kept as related in the real config" in note]
