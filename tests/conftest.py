"""What all tests share: paths, and ports written to a temporary file."""

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if TYPE_CHECKING:
    from parity import Report

pytest_plugins = ["pytester"]  # for tests/plugin; pytest wants to know of it up here

ROOT = Path(__file__).parent.parent


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def configs() -> Path:
    """Real config.json files."""
    return ROOT / "fixtures" / "configs"


@pytest.fixture
def broken_port(tmp_path: Path) -> Callable[..., Path]:
    """Write a port that is Gemma 3 with some of its text replaced, each text occurring once."""

    def write(*edits: tuple[str, str], name: str = "port.py") -> Path:
        path = tmp_path / name
        path.write_text(f'from parity_fixtures.rewrite import rewrite\n\nrewrite(globals(), "gemma3", *{edits!r})\n')
        return path

    return write


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small Gemma 3 with random weights, and a tokenizer; not to be written to."""
    from fixtures.checkpoints.small import write

    config = json.loads((ROOT / "fixtures" / "configs" / "gemma-3-270m.json").read_text())
    return write(tmp_path_factory.mktemp("checkpoint"), config)


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "Report"]:
    """Reports of every kind, by name; each is made when it is first asked for."""
    import parity

    text = (ROOT / "models" / "gemma3.py").read_text()
    folder = tmp_path_factory.mktemp("ports")

    def port(name: str, base: str, old: str, new: str) -> Path:
        path = folder / name
        path.write_text(
            f"from parity_fixtures.rewrite import rewrite\n\nrewrite(globals(), {base!r}, {(old, new)!r})\n"
        )
        return path

    def make(name: str) -> "Report":
        small = {"small_config": True}
        if name == "passing":
            return parity.check("gemma3", **small)
        if name == "failing":
            path = folder / "own_port.py"
            path.write_text(text.replace("distance < self", "distance <= self").replace("window - 1,", "window,"))
            return parity.check(path, **small)
        if name == "rounding":
            root = "torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)"
            return parity.check(port("rounding.py", "qwen3", root, f"{root}.to(x.dtype).float()"), **small)
        if name == "sparse":
            return parity.check(ROOT / "fixtures/benign/fewer_modules.py", **small, stage=["forward"])
        if name == "incomplete":
            path = folder / "no_cache.py"
            path.write_text(text.replace("def new_cache(", "def other_cache("))
            return parity.check(path, **small, stage=["forward", "cache"])
        if name == "not finite":
            embedded = "x = self.embed_tokens(input_ids)"
            return parity.check(port("nan.py", "gemma3", embedded, f"{embedded} / 0"), **small, stage=["forward"])
        raise KeyError(name)

    return lru_cache(make)
