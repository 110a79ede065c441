"""What changed, by git, and which cases are made of it, by reading them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.errors import ParityError
from parity.gate import changed
from parity.gate_records import Case

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A repository with two ports, one of which uses a module, a package and a table; all committed."""
    files = {
        "pyproject.toml": "[project]\nname = 'x'\n[tool.parity]\nseed = 1\n",
        "alone.py": "import torch\n",
        "other.py": "import shared\nfrom parts import norm\nTABLE = open('data/table.json')\n",
        "shared.py": "from deep.inner import thing\n",
        "deep/inner.py": "thing = 1\n",
        "parts/__init__.py": "",
        "parts/norm.py": "from . import helper\n",
        "parts/helper.py": "",
        "parts/unused.py": "",
        "data/table.json": "{}",
        "config.json": "{}",
        "README": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def call(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
        ran = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return ran.stdout

    call("init", "-q", "-b", "main")
    call("add", ".")
    call("commit", "-qm", "first")
    return call


def touched(folder: Path, since: str = "HEAD", baseline: str = "parity-baseline.json") -> list[str]:
    """The ports that a change touches; all, if it touches everything."""
    change = changed.since(since, folder, folder / baseline)
    cases = [Case("alone.py"), Case("other.py"), Case("other.py:Inner", config="config.json")]
    return [case.name for case in cases if change.whole or changed.touched(case, change, folder)]


BOTH = ["other.py", "other.py:Inner (config.json)"]
ALL = ["alone.py", *BOTH]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("alone.py", ["alone.py"]),
        ("other.py", BOTH),
        ("shared.py", BOTH),
        ("deep/inner.py", BOTH),
        ("parts/norm.py", BOTH),
        ("parts/helper.py", BOTH),
        ("parts/__init__.py", BOTH),
        ("data/table.json", BOTH),
        ("config.json", BOTH[1:]),
        ("parts/unused.py", []),
        ("README", []),
    ],
)
def test_a_port_is_touched_by_what_it_is_made_of(tmp_path: Path, git: Git, file: str, expected: list[str]) -> None:
    """Its file, modules however deep, the packages on the way, files that it names, its config; nothing else."""
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\n")
    assert touched(tmp_path) == expected


def test_changes_of_every_kind_count(tmp_path: Path, git: Git) -> None:
    """Committed since the branch left, staged, unstaged, untracked, and deleted."""
    git("checkout", "-qb", "topic")
    assert touched(tmp_path, "main") == []
    (tmp_path / "alone.py").write_text("import torch, math\n")
    assert touched(tmp_path, "main") == ["alone.py"]
    git("add", ".")
    assert touched(tmp_path, "main") == ["alone.py"]
    git("commit", "-qm", "second")
    assert touched(tmp_path, "main") == ["alone.py"]
    assert touched(tmp_path, "HEAD") == []
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").touch()  # a package comes before a module of its name
    assert touched(tmp_path, "HEAD") == BOTH
    (tmp_path / "shared" / "__init__.py").unlink()
    (tmp_path / "deep" / "inner.py").unlink()
    assert touched(tmp_path, "HEAD") == BOTH


def test_what_happened_on_the_other_branch_meanwhile_does_not_count(tmp_path: Path, git: Git) -> None:
    """The change is held against the common ancestor."""
    git("checkout", "-qb", "topic")
    git("checkout", "-q", "main")
    (tmp_path / "alone.py").write_text("import math\n")
    git("commit", "-qam", "elsewhere")
    git("checkout", "-q", "topic")
    assert touched(tmp_path, "main") == []


def test_settings_and_baseline_mean_everything(tmp_path: Path, git: Git) -> None:
    """Those of Parity alone: a project's version is none of them."""
    path = tmp_path / "pyproject.toml"
    before = path.read_text()
    path.write_text(before.replace("'x'", "'y'"))
    assert touched(tmp_path) == []
    path.write_text(before.replace("seed = 1", "seed = 2"))
    assert touched(tmp_path) == ALL
    path.write_text(before)
    (tmp_path / "frozen.json").touch()
    assert touched(tmp_path, baseline="frozen.json") == ALL


def test_a_package_that_is_worked_on_where_it_is_installed(
    tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has another name than the package, as an editable install may have it."""
    (tmp_path / "lib" / "mine").mkdir(parents=True)
    (tmp_path / "lib" / "mine" / "__init__.py").touch()
    (tmp_path / "lib" / "mine" / "norm.py").touch()
    (tmp_path / "alone.py").write_text("from mine.norm import x\n")
    git("add", ".")
    git("commit", "-qm", "second")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    changed._spec.cache_clear()
    (tmp_path / "lib" / "mine" / "norm.py").write_text("x = 2\n")
    assert touched(tmp_path) == ["alone.py"]
    changed._spec.cache_clear()


def test_a_built_in_port_is_touched_by_its_file(root: Path) -> None:
    """Found through the package that it is installed as."""
    change = changed.Change(frozenset({(root / "models" / "gpt2.py").resolve()}))
    assert changed.touched(Case("gpt2"), change, root)
    assert not changed.touched(Case("qwen3"), change, root)


def test_no_repository_no_revision_no_git(tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each."""
    with pytest.raises(ParityError, match="git knows no revision 'nowhere'"):
        changed.since("nowhere", tmp_path, None)
    with pytest.raises(ParityError, match="git knows no revision '--output=x'"):
        changed.since("--output=x", tmp_path, None)
    git("checkout", "-q", "--orphan", "stranger")
    git("commit", "-qm", "alone")
    with pytest.raises(ParityError, match="have no common ancestor here"):
        changed.since("main", tmp_path, None)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    with pytest.raises(ParityError, match="is in no git repository"):
        changed.since("HEAD", outside, None)
    monkeypatch.setenv("PATH", str(outside))
    with pytest.raises(ParityError, match="git is not installed"):
        changed.since("HEAD", tmp_path, None)
