"""What `pytest --parity` collects: ports, and their stages as tests; and what a failure shows."""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from parity.errors import ParityError
from parity.gate_records import Case
from parity.pytest_checks import BY_DEFAULT, Checks, Wanted, file_of, judge_stage, wanted
from parity.records import STAGES, Stage
from parity.settings import file_for

ROOT = "parity"  # what the ids of these tests begin with
CHECKS = pytest.StashKey[Checks]()
IDS = pytest.StashKey[Sequence[str]]()  # given on the command line
_SETTINGS: dict[str, tuple[type, str]] = {
    "config": (str, "a string"),
    "reference": (str, "a string"),
    "small_config": (bool, "true or false"),
    "seed": (int, "a whole number"),
    "dtype": (str, "a string"),
    "stage": (list, "a list"),
    "gradient": (bool, "true or false"),
}
_NO_PORT = "there is no port to check. Name one with --parity-port, parity_ports or [tool.parity.gate] ports."


class Ports(pytest.Collector):
    """The ports that `--parity` checks."""

    def collect(self) -> Iterator["Port"]:
        """One collector per check: of the ids on the command line, else of all ports that are named somewhere."""
        try:
            planned = _planned(self.config)
            chosen = _of_ids(self.config.stash[IDS], planned, self.config.rootpath) or dict.fromkeys(planned, ())
        except ParityError as error:
            raise self.CollectError(str(error)) from None
        if not chosen:
            raise self.CollectError(_NO_PORT)
        for case, stages in chosen.items():
            yield Port.made(self, case, planned.get(case) or _options(self.config.rootpath), stages)


class Port(pytest.Collector):
    """One port on one config: a check, and a test for each of its stages."""

    case: Case
    options: Mapping[str, Any]
    chosen: Sequence[str]

    @classmethod
    def made(cls, parent: Ports, case: Case, options: Mapping[str, Any], chosen: Sequence[str]) -> Self:
        """A port.

        Args:
            parent: of all ports.
            case: the port, and the config and dtype that it is checked in.
            options: of `parity.check`.
            chosen: the stages that were chosen on the command line; none for all.
        """
        port: Self = cls.from_parent(parent, name=case.name, path=parent.config.rootpath / file_of(case.port))
        own = {name: value for name, value in (("config", case.config), ("dtype", case.dtype)) if value is not None}
        port.case, port.options, port.chosen = case, {**options, **own}, chosen
        return port

    def collect(self) -> Iterator["StageItem"]:
        """One test per stage."""
        for stage in self.chosen or self.stages:
            item: StageItem = StageItem.from_parent(self, name=stage)
            item.add_marker(ROOT)
            yield item

    @property
    def stages(self) -> tuple[str, ...]:
        """All of the check, chosen or not."""
        return tuple(self.options.get("stage") or stages_of(self.options))

    @property
    def call(self) -> Wanted:
        """The check that the collected tests need: of those stages alone that they are for."""
        needed = {item.name for item in self.session.items if item.parent is self}
        if needed >= set(self.stages):
            return self._wanted(self.options)
        stages = tuple(stage for stage in STAGES if stage in needed)
        return self._wanted({**self.options, "gradient": False, "stage": stages})

    def judged(self, name: str) -> Stage:
        """One stage, if it did not fail."""
        report = self.config.stash[CHECKS].report(self.call)
        return judge_stage(report, name, self._wanted(self.options), bool(self.options.get("stage")))

    def _wanted(self, options: Mapping[str, Any]) -> Wanted:
        return wanted("check", self.case.port, options, self.config.rootpath)


