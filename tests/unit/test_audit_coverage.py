"""What a check says it is worth: found by what settles an audit, shipped for the ports that come with Parity."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from parity.explain import coverage
from parity.pair import pair as pairs
from parity.pair import reference as references
from parity.pair.pair import Pair
from parity.pair.port import built_in_names
from parity.pair.program import full
from parity.records import (
    Audit,
    AuditedField,
    Coverage,
    FieldCoverage,
    MutationCoverage,
    Report,
    Stage,
    TriedMutation,
    Unmatched,
    Versions,
)
from parity.report.text import render


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair of which nothing is shipped."""
    return pairs.make("gpt2", None, None, True, 12, tmp_path_factory.mktemp("pair"))


@pytest.fixture
def found(pair: Pair) -> Audit:
    """What an audit of it could have found."""
    fields = AuditedField("n_head", "seen"), AuditedField("n_ctx", "blind", "why")
    tried = TriedMutation("n_head=4", "head-dim-config", "caught"), TriedMutation("n_ctx=3", "position-ids", "missed")
    return Audit(Versions("1", "2", "3"), "gpt2", "GPT2LMHeadModel", pair.seed, 3, 41, fields, (), tried)


AUDITED = built_in_names()
SEEING = ("gemma3", "gpt2", "llama3", "qwen3", "olmo3", "sarvam")  # whose checks miss nothing


@pytest.mark.parametrize("port", AUDITED)
def test_what_is_shipped_is_what_a_check_looks_up(port: str, tmp_path: Path) -> None:
    """After a change of the small config, the probe or transformers, `make coverage` has to be run."""
    made = pairs.make(port, None, None, True, 0, tmp_path)
    known = coverage.known(made)
    assert known is not None, "run `make coverage`"
    assert known.mutations.applicable > 500
    assert known.mutations.applicable - known.mutations.caught <= 10, known.mutations.missed
    if port in SEEING:
        assert known.mutations.caught == known.mutations.applicable
        assert known.mutations.missed == known.fields.blind == ()
    assert len(known.fields.seen) > 10


def test_what_is_shipped_is_small_and_of_this_version(root: Path) -> None:
    """One entry for each of them, and nothing from before."""
    text = (root / "fixtures" / "coverage.json").read_text()
    shipped = json.loads(text)
    assert sorted(entry["port"] for entry in shipped["coverages"].values()) == sorted(AUDITED)
    assert (shipped["audit"], shipped["transformers"]) == (coverage.VERSION, references.VERSION)
    assert len(text) < 20_000


def test_the_key_follows_all_that_settles_an_audit(pair: Pair) -> None:
    """Config, seed and probe change it; what says nothing about the function does not, nor does the port."""
    own = coverage.key(pair)
    settings = dict(pair.reference.settings)

    def with_settings(**changes: object) -> str:
        return coverage.key(replace(pair, reference=replace(pair.reference, settings=settings | changes)))

    assert coverage.key(replace(pair, seed=13)) != own
    assert coverage.key(replace(pair, program=full(pair.input_ids[:, :-1]))) != own
    assert coverage.key(replace(pair, program=full(pair.input_ids.flip(0)))) != own
    assert with_settings(layer_norm_epsilon=1e-4) != own
    assert with_settings(eos_token_id=3, use_cache=False) == own
    assert coverage.key(replace(pair, port=replace(pair.port, name="mine"))) == own


def test_an_audit_is_kept_for_the_next_check(pair: Pair, found: Audit) -> None:
    """Nothing is known before it, all of it after."""
    assert coverage.known(pair) is None
    assert coverage.keep(pair, found)
    assert coverage.known(pair) == found.coverage
    assert coverage.known(replace(pair, seed=13)) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"fields": 1}', '{"fields": {}, "mutations": {}}'])
def test_a_broken_cache_says_nothing(text: str, pair: Pair, found: Audit, cache: Path) -> None:
    """A check goes on without it."""
    coverage.keep(pair, found)
    next(cache.rglob("*.json")).write_text(text)
    assert coverage.known(pair) is None


def test_a_cache_that_cannot_be_written_is_no_error(pair: Pair, found: Audit, cache: Path) -> None:
    """The audit is told all the same."""
    cache.write_text("a file where the folder should be")
    assert not coverage.keep(pair, found)
    assert coverage.known(pair) is None


def report(known: Coverage | None, seed: int = 0, stage: str = "pass") -> list[str]:
    """The header of a text report."""
    stages = (Stage("weights", "pass"), Stage("forward", stage))  # type: ignore[arg-type]
    made = Report(Versions("1", "2", "3"), "my.py", "Ref", "random", seed, stages, (), (), Unmatched(), known)
    return [line.plain for line in render(made)]


def test_the_line_of_a_check() -> None:
    """What it sees, what it is blind to, how to know more."""
    whole = Coverage(FieldCoverage(("a", "b")), MutationCoverage(1849, 1849))
    assert report(whole)[2] == "      coverage: sees 1,849 of 1,849 mutations, 2 of 2 config fields"
    blind = Coverage(FieldCoverage(("a",), ("b", "c", "d", "e")), MutationCoverage(187, 189, ("x", "y")))
    told = report(blind)[2]
    assert told.startswith("      coverage: sees 187 of 189 mutations, 1 of 5 config fields; blind to b, c, d, ")
    assert told.endswith("(parity audit my.py)")


def test_the_line_of_a_check_that_was_never_audited() -> None:
    """It names the command, with the seed, and promises nothing; without the stage there is nothing to promise."""
    told = "not audited; parity audit my.py --seed 7 says what a check on the small config would miss"
    assert report(None, 7)[2] == f"      coverage: {told}"
    assert not any("coverage" in line for line in report(None, stage="not_run"))
