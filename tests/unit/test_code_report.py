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


def around(path: Path, line: int, text: str) -> list[int]:
    """The numbers of the lines that come with one."""
    found = with_context([finding(Source(str(path), line, text), None)])[0].port_source
    assert found is not None
    return [number for number, _ in found.context]


def test_context_is_the_function(tmp_path: Path) -> None:
    """From its decorator to its end, the innermost one; none of what is beside it."""
    path = tmp_path / "port.py"
    path.write_text("import this\n\n@once\ndef first(x):\n    return x\n\n\ndef second(x):\n    return 2 * x\n")
    assert around(path, 1, "import this") == [1]
    assert around(path, 5, "return x") == [3, 4, 5]
    assert around(path, 9, "return 2 * x") == [8, 9]
    assert around(path, 9, "something else") == []
    assert around(path, 80, "return x") == []


def test_context_of_what_is_in_no_function_or_in_a_long_one(tmp_path: Path) -> None:
    """Two lines each side, no blank ones at the ends; of a file that is no Python as well."""
    path = tmp_path / "port.py"
    body = "".join(f"    x = x + {number}\n" for number in range(2, 80))
    path.write_text(f"a = 1\n\nb = 2\n\ndef long(x):\n{body}    return x\n")
    assert around(path, 1, "a = 1") == [1, 2, 3]
    assert around(path, 3, "b = 2") == [1, 2, 3]
    assert around(path, 6, "x = x + 2") == [5, 6, 7, 8]
    assert around(path, 40, "x = x + 36") == [38, 39, 40, 41, 42]
    other = tmp_path / "other.py"
    other.write_text("no python\n" * 9)
    assert around(other, 5, "no python") == [3, 4, 5, 6, 7]


def test_the_text_shows_a_few_lines_of_the_function() -> None:
    """Two before and after, not past the function's own first line nor into one inside it; none blank at the ends."""
    code = ("@once", "def double(x):", "    y = x", "", "    y = y", "    return y * 2", "", "    # unreachable")
    context = tuple(enumerate(code, 10))

    def numbers(line: int) -> list[str]:
        shown = rendered(finding(Source("port.py", line, code[line - 10].strip(), context), None), None)[1:]
        return [line.replace(">", "").split()[0] for line in shown]

    assert numbers(11) == ["11", "12"]
    assert numbers(12) == ["11", "12", "13", "14"]
    assert numbers(15) == ["14", "15", "16", "17"]
    inside = ((1, "def outer(x):"), (2, "    y = x"), (3, "    @once"), (4, "    def inner(z):"))
    assert [line.split()[-1] for line in rendered(finding(Source("port.py", 2, "y = x", inside), None), None)[1:]] == [
        "outer(x):",
        "x",
    ]


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
