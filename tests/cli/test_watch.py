"""`parity check --watch` as a user meets it: a process that is told nothing but that files were saved."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
RULE = "-" * 80
GELU = ('nn.GELU(approximate="tanh")', "nn.SiLU()")
_LIMIT = 120  # seconds after which a test gives up on output that does not come


class Watched:
    """A watch in a process of its own, its output read until something stands in it."""

    def __init__(self, folder: Path, *arguments: object, terminal: bool = False):
        self.output = ""
        self._terminal = terminal
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self._from = ours
        self.process = subprocess.Popen(
            [sys.executable, "-m", "parity", "check", *map(str, arguments), "--watch"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TERM": "xterm", "LINES": "20", "COLUMNS": "100"},
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (the tests start no threads)
        )
        os.close(theirs)

    def until(self, text: str) -> str:
        """What is written up to some text, that included."""
        limit = time.monotonic() + _LIMIT
        while text not in self.output:
            assert time.monotonic() < limit, f"no {text!r} in {self.output!r}"
            assert self._read(0.1) or self.process.poll() is None, (self.output, self.process.communicate())
        told, found, self.output = self.output.partition(text)
        return told + found

    def report(self) -> str:
        """The next report, or error, whole."""
        return self.until(RULE + "\n")

    def _read(self, seconds: float) -> bool:
        if not select.select([self._from], [], [], seconds)[0]:
            return False
        try:
            found = os.read(self._from, 1 << 16)
        except OSError:  # a terminal that nobody writes to any more
            return False
        self.output += found.decode()
        return bool(found)

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: exit code and stderr."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=_LIMIT)
        while self._read(0):
            pass
        return self.process.returncode, err

    def close(self) -> None:
        """End it if it goes on."""
        self.process.kill()
        self.process.communicate()
        os.close(self._from)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Start a watch in a folder with a port and a config of three layers."""
    started: list[Watched] = []

    def start(*arguments: object, terminal: bool = False) -> Watched:
        started.append(Watched(tmp_path, "port.py", "--config", "config.json", *arguments, terminal=terminal))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def text(root: Path, tmp_path: Path) -> str:
    """The text of a right port, which is in the file at first; beside it is its config."""
    settings = json.loads((root / "bench" / "small.json").read_text())
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3, "layer_types": kinds}))
    found = (root / "models" / "gemma3.py").read_text()
    (tmp_path / "port.py").write_text(found)
    return found


def test_save_and_see(watched: Callable[..., Watched], text: str, tmp_path: Path) -> None:
    """Broken, mended, unreadable, gone and back, another config: each shows by itself, what changed first."""
    port, config = tmp_path / "port.py", tmp_path / "config.json"
    watch = watched()
    first = watch.report()
    assert re.match(r"pass after \d+\.\d s\n\nPASS  port\.py against Gemma3ForCausalLM: ", first)
    assert "\x1b" not in first

    port.write_text(text.replace(*GELU))
    known = watch.until("pass before")
    assert re.match(
        r"fail after \d+\.\d s, lines and causes to follow\n  place       .*model\.layers\.0\.mlp\.act_fn", known
    )
    broken = "pass before" + watch.report()
    assert re.match(
        r"pass before, fail now, after \d+\.\d s\n  new         .*: activation in .*, port\.py:\d+\n", broken
    )
    assert "  now wrong   3 boundaries of forward: model.layers.{0-2}.mlp.act_fn; " in broken
    assert "\n\nFAIL  port.py against Gemma3ForCausalLM: 1 finding" in broken

    beside = tmp_path / "port.py.new"
    beside.write_text(text)
    beside.replace(port)  # how many editors save
    mended = watch.report()
    assert re.match(r"fail before, pass now, after \d+\.\d s\n  mended      .*: activation in ", mended)
    assert "  now right   3 boundaries of forward: model.layers.{0-2}.mlp.act_fn; " in mended
    assert "\n\nPASS  port.py" in mended

    port.write_text(text + "\ndef forgotten(:\n")
    assert re.fullmatch(
        rf"not compared after \d\.\d s: port\.py does not import: SyntaxError: .* Mend that line first\.\n{RULE}\n",
        watch.report(),
    )
    port.write_text(text + "\nimport helper_of_mine\n")
    assert "port.py does not import: ModuleNotFoundError: No module named 'helper_of_mine' (port.py" in watch.report()
    (tmp_path / "helper_of_mine.py").write_text("")
    assert watch.report().startswith("pass as before, ")
    (tmp_path / "helper_of_mine.py").write_text("raise ValueError('not yet')\n")
    assert "ValueError: not yet (helper_of_mine.py, line 1" in watch.report()
    port.unlink()
    assert "there is no file port.py. Check the path." in watch.report()
    port.write_text(text + "# back\n")
    assert watch.report().startswith("pass as before, ")

    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "num_hidden_layers": 2, "layer_types": settings["layer_types"][1:]}))
    shorter = watch.report()
    assert "  not there   " in shorter
    assert "model.layers.2" in shorter.partition("PASS")[0]
    assert watch.interrupt() == (130, "parity: interrupted\n")
    assert watch.output == ""


