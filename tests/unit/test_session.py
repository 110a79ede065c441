"""A session of several checks: what it keeps of the reference changes no report, and of ports it keeps nothing."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

import parity
from parity.errors import ParityError
from parity.pair.kept import Kept
from parity.pipeline import Session
from parity.records import Report


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers of the small Gemma 3, one of them full: small enough to be checked many times."""
    settings = json.loads((Path(__file__).parents[2] / "bench" / "small.json").read_text())
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps({**settings, "num_hidden_layers": 3, "layer_types": kinds}))
    return path


@pytest.fixture
def port(tmp_path: Path) -> Path:
    """Where the port is; nothing is there yet."""
    return tmp_path / "port.py"


@pytest.fixture
def session(port: Path, config: Path) -> Iterator[Session]:
    """A session for that port."""
    with Session(port, config=config) as made:
        yield made


@pytest.fixture
def quick(port: Path, config: Path) -> Iterator[Session]:
    """A session without the stages above the full forward."""
    with Session(port, config=config, stage=("weights", "forward")) as made:
        yield made


def timeless(report: Report) -> Report:
    """Without the seconds, the one thing in which two checks may differ."""
    return replace(report, stages=tuple(replace(stage, seconds=0.0) for stage in report.stages))


def text_of(root: Path, name: str) -> str:
    """A fixture's text, or that of the port itself."""
    folders = ("models", "fixtures/bugs", "fixtures/benign")
    return next(path for folder in folders if (path := root / folder / f"{name}.py").exists()).read_text()


def test_a_warm_session_reports_what_a_fresh_check_does(root: Path, port: Path, config: Path, session: Session) -> None:
    """Broken, mended, with other boundaries, not loaded, as at first: the same records, figures and lines."""
    names = ["silu", "gemma3", "scaled_embedding_table", "norm_never_loaded", "silu"]
    fresh: dict[str, Report] = {}
    for name in dict.fromkeys(names):
        port.write_text(text_of(root, name))
        fresh[name] = timeless(parity.check(port, config=config))
    assert [fresh[name].verdict for name in names] == ["fail", "pass", "pass", "fail", "fail"]
    for name in names:
        port.write_text(text_of(root, name))
        assert timeless(session.check()) == fresh[name], name


def test_what_is_kept_is_used(root: Path, port: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second check of a passing port builds and runs no reference at all."""
    from parity.pair import oracle, reference

    port.write_text(text_of(root, "gemma3"))
    first = session.check()

    def again(*_: object, **__: object) -> None:
        raise AssertionError("the reference was built or run again")

    monkeypatch.setattr(reference, "build", again)
    monkeypatch.setattr(oracle, "execute", again)
    assert timeless(session.check()) == timeless(first)


def test_memory_does_not_grow(root: Path, port: Path, session: Session) -> None:
    """After five checks more, no model of a port is alive but those of the last check."""

    def alive() -> int:
        gc.collect()
        found = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
        return sum(type(each).__module__.startswith("_parity_port") for each in found)

    counts = []
    for name in ("silu", "gemma3", "gemma3", "gemma3", "gemma3", "silu"):
        port.write_text(text_of(root, name))
        session.check()
        counts.append(alive())
    assert counts[-1] <= counts[0]
    assert max(counts) == counts[0]


def test_local_modules_are_imported_anew(root: Path, port: Path, quick: Session) -> None:
    """A helper beside the port is part of it, one that is as long as before and saved in the same second too."""
    helper = port.parent / "norms_of_mine.py"
    helper.write_text("EPS = 1e-6\n")
    text = text_of(root, "gemma3")
    own = "self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)"
    assert text.count(own) == text.count("\nimport torch\n") == 1
    text = text.replace(own, own.replace("config.rms_norm_eps", "norms_of_mine.EPS"))
    port.write_text(text.replace("\nimport torch\n", "\nimport norms_of_mine\nimport torch\n"))
    assert quick.check().verdict == "pass"
    assert quick.files == {port, helper}
    helper.write_text("EPS = 1e-5\n")
    assert quick.check().verdict == "fail"
    helper.write_text("EPS = 1e-6\n")
    assert quick.check().verdict == "pass"


def test_a_broken_port_ends_no_session(root: Path, port: Path, quick: Session) -> None:
    """It says what is wrong; mended, it is checked. The file that an import failed in is known from then on."""
    port.write_text("import broken_of_mine\n")
    helper = port.parent / "broken_of_mine.py"
    helper.write_text("def x(:\n")
    with pytest.raises(ParityError, match="SyntaxError"):
        quick.check()
    assert quick.files == {port, helper}
    port.write_text(text_of(root, "gemma3"))
    assert quick.check().verdict == "pass"


def test_lines_are_those_of_the_file_as_it_is(root: Path, port: Path, quick: Session) -> None:
    """A fault that moves down is shown where it is now."""
    text = text_of(root, "gemma3").replace('nn.GELU(approximate="tanh")', "nn.SiLU()")
    port.write_text(text)
    first = quick.check().findings[0].port_source
    port.write_text("# one line more\n" + text)
    second = quick.check().findings[0].port_source
    assert first is not None
    assert second is not None
    assert (second.line, second.text) == (first.line + 1, first.text)


def test_kept_once() -> None:
    """Made once per name, again if what it follows from changes, and each time by who keeps nothing."""
    made: list[str] = []

    def make(what: str) -> Callable[[], str]:
        return lambda: made.append(what) or what

    kept, forgetful = Kept(keeps=True), Kept()
    assert [kept.once("a", make("1")), kept.once("a", make("2")), kept.once("b", make("3"))] == ["1", "1", "3"]
    assert [kept.once("c", make(each), each) for each in ("4", "4", "5", "4")] == ["4", "4", "5", "4"]
    assert [forgetful.once("a", make("6")), forgetful.once("a", make("7"))] == ["6", "7"]
    assert made == ["1", "3", "4", "5", "4", "6", "7"]
