"""The baseline: what it holds, what counts as lost, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from parity.errors import ParityError
from parity.gate import baseline
from parity.gate_records import Case
from parity.records import Coverage, FieldCoverage, Report, Stage
from tests.gate.conftest import place, report

HERE = "x86_64, AVX512, 1 thread"
LAYERS = [place(f"model.layers.{number}.mlp") for number in range(3)]


def lost(before: Report, now: Report, machine: str = HERE) -> list[str]:
    """What a report has lost against another, in words."""
    return [each.text for each in baseline.lost(baseline.cover(before, HERE), now, machine)]


def test_nothing_is_lost_against_oneself() -> None:
    """The same report, read back from its file."""
    now = report(*LAYERS, place("logits", 1e-16))
    assert lost(now, now) == []


def test_layers_are_counted_together() -> None:
    """A boundary that is missing in one layer of three."""
    now = report(*LAYERS[:2], replace(LAYERS[2], own=None))
    assert lost(report(*LAYERS), now) == ["forward: model.layers.{}.mlp was compared in 3 places, now in 2"]
    assert lost(report(*LAYERS), report(place("logits"))) == [
        "forward: model.layers.{}.mlp was compared in 3 places, and is not any more"
    ]


@pytest.mark.parametrize("name", ["gradient of model.layers.{}.mlp (input)", "bfloat16: model.layers.{}"])
def test_layers_are_counted_together_whatever_stands_around_their_name(name: str) -> None:
    """As the stages precision and gradient call them."""
    found = baseline.cover(report(*(place(name.format(number)) for number in range(3))), HERE)
    assert found.compared == {"forward": {name: 3}}


def test_exact_that_became_merely_ok() -> None:
    """Told only where the baseline was made on such a machine with such libraries."""
    now = report(*LAYERS[:2], place("model.layers.2.mlp", 1e-15))
    told = ["forward: model.layers.{}.mlp was exact in 3 places, now in 2 of 3; the rest is merely ok"]
    assert lost(report(*LAYERS), now) == told
    assert lost(report(*LAYERS), now, "x86_64, AVX2, 1 thread") == []
    assert lost(report(*LAYERS), replace(now, versions=replace(now.versions, torch="2.14.0"))) == []
    assert lost(report(*LAYERS), replace(now, versions=replace(now.versions, parity="0.2.0"))) == told


def test_a_stage_that_is_not_run_any_more_is_told_once() -> None:
    """With the reason, and not with its boundaries as well."""
    before = report(place("cache: chunks", stage="cache"), stages=(Stage("forward", "pass"), Stage("cache", "pass")))
    now = report(stages=(Stage("forward", "pass"), Stage("cache", "not_run", "the port cannot decode")))
    assert lost(before, now) == ["stage cache is not covered any more: the port cannot decode"]


def test_blind_spots_that_grew() -> None:
    """And none where nobody audited."""
    before = report(*LAYERS)
    now = replace(before, coverage=Coverage(FieldCoverage((), ("a", "b"))))
    assert lost(before, now) == ["blind to the config field a, which it saw before"]
    assert lost(now, before) == []
    assert lost(before, replace(before, coverage=None)) == []


def test_more_cover_is_no_loss_and_a_failure_speaks_for_itself() -> None:
    """Neither new boundaries nor a report that fails anyway."""
    assert lost(report(*LAYERS[:1]), report(*LAYERS)) == []
    assert lost(report(*LAYERS), report(place("logits", 1.0))) == []


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A baseline's file."""
    path = tmp_path / "frozen.json"
    path.write_text(baseline.text(baseline.merged(None, {Case("p.py"): baseline.cover(report(*LAYERS), HERE)}, None)))
    return path


def test_a_baseline_is_read_as_it_was_written(frozen: Path) -> None:
    """Sorted, a line for each kind of boundary."""
    assert baseline.read(frozen).cases == {"p.py": baseline.cover(report(*LAYERS), HERE)}
    assert '     "model.layers.{}.mlp": "3 compared, 3 exact"' in frozen.read_text().splitlines()


def test_layout_may_change_and_content_may_not(frozen: Path) -> None:
    """A formatter does no harm, a figure that somebody lowered does."""
    frozen.write_text(json.dumps(json.loads(frozen.read_text()), indent=8))
    baseline.read(frozen)
    frozen.write_text(frozen.read_text().replace("3 exact", "2 exact"))
    with pytest.raises(ParityError, match=r"was edited by hand: its checksum does not fit"):
        baseline.read(frozen)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace('"schema": 1', '"schema": 9'), "is stale: it is of schema 9, this Parity reads 1"),
        (lambda text: text[:50], "cannot be read"),
        (lambda text: '{"schema": 1}', "is not a baseline of a gate"),
        (lambda text: "[]", "is not a baseline of a gate"),
    ],
)
def test_what_is_no_baseline(frozen: Path, change: object, told: str) -> None:
    """One line each, with what to do."""
    frozen.write_text(change(frozen.read_text()))  # type: ignore[operator]
    with pytest.raises(ParityError, match=told):
        baseline.read(frozen)


def test_some_cases_are_frozen_anew_and_others_stay(frozen: Path) -> None:
    """Unless the project has them no more."""
    old, new = baseline.read(frozen), {Case("q.py"): baseline.cover(report(), HERE)}
    assert set(baseline.merged(old, new, None).cases) == {"p.py", "q.py"}
    assert set(baseline.merged(old, new, ["q.py"]).cases) == {"q.py"}


def test_other_versions_are_named_and_builds_are_not(frozen: Path) -> None:
    """A build for another processor is the same version."""
    old = baseline.read(frozen)
    assert baseline.other_versions(old, {"torch": "2.13.0+cu130", "transformers": "5.23.0"}) == ()
    assert baseline.other_versions(old, {"torch": "2.13.0", "transformers": "5.24.0"}) == (
        "transformers 5.23.0 then, 5.24.0 now",
    )
