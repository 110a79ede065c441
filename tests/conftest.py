"""What all tests share: paths, and ports written to a temporary file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

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
