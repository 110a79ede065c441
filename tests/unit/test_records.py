"""Verdicts are derived, and what was not compared is never a pass."""

import math

import pytest

from parity.names import fold, numbers, template
from parity.records import Boundary, Report, Stage, Unmatched, Versions


def boundary(own: float | None, total: float | None) -> Boundary:
    """A boundary with these errors."""
    return Boundary("forward", "name", "reference", "port", "output", own=own, total=total)


@pytest.mark.parametrize(
    ("own", "total", "verdict", "inherited", "relative"),
    [
        (0.0, 0.0, "exact", False, 0.0),
        (1e-15, 2e-14, "ok", False, 2e-14),
        (1e-15, 0.3, "diff", True, 0.3),
        (1e-6, 0.3, "diff", False, 1e-6),
        (0.2, 1e-15, "diff", False, 0.2),
        (math.nan, 0.0, "diff", False, math.nan),
        (0.0, math.nan, "diff", True, math.nan),
        (None, 0.1, "not_compared", False, 0.1),
        (None, None, "not_compared", False, None),
    ],
)
def test_boundary(own: float, total: float, verdict: str, inherited: bool, relative: float) -> None:
    """Own error and error of the free run, each on its own and both."""
    found = boundary(own, total)
    assert (found.verdict, found.inherited) == (verdict, inherited)
    assert found.relative == pytest.approx(relative, nan_ok=True) if relative is not None else found.relative is None


def report(*stages: Stage) -> Report:
    """A report of these stages and nothing else."""
    return Report(Versions("0", "0", "0"), "port", "reference", "random", 0, stages, (), (), Unmatched())


@pytest.mark.parametrize(
    ("stages", "verdict", "code"),
    [
        ((Stage("weights", "pass"), Stage("forward", "pass")), "pass", 0),
        ((Stage("weights", "pass"), Stage("forward", "fail")), "fail", 1),
        ((Stage("weights", "pass"), Stage("cache", "not_run", "no cache")), "pass", 0),
        ((Stage("weights", "pass"), Stage("cache", "not_run", "no cache", requested=True)), "incomplete", 2),
        ((Stage("forward", "fail"), Stage("cache", "not_run", "no cache", requested=True)), "fail", 1),
        ((Stage("weights", "not_run"), Stage("forward", "not_run")), "incomplete", 2),
        ((), "incomplete", 2),
    ],
)
def test_report(stages: tuple[Stage, ...], verdict: str, code: int) -> None:
    """Failing beats missing, and missing beats passing if it was asked for."""
    assert (report(*stages).verdict, report(*stages).exit_code) == (verdict, code)


def test_names() -> None:
    """Numbers in dotted names."""
    assert numbers("layers.3.experts.12.up2") == (3, 12)
    assert template("layers.3.experts.12.up2") == "layers.{}.experts.{}.up2"
    assert template("0.a.1") == "{}.a.{}"
    assert fold(["l.0.a", "l.1.a", "norm", "l.2.a", "l.5.a"]) == ["l.{0-2,5}.a", "norm"]
    assert fold(["l.4.a"]) == ["l.4.a"]
