"""The lines of code of a finding: context, arrow, side by side or one above the other."""

from pathlib import Path

import pytest

from parity.explain.context import with_context
from parity.records import Finding, Source
from parity.report.code import lines

PORT = Source("port.py", 12, "return x * 2", ((10, "    def double(x):"), (11, ""), (12, "        return x * 2")))
REFERENCE = Source("reference.py", 9, "return x * 3", ((9, "return x * 3"), (10, "# " + "long " * 40)))


def finding(port: Source | None = PORT, reference: Source | None = REFERENCE) -> Finding:
    """A finding with these lines."""
    return Finding("forward", "unknown", "title", "reference", "port", port, reference)


def rendered(found: Finding, width: int | None) -> list[str]:
    """Its lines as plain text."""
    return [line.plain for line in lines(found, width)]


@pytest.mark.parametrize("width", [None, 80, 119])
def test_one_above_the_other_whole(width: int | None) -> None:
    """Off a terminal and on a narrow one; nothing is cut, and the line that is meant has an arrow."""
    shown = rendered(finding(), width)
    assert shown[:4] == [
        "       port line  port.py:12",
        "                    10  def double(x):",
        "                    11",
        "                  > 12      return x * 2",
    ]
    assert shown[4:6] == ["       reference  reference.py:9", "                  >  9  return x * 3"]
    assert shown[6].endswith("long " * 40)


@pytest.mark.parametrize("width", [120, 160])
def test_beside_each_other(width: int) -> None:
    """Both columns keep to the width; what is too long goes on below, and all words are there."""
    shown = rendered(finding(), width)
    assert max(map(len, shown)) <= width
    assert shown[0].split(" | ")[0].strip() == "port line  port.py:12"
    assert shown[0].split(" | ")[1] == "reference  reference.py:9"
    arrows = [line for line in shown if "> 12" in line or ">  9" in line]
    assert len(arrows) == 2
    assert sum(line.split(" | ")[1].count("long") for line in shown) == 40


@pytest.mark.parametrize("width", [None, 160])
def test_one_side_alone(width: int | None) -> None:
    """A line of the reference alone, or of the port alone, or none."""
    assert rendered(finding(port=None), width)[0] == "       reference  reference.py:9"
    assert rendered(finding(reference=None), width)[0] == "       port line  port.py:12"
    assert rendered(finding(None, None), width) == []


def test_without_context() -> None:
    """The line itself, where its file can no longer be read."""
    shown = rendered(finding(Source("port.py", 12, "return x * 2"), None), None)
    assert shown == ["       port line  port.py:12", "                  > 12  return x * 2"]


def test_context_stays_within_the_function(tmp_path: Path) -> None:
    """From the line that opens it to the one before the next; no blank lines at the ends."""
    path = tmp_path / "port.py"
    path.write_text("import this\n\ndef first(x):\n    return x\n\n\ndef second(x):\n    return 2 * x\n")

    def around(line: int, text: str) -> list[int]:
        found = with_context([finding(Source(str(path), line, text), None)])[0].port_source
        assert found is not None
        return [number for number, _ in found.context]

    assert around(4, "return x") == [3, 4]
    assert around(8, "return 2 * x") == [7, 8]
    assert around(8, "something else") == []
    assert around(80, "return x") == []


def test_context_of_a_file_named_briefly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the working directory, or from where packages are installed."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "library.py").write_text("a = 1\nb = 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for name in ("packages/library.py", "library.py"):
        found = with_context([finding(None, Source(name, 2, "b = 2"))])[0].reference_source
        assert found is not None
        assert found.context == ((1, "a = 1"), (2, "b = 2"))
