"""Ctrl-C, in whatever phase: exit code 130, one line on stderr, no file left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parity import console

PORT = """
import time
from pathlib import Path

from parity_models.gemma3 import MODEL_TYPES, WEIGHTS
from parity_models import gemma3


def wait():
    Path({marker!r}).touch()
    time.sleep(600)


class Config:
    @staticmethod
    def from_hf(hf):
        {config}
        return gemma3.Config.from_hf(hf)


class Model(gemma3.Model):
    def __init__(self, config):
        {constructor}
        super().__init__(config)

    def forward(self, input_ids):
        {forward}
        return super().forward(input_ids)


{module}
"""
PHASES = ("module", "config", "constructor", "forward")


@pytest.mark.parametrize("phase", PHASES)
def test_interrupted_while_the_port_is_at_work(
    phase: str, tmp_path: Path, interrupted: Callable[..., tuple[int, str, str]]
) -> None:
    """The port says when it waits; the signal comes then, and what was in the file before is still there."""
    temporary, folder = tmp_path / "temporary", tmp_path / "folder"
    temporary.mkdir()
    folder.mkdir()
    marker, output, port = tmp_path / "waiting", folder / "report.json", tmp_path / "port.py"
    calls = {name: "wait()" if name == phase else "" for name in PHASES}
    port.write_text(PORT.format(marker=str(marker), **calls))
    output.write_text("as it was")
    command = ("check", port, "--small-config", "--format", "json", "-o", output)
    assert interrupted(*command, marker=marker, temporary=temporary) == (130, "", "parity: interrupted\n")
    assert output.read_text() == "as it was"
    assert [path.name for path in folder.iterdir()] == ["report.json"]
    assert list(temporary.glob("parity-*")) == []


@pytest.mark.parametrize("at", ["chmod", "replace"])
def test_interrupted_while_the_report_is_written(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a report nor its temporary file."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, at, interrupt)
    with pytest.raises(KeyboardInterrupt):
        console.put("text", tmp_path / "report.txt")
    assert list(tmp_path.iterdir()) == []