def test_json_is_a_document_a_line_and_files_are_written_again(
    watched: Callable[..., Watched], text: str, tmp_path: Path
) -> None:
    """For an editor to read; what cannot be compared is not among them."""
    port, saved = tmp_path / "port.py", tmp_path / "report.json"
    watch = watched("--format", "json", "--stage", "forward", "--format", f"json={saved}")
    first = json.loads(watch.until("\n"))
    assert (first["schema"], first["verdict"]) == (1, "pass")
    port.write_text("def forgotten(:\n")
    port_is_broken = watch.process.stderr
    assert port_is_broken is not None
    assert "SyntaxError" in port_is_broken.readline()
    port.write_text(text.replace(*GELU))
    second = json.loads(watch.until("\n"))
    assert (second["verdict"], second["findings"][0]["cause"]) == ("fail", "activation")
    port.write_text(text)
    assert json.loads(watch.until("\n"))["verdict"] == "pass"
    assert watch.interrupt()[0] == 130
    assert json.loads(saved.read_text())["verdict"] == "pass"


def test_on_a_terminal_it_is_drawn_in_place(watched: Callable[..., Watched], text: str, tmp_path: Path) -> None:
    """On a screen of its own, what changed at the top and no more than fits; the whole report is left at the end."""
    watch = watched("--stage", "weights", "--stage", "forward", "--all", terminal=True)
    assert "\x1b[?1049h" in watch.until("lines more, shown when you end the watch with Ctrl-C")
    (tmp_path / "port.py").write_text(text.replace(*GELU))
    watch.until("lines and causes to follow")
    drawn = watch.until("lines more, shown when you end the watch with Ctrl-C").rpartition("\x1b[2J")[2]
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn).replace("\r", "").split("\n")
    assert lines[0].startswith("pass before, fail now, after ")
    assert lines[1].startswith("  new   ")
    assert len(lines) < 20
    assert not any("logits: max=" in line for line in lines)
    code, err = watch.interrupt()
    assert (code, err.splitlines()[-1]) == (130, "parity: interrupted")
    _, left, after = watch.output.partition("\x1b[?1049l")
    assert left
    assert "logits: max=" in after


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pretrained", "somewhere"), "--watch and --pretrained are both given. Watch on random weights"),
        (("-o", "report.txt"), "--watch and --output are both given. Give each file with its format"),
        (("--prompt", "Hello"), "--watch and an option for real checkpoints are both given. Leave it out"),
        (("--format", "junit"), "--watch shows text or json, not junit. Give it a file: --format junit=FILE."),
        (("--stage", "forwards"), "there is no stage 'forwards'. Stages are "),
        (("--config", "nowhere.json"), "there is no config nowhere.json. Check the path."),
    ],
)
def test_what_has_no_place_beside_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, arguments: tuple[str, ...], said: str
) -> None:
    """One line, exit code 2, before anything is watched."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("check", "port.py", "--watch", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"parity: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("nowhere.py", "there is no file nowhere.py. Check the path."),
        ("torch.nn", "torch.nn is installed, and no file of yours. Give a file"),
        ("gema3", "gema3 is in no file that could be watched. Give a file"),
    ],
)
def test_what_cannot_be_watched(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: str, said: str
) -> None:
    """A port that is not there, or is nobody's to save."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("check", port, "--watch")
    assert (code, out) == (2, "")
    assert err.startswith(f"parity: {said}")
