"""The pytest plugin: `pytest --parity`, the fixture `parity`, the marker `parity`.

pytest imports this in every run of an environment that has Parity, so it is light; torch comes with the first check.
"""

import dataclasses
import inspect
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from parity.generation_records import Generation
from parity.pytest_checks import Checks, NotParity, judge, judge_generation, judge_stage, wanted
from parity.pytest_ports import CHECKS, IDS, ROOT, Message, Port, Ports, StageItem, passed, stages_of, where
from parity.records import Report

_FOLDER = pytest.StashKey[Path]()
_SHARED = "parity_checks"  # the name under which workers of xdist are told of the folder
_MESSAGE = "parity_message"  # the name under which they hand on a message
_UNMARKED = 'there is no stage to test. Mark a function, not of unittest, with @pytest.mark.parity("my_port.py").'


class Parity:
    """What the fixture `parity` gives: checks that fail the test that asks for them.

    A check that another test of the session has made, in any process of xdist, is not made again.
    """

    def __init__(self, checks: Checks, root: Path):
        self._checks, self._root = checks, root

    def check(self, port: object, *, small_config: bool | None = None, **options: Any) -> Report:
        """The report of `parity.check`, of a port that passes.

        Args:
            port: as for `parity.check`; a relative path is looked for in the working directory, then in pytest's root.
            small_config: on, unless `pretrained` is given: a test should be quick.
            options: the others of `parity.check`.

        Raises:
            NotParity: an AssertionError: the port differs, something asked for was not compared, or input is bad.
        """
        __tracebackhide__ = True
        small = options.get("pretrained") is None if small_config is None else small_config
        call = wanted("check", port, {"small_config": small, **options}, self._root)
        return judge(self._checks.report(call), call)

    def generate(self, port: object = None, **options: Any) -> Generation:
        """What `parity.generate` finds with `compare_hf`, of a port whose greedy text is the reference's.

        Args:
            port: as for `check`; None for the built-in one that the checkpoint is of.
            options: the others of `parity.generate`.

        Raises:
            NotParity: an AssertionError: the text or the logits differ by more than rounding, or input is bad.
        """
        __tracebackhide__ = True
        call = wanted("generate", port, {**options, "compare_hf": True}, self._root)
        return judge_generation(self._checks.generation(call), call)


@pytest.fixture(scope="session")
def parity(request: pytest.FixtureRequest) -> Parity:
    """Check ports: `parity.check("my_port.py")` fails with the first thing to mend, as `parity.generate` does."""
    return Parity(request.config.stash[CHECKS], request.config.rootpath)