class StageItem(pytest.Item):
    """A stage of a port, as a test."""

    def runtest(self) -> None:
        """Passes, fails or is skipped as the stage is."""
        assert isinstance(self.parent, Port)
        passed(self.parent.judged(self.name))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the port is, and the headline of a failure."""
        assert self.parent is not None
        return self.path, None, f"{self.parent.name}, stage {self.name}"

    def skipped_at(self, reason: str) -> tuple[str, int, str]:
        """For a skip to name the port, and not the plugin."""
        return str(self.path), 1, reason


@dataclass(frozen=True)
class Message:
    """What a failure shows, as pytest wants to have it.

    place: FILE:LINE of the test, empty where there is none. brief: the summary alone, for `--tb=line`.
    """

    plain: str
    styled: str
    place: str
    brief: bool

    def __str__(self) -> str:
        return self._ended(self.plain)

    def toterminal(self, terminal: Any) -> None:
        """Write it, in colours where pytest does."""
        if not self.brief:
            terminal.line(self._ended(self.styled if terminal.hasmarkup else self.plain))

    @property
    def reprcrash(self) -> "Crash":
        """For the summary."""
        return Crash(self.plain.partition("\n")[0], self.place)

    def _ended(self, text: str) -> str:
        return f"{text}\n\n{self.place}: NotParity" if self.place else text


@dataclass(frozen=True)
class Crash:
    """A failure in one line."""

    message: str
    place: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


def where(item: pytest.Item, failure: pytest.ExceptionInfo[BaseException]) -> str:
    """FILE:LINE of the test that asked for a check, or of where that is done for it."""
    own = ("parity.", "_pytest.", "pluggy.")
    frames = [each for each in failure.traceback if not each.frame.f_globals.get("__name__", "").startswith(own)]
    path, line, _ = item.reportinfo()
    path, line = (frames[-1].path, frames[-1].lineno) if frames else (path, line)
    return f"{os.path.relpath(path)}:{(line or 0) + 1}"


def passed(stage: Stage) -> Stage:
    """A stage that ran; the test is skipped if it did not."""
    __tracebackhide__ = True
    if stage.verdict == "not_run":
        pytest.skip(stage.reason)
    return stage


def stages_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a check that asks for none by name."""
    return STAGES if options.get("gradient") else BY_DEFAULT


def _planned(config: pytest.Config) -> dict[Case, Mapping[str, Any]]:
    """The gate's cases, and the options of their checks; of other ports if pytest is given some.

    Raises:
        ParityError: a setting is wrong, or a port is not there.
    """
    from parity.cli.gate import settings
    from parity.gate import cases

    root, gate = config.rootpath, settings(config.rootpath)
    given, here = config.option.parity_port, config.invocation_params.dir
    if not given:
        given, here = config.getini("parity_ports") or gate.get("ports", ()), root
    if not given:
        return {}
    configs = [str(root / each) for each in gate.get("configs", ())]
    return dict.fromkeys(cases.make(given, configs, gate.get("dtypes", ()), here, root), _options(root))


def _options(root: Path) -> dict[str, Any]:
    """What settings say about every check; those of the gate come first."""
    from parity.cli.gate import settings

    gate = {name: value for name, value in settings(root).items() if name in _SETTINGS}
    return {"small_config": True, **_of_project(root), **gate}


def _of_project(root: Path) -> dict[str, Any]:
    """Options in `[tool.parity]`; the command line is what looks after the others there."""
    path = file_for(root)
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("parity", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ParityError(f"{path} cannot be read: {error}", "Mend it.") from None
    given = {name.replace("-", "_"): value for name, value in table.items()}
    options = {name: given[name] for name in _SETTINGS if name in given}
    for name, value in options.items():
        if type(value) is not _SETTINGS[name][0]:
            raise ParityError(f"{path}: [tool.parity] {name} is {value!r}", f"It must be {_SETTINGS[name][1]}.")
    return options


def _of_ids(ids: Sequence[str], planned: Iterable[Case], root: Path) -> dict[Case, tuple[str, ...]]:
    """Cases, and which of their stages, of ids such as `parity::my_port.py::forward`; none for all of them."""
    from parity.gate import cases

    named = {case.name: case for case in planned}
    found: dict[Case, tuple[str, ...]] = {}
    for each in ids:
        _, name, *stages = each.split("::")
        if unknown := [stage for stage in stages if stage not in STAGES]:
            raise ParityError(f"{each}: there is no stage {unknown[0]!r}", f"Stages are {', '.join(STAGES)}.")
        case = named.get(name) or cases.make([name], (), (), root, root)[0]
        whole = not stages or found.get(case) == ()
        found[case] = () if whole else tuple(dict.fromkeys((*found.get(case, ()), *stages)))
    return found
