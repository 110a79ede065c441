"""What a watch shows first: the change since the report before, in words."""

from dataclasses import replace

from parity.records import Boundary, Finding, Report, Source, Stage, Unmatched, Versions
from parity.report.changes import failed, render

PASSING = Report(
    versions=Versions("0", "0", "0"),
    port="port.py",
    reference="Model",
    weights="random",
    seed=0,
    stages=(Stage("forward", "pass"), Stage("cache", "pass")),
    boundaries=tuple(
        Boundary("forward", name, name, name, "output", own=0.0, total=0.0)
        for name in ("layers.0.a", "layers.1.a", "b")
    ),
    findings=(),
    unmatched=Unmatched(),
)
FINDING = Finding("forward", "activation", "a gives another result than b", "b", "a", Source("port.py", 7, "silu(x)"))
OWN, INHERITED = {"own": 0.5, "total": 0.5}, {"own": 0.0, "total": 0.5}


def failing(**figures: dict[str, float]) -> Report:
    """The report with a finding, and other figures at some boundaries."""
    names = {name.replace("_", "."): given for name, given in figures.items()}
    places = tuple(replace(each, **names.get(each.name, {})) for each in PASSING.boundaries)
    stages = (Stage("forward", "fail"), Stage("cache", "not_run", "the shapes do not fit"))
    return replace(PASSING, stages=stages, findings=(FINDING,), boundaries=places)


def told(report: Report, before: Report | None) -> list[str]:
    """The lines."""
    return [line.plain for line in render(report, before, 0.61)]


def test_the_first_report() -> None:
    """There is nothing before it."""
    assert told(PASSING, None) == ["pass after 0.6 s"]


def test_nothing_changed() -> None:
    """The verdict, and no more than that."""
    broken = failing(b=OWN)
    assert told(broken, broken) == ["fail as before, after 0.6 s", "  nothing else changed"]


def test_broken() -> None:
    """A finding with its line, what is wrong by itself, how much follows, and a stage that no longer runs."""
    assert told(failing(layers_0_a=OWN, layers_1_a=OWN, b=INHERITED), PASSING) == [
        "pass before, fail now, after 0.6 s",
        "  new         a gives another result than b: activation in a, port.py:7",
        "  now wrong   2 boundaries of forward: layers.{0,1}.a; 1 boundary of forward that only inherited",
        "  stage       forward: pass before, fail now",
        "  stage       cache: pass before, not run now, the shapes do not fit",
    ]


def test_mended() -> None:
    """The same the other way round."""
    assert told(PASSING, failing(b=OWN)) == [
        "fail before, pass now, after 0.6 s",
        "  mended      a gives another result than b: activation in a, port.py:7",
        "  now right   1 boundary of forward: b",
        "  stage       forward: fail before, pass now",
        "  stage       cache: not run before, pass now",
    ]


def test_another_fault_in_its_place() -> None:
    """One finding is mended, another one new; a line that moved, or another figure, makes no new finding."""
    before = failing(b=OWN)
    moved = replace(FINDING, port_source=Source("port.py", 9, "silu(x)"), title="a gives 2 other results than b")
    assert told(replace(before, findings=(moved,)), before)[1:] == ["  nothing else changed"]
    other = replace(FINDING, cause="rope-theta")
    assert told(replace(before, findings=(other,)), before) == [
        "fail as before, after 0.6 s",
        "  mended      a gives another result than b: activation in a, port.py:7",
        "  new         a gives another result than b: rope-theta in a, port.py:7",
    ]


def test_what_is_no_longer_compared_is_not_right() -> None:
    """A boundary that differed and is not compared any more is told as gone, never as right."""
    before = failing(b=OWN)
    hidden = replace(before, boundaries=before.boundaries[:2])
    assert told(hidden, before)[1:] == ["  not there   1 boundary of forward: b"]
    assert told(before, hidden)[1:] == ["  now there   1 boundary of forward: b"]


def test_what_could_not_be_compared_is_one_line() -> None:
    """Whatever the error is like."""
    assert failed("port.py does not import:\n  SyntaxError", 0.04).plain == (
        "not compared after 0.0 s: port.py does not import: SyntaxError"
    )