@pytest.fixture
def parity_stage(request: pytest.FixtureRequest) -> str:
    """The name of the stage that a test marked with `parity` is for."""
    if not hasattr(request, "param"):  # the marker gives it
        raise NotParity([_UNMARKED])
    return str(request.param)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let nothing that is marked pass unchecked, such as a unittest method, which pytest cannot parametrise."""
    marked = isinstance(item, pytest.Function) and item.get_closest_marker("parity") is not None
    if marked and "parity_stage" not in getattr(item, "fixturenames", ()):
        raise NotParity([_UNMARKED])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Let a marked test begin when its stage has passed, else fail or skip it."""
    marker = pyfuncitem.get_closest_marker("parity")
    if marker is not None:
        options = {"small_config": marker.kwargs.get("pretrained") is None, **marker.kwargs}
        asked = tuple(options.pop("stages", None) or ())
        options |= {"stage": asked} if asked else {}
        call = wanted("check", marker.args[0], options, pyfuncitem.config.rootpath)
        report = pyfuncitem.config.stash[CHECKS].report(call)
        passed(judge_stage(report, str(pyfuncitem.funcargs["parity_stage"]), call, bool(asked)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `pytest --parity`."""
    group = parser.getgroup("parity", "parity of LLM ports with their reference")
    group.addoption("--parity", action="store_true", help="Check ports as well, each of their stages as a test.")
    group.addoption(
        "--parity-port",
        action="append",
        default=[],
        metavar="PORT",
        help="Check this port (repeatable) in place of those that parity_ports or [tool.parity.gate] name.",
    )
    parser.addini("parity_ports", "Ports that --parity checks: names, files, patterns of files.", "args", [])


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and make room for what checks find."""
    config.addinivalue_line(
        "markers",
        "parity(port, stages=..., **options): run a test once for each stage of a check of this port, "
        "when the stage has passed; options are those of parity.check.",
    )
    folder = getattr(config, "workerinput", {}).get(_SHARED)
    config.stash[CHECKS] = Checks(Path(folder) if folder else None)
    config.stash[IDS] = ()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give the workers of xdist a folder to share their checks in."""
    stash = node.config.stash
    if _FOLDER not in stash:
        stash[_FOLDER] = Path(tempfile.mkdtemp(prefix="parity-"))
    node.workerinput[_SHARED] = str(stash[_FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    if _FOLDER in config.stash:
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Take ids such as `parity::my_port.py::forward` off the arguments, since pytest holds arguments for paths."""
    config = session.config
    own = [argument for argument in config.args if _names_a_port(argument, config)]
    config.args = [argument for argument in config.args if argument not in own]
    config.stash[IDS] = tuple(f"{ROOT}::{argument.partition('::')[2]}" for argument in own)


def _names_a_port(argument: str, config: pytest.Config) -> bool:
    """Whether it is an id as pytest prints it: with its way to the root before it, wherever pytest was started."""
    start, _, rest = argument.partition("::")
    there = os.path.normpath(config.invocation_params.dir / start) == str(config.rootpath / ROOT)
    return bool(rest) and (start == ROOT or there)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Collect ports after the files."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        config = collector.config
        if config.option.parity or config.option.parity_port or config.stash[IDS]:
            report.result.append(Ports.from_parent(collector, name=ROOT, nodeid=ROOT))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Have a marked function use `parity_stage`, whether it takes the argument or not."""
    if not isinstance(collector, pytest.Module | pytest.Class) or not collector.funcnamefilter(name):
        return
    if inspect.isfunction(obj) or inspect.ismethod(obj):
        own = [mark for mark in getattr(obj, "pytestmark", ()) if isinstance(mark, pytest.Mark)]
        marked = any(mark.name == "parity" for mark in own) or collector.get_closest_marker("parity") is not None
        if marked and not any(mark.name == "usefixtures" and "parity_stage" in mark.args for mark in own):
            pytest.mark.usefixtures("parity_stage")(obj)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A marked test, once for each stage."""
    marker = metafunc.definition.get_closest_marker("parity")
    if marker is None:
        return
    name = metafunc.definition.name
    if len(marker.args) != 1:
        pytest.fail(f"{name}: the marker parity takes one port. Write parity(PORT, ...).", pytrace=False)
    if "parity_stage" not in metafunc.fixturenames:
        pytest.fail(f"{name}: the marker parity reaches functions only. Take the fixture parity_stage.", pytrace=False)
    stages = marker.kwargs.get("stages") or stages_of(marker.kwargs)
    metafunc.parametrize("parity_stage", tuple(stages), indirect=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Know which checks will be asked for, by the tests that were chosen."""
    ports = dict.fromkeys(item.parent for item in session.items if isinstance(item, StageItem))
    session.config.stash[CHECKS].planned = tuple(port.call for port in ports if isinstance(port, Port))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the message of a failed check, and none of the code that led to it."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, NotParity):
        assert call.excinfo is not None
        place = "" if isinstance(item, StageItem) else where(item, call.excinfo)
        told = Message(error.plain, error.styled, place, item.config.getoption("tbstyle", "auto") == "line")
        report.longrepr = told  # type: ignore[assignment]
        setattr(report, _MESSAGE, dataclasses.asdict(told))
    elif isinstance(item, StageItem) and isinstance(report.longrepr, tuple):
        report.longrepr = item.skipped_at(report.longrepr[2])
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Give a message its colours again, which xdist hands on as text."""
    if hasattr(report, _MESSAGE) and isinstance(report.longrepr, str):
        report.longrepr = Message(**getattr(report, _MESSAGE))  # type: ignore[assignment]
