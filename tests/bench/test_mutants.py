"""What the bug benchmark rests on: every bug changes the function, and no equivalent rewrite does."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.bugs import truth
from bench.bugs.catalogue import BENIGN, DECODING, MUTANTS, ROUNDING, SEVERAL, TRAINING
from bench.bugs.edits import Config, original_of, replaced, source, touched
from bench.bugs.mutant import Benign, Mutant, Several

Case = Mutant | Several | Benign


def config_of(case: Case) -> Config:
    """Fields that a case changes in its port's config."""
    return next((bug.config for bug in case.bugs if bug.config), "") if isinstance(case, Several) else case.config


def batches(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases by port and config, so that each original is built once."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        config = config_of(case)
        text = config if isinstance(config, str) else json.dumps(dict(config), sort_keys=True)
        found.setdefault((original_of(case.port), text), []).append(case)
    return list(found.values())


def differences(batch: list[Case], folder: Path) -> dict[str, float]:
    """How far each case's logits are from its original's."""
    with truth.original(original_of(batch[0].port), config_of(batch[0])) as before:
        written = {case.key: case.write(folder) for case in batch}
        return {key: truth.difference(before, one.path, one.config) for key, one in written.items()}


def label(batch: list[Case]) -> str:
    """A batch by its port and first name."""
    return f"{batch[0].key}..{len(batch)}"


@pytest.mark.parametrize("batch", batches([*MUTANTS, *SEVERAL]), ids=label)
def test_every_bug_changes_the_function(batch: list[Case], tmp_path: Path) -> None:
    """Every edit still applies, and the port's logits are other ones, if it can be loaded at all."""
    found = differences(batch, tmp_path)
    assert {key: error for key, error in found.items() if not error > truth.SAME} == {}


@pytest.mark.parametrize("batch", batches([*DECODING, *ROUNDING]), ids=label)
def test_what_one_full_forward_does_not_show(batch: list[Case], tmp_path: Path) -> None:
    """Bugs of the other stages leave the full forward in float64 as it is, and change what their stage runs."""
    rounding = {mutant.key for mutant in ROUNDING}
    with truth.original(original_of(batch[0].port), config_of(batch[0])) as before:
        for case in batch:
            written = case.write(tmp_path)
            assert truth.difference(before, written.path, written.config) <= truth.SAME, case.key
            found = truth.staged(before, written.path)
            low = found.pop("bfloat16")
            assert (low if case.key in rounding else max(found.values())) > truth.SAME, case.key


@pytest.mark.parametrize("batch", batches(TRAINING), ids=label)
def test_what_only_training_shows(batch: list[Case], tmp_path: Path) -> None:
    """The logits are the same, and so are not the gradients."""
    with truth.original(original_of(batch[0].port), config_of(batch[0])) as before:
        assert truth.gradients(before, source(original_of(batch[0].port))) <= truth.SAME
        for case in batch:
            written = case.write(tmp_path)
            assert truth.difference(before, written.path, written.config) <= truth.SAME, case.key
            assert truth.gradients(before, written.path) > truth.SAME, case.key


def test_there_are_bugs_of_every_stage() -> None:
    """Enough of them that a rate means something."""
    assert len(DECODING) >= 30
    assert len(ROUNDING) >= 10
    assert len(TRAINING) >= 5


@pytest.mark.parametrize("batch", batches(BENIGN), ids=label)
def test_no_rewrite_changes_the_function(batch: list[Case], tmp_path: Path) -> None:
    """The logits are the same up to rounding in float64."""
    found = differences(batch, tmp_path)
    assert {key: error for key, error in found.items() if not error <= truth.SAME} == {}


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    """As many as the design asks for, every cause more than once where a port can have it in several ways."""
    assert len(MUTANTS) >= 180
    assert len(BENIGN) >= 40
    assert len(SEVERAL) >= 8
    for cases in (MUTANTS, SEVERAL, BENIGN):
        assert len({case.key for case in cases}) == len(cases)
    causes = Counter(mutant.cause for mutant in MUTANTS)
    assert len(causes) >= 31
    assert all(count >= 5 for cause, count in causes.items() if cause != "head-dim-config")


def test_nothing_accepts_the_whole_model_as_the_place() -> None:
    """A place is worth naming only if there is somewhere else."""
    for mutant in MUTANTS:
        assert not any(mutant.at(place) for place in ("", "model", "transformer")), mutant.key


def test_an_edit_that_no_longer_applies_is_an_error() -> None:
    """Not there, or there twice: never silently another mutant."""
    with pytest.raises(ValueError, match="0 times"):
        replaced("a", [("b", "c")])
    with pytest.raises(ValueError, match="2 times"):
        replaced("aa", [("a", "c")])


@pytest.mark.parametrize(
    ("after", "consumer", "lines"),
    [
        ("a\nB\nc\nd\n", "", (2,)),
        ("a\nb\nx\nc\nd\n", "", (3,)),
        ("a\nc\nd\n", "d", (3,)),
        ("b\na\nc\nD\n", "", (1, 4)),
    ],
)
def test_the_lines_that_an_edit_touched(after: str, consumer: str, lines: tuple[int, ...]) -> None:
    """Changed and new ones; for what was only deleted, the line that uses it."""
    assert touched("a\nb\nc\nd\n", after, consumer) == lines


def test_a_deletion_needs_a_consumer() -> None:
    """Or there would be no line to name."""
    with pytest.raises(ValueError, match="no consumer"):
        touched("a\nb\n", "a\n", "")
