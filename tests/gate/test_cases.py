"""Names, files and globs become cases; what matches nothing is told before anything runs."""

from pathlib import Path

import pytest

from parity.errors import ParityError
from parity.gate.cases import make, names


def named(*ports: str, folder: Path, configs: tuple[str, ...] = (), dtypes: tuple[str, ...] = ()) -> list[str]:
    """The names of the cases of a folder."""
    return [case.name for case in make(ports, configs, dtypes, folder, folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two ports in a package, one at the top, two configs."""
    for name in ("one.py", "ports/__init__.py", "ports/a.py", "ports/b.py", "ports/notes.txt", "c/x.json", "c/y.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_every_built_in_port_is_the_default(folder: Path) -> None:
    """Without a word about ports, all that come with Parity."""
    assert {"gemma3", "gpt2", "llama3", "qwen3"} <= set(named(folder=folder))


def test_globs_take_ports_and_leave_what_is_none(folder: Path) -> None:
    """Neither a package's own file nor what is not Python; once each, however often it is named."""
    assert named("ports/*", "one.py", "ports/a.py", folder=folder) == ["ports/a.py", "ports/b.py", "one.py"]
    assert named("gp*", folder=folder) == ["gpt2"]
    assert named("**/*.py", folder=folder) == ["one.py", "ports/a.py", "ports/b.py"]


def test_a_namespace_and_a_dotted_module_stay(folder: Path) -> None:
    """As `parity check` takes them."""
    assert named("one.py:Inner", "ports.a", folder=folder) == ["one.py:Inner", "ports.a"]


def test_files_are_called_as_seen_from_the_project(folder: Path) -> None:
    """Wherever the gate is started, so that a baseline holds for all."""
    here = folder / "ports"
    assert [case.name for case in make(("a.py", "../one.py"), (), (), here, folder)] == ["ports/a.py", "one.py"]


def test_every_port_meets_every_config_in_every_dtype(folder: Path) -> None:
    """The product of the three, each with a name of its own."""
    found = named("one.py", "gpt2", folder=folder, configs=("c/*.json",), dtypes=("float32", "bfloat16"))
    assert len(set(found)) == len(found) == 8
    assert "one.py (c/x.json, bfloat16)" in found


@pytest.mark.parametrize(
    ("ports", "configs", "dtypes", "told"),
    [
        (("none.py",), (), (), "no port matches 'none.py'. "),
        (("none/*.py",), (), (), "no port matches 'none/*.py'. "),
        (("zz*",), (), (), "no port matches 'zz*'. "),
        (("gema3",), (), (), "no port matches 'gema3'. Did you mean gemma3 or gemma4?"),
        (("one.py",), ("none.json",), (), "no config matches 'none.json'. "),
        (("one.py",), (), ("float8",), "there is no dtype 'float8' to compare in. "),
    ],
)
def test_what_matches_nothing(
    folder: Path, ports: tuple[str, ...], configs: tuple[str, ...], dtypes: tuple[str, ...], told: str
) -> None:
    """One line, with what to do."""
    with pytest.raises(ParityError) as raised:
        make(ports, configs, dtypes, folder, folder)
    assert str(raised.value).startswith(told)


def test_names_are_found_without_torch() -> None:
    """The same as those that a check knows."""
    from parity.pair.port import built_in_names

    assert list(names()) == built_in_names()
