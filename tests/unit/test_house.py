"""The house: imports run one way, and ports stand alone."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ["pair", "compare", "explain", "report"]
HEAVY = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub"}


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; with `everywhere` false, at its top level only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(names: set[str]) -> set[str]:
    """Their packages."""
    return {name.partition(".")[0] for name in names}


def files(folder: str) -> list[Path]:
    """Python files of a folder."""
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("models"), ids=lambda path: path.stem)
def test_ports_stand_alone(path: Path) -> None:
    """A port imports torch and the standard library, nothing else."""
    assert top(imports(path)) <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "name",
    [
        "records",
        "generation_records",
        "cache_records",
        "card_records",
        "new_records",
        "workflow_records",
        "errors",
        "names",
        "packages",
        "settings",
    ],
)
def test_foundations_need_nothing(name: str) -> None:
    """The standard library, and each other."""
    assert top(imports(ROOT / "parity" / f"{name}.py")) <= {"parity", *sys.stdlib_module_names}
    own = {module for module in imports(ROOT / "parity" / f"{name}.py") if module.startswith("parity.")}
    assert {module.split(".")[1] for module in own} <= {"errors", "names", "packages", "records", "cache_records"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_backwards_only(room: str) -> None:
    """pair, compare, explain, report: none imports a later one, report imports none of the others."""
    later = ROOMS[ROOMS.index(room) + 1 :] if room != "report" else ["pair", "compare", "explain"]
    for path in files(f"parity/{room}"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("parity.")}
        assert not used & {*later, "pipeline", "cli"}, path


def test_cards_stand_beside_the_line() -> None:
    """They read configs and references, and what audits found; nothing on the line reads them."""
    for path in files("parity/card"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("parity.")}
        assert not used & {"compare", "report", "pipeline", "cli"}, path
    for room in ROOMS:
        for path in files(f"parity/{room}"):
            assert not any(name.startswith("parity.card.") for name in imports(path)), path


def test_report_reads_records_and_never_torch() -> None:
    """A saved report can be rendered without it."""
    for path in files("parity/report"):
        assert not top(imports(path)) & HEAVY, path


def test_only_the_reference_knows_transformers() -> None:
    """One file to change when it does."""
    for path in files("parity"):
        knows = "transformers" in top(imports(path))
        assert knows == (path.name == "reference.py"), path


def test_only_the_command_line_knows_typer_and_it_starts_light() -> None:
    """`parity --help` must not import torch."""
    for path in files("parity"):
        assert "typer" not in top(imports(path)) or path.parent.name == "cli", path
    light = [ROOT / "parity" / f"{name}.py" for name in ("__init__", "settings", "errors", "console")]
    for path in (*light, *files("parity/cli")):
        assert not top(imports(path, everywhere=False)) & {*HEAVY, "rich"}, path


def test_nothing_names_an_architecture_outside_ports_and_fixtures() -> None:
    """Parity works from structure and values; a model's name in its code would be a case tuned to it."""
    words = ("gemma", "llama", "qwen", "gpt2", "olmo", "deepseek", "nemotron", "smollm", "sarvam")
    for path in files("parity"):
        code = ast.parse(path.read_text(encoding="utf-8"))
        strings = [
            node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        docs = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(code)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        found = [text for text in strings if text not in docs and any(word in text.lower() for word in words)]
        assert found in ([], ['Add "model_type", for instance "llama", or use a config.json.']), path
