"""The audit: what it sees, what a poor probe is blind to and why, what has no effect; and how it is told."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from parity.explain import ground
from parity.explain.audit import NO_EFFECT, ROUNDING, SILENT, audit
from parity.explain.config_mutations import OTHER_SHAPES
from parity.pair import pair as pairs
from parity.pair.pair import Pair
from parity.pair.program import full
from parity.records import Audit, AuditedCause, AuditedField, Coverage, TriedMutation, Versions
from parity.report import audit_json, audit_text

WINDOW = 5
SIZES = {
    "hidden_size": 40, "intermediate_size": 44, "vocab_size": 53, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 12, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": WINDOW, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Gemma 3 with one layer of each kind; an audit of it takes a second, one of the small config a minute."""
    folder = tmp_path_factory.mktemp("tiny")
    real = Path(__file__).parents[2] / "fixtures" / "configs" / "gemma-3-270m.json"
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(real.read_text()) | SIZES))
    return pairs.make("gemma3", config, None, True, 0, folder)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Restrict the mutations of the code to some causes, and those of the config to a few fields."""
    whole, every = ground.propose, ground.configs.config_mutations
    named = ("sliding_window", "rms_norm_eps", "vocab_size", "attention_dropout", "layer_norm_epsilon")

    def restrict(*causes: str) -> None:
        def few(*arguments: Any) -> Iterator[Any]:
            return (mutation for mutation in whole(*arguments) if mutation.cause in causes)

        def fields(*arguments: Any) -> list[Any]:
            return [mutation for mutation in every(*arguments) if mutation.field in named]

        monkeypatch.setattr(ground, "propose", few)
        monkeypatch.setattr(ground.configs, "config_mutations", fields)

    return restrict


def verdicts(found: Audit) -> dict[str, tuple[str, str]]:
    """Verdict and reason by field."""
    return {field.name: (field.verdict, field.reason) for field in found.fields}


def causes(found: Audit) -> dict[str, AuditedCause]:
    """By code."""
    return {cause.code: cause for cause in found.causes}


def test_an_audit_that_sees(tiny: Pair, only: Callable[..., None]) -> None:
    """Fields with a say are seen, others put where they belong, and the score counts what can be seen."""
    only("window-off-by-one")
    said: list[str] = []
    found = audit(tiny, progress=said.append)
    fields = verdicts(found)
    assert fields["sliding_window"] == ("seen", "")
    assert fields["rms_norm_eps"] == ("seen", "")
    assert fields["vocab_size"] == ("seen", OTHER_SHAPES)
    assert fields["attention_dropout"] == ("no_effect", NO_EFFECT)
    assert fields["use_cache"] == ("silent", SILENT)
    assert fields["use_bidirectional_attention"] == ("untried", "no other value known for it")  # not among the few
    assert not [field for field in found.fields if field.verdict == "blind"]
    assert causes(found)["window-off-by-one"].verdict == "seen"
    assert causes(found)["window-off-by-one"].caught == causes(found)["window-off-by-one"].applicable > 2
    assert causes(found)["sinks"].verdict == "not_applicable"
    assert causes(found)["swa-cache"].verdict == "elsewhere"
    coverage = found.coverage
    assert coverage.mutations.caught == coverage.mutations.applicable == len(found.named("caught"))
    assert len(found.named("equivalent")) > 0
    assert "attention_dropout" not in {*coverage.fields.seen, *coverage.fields.blind}
    assert said[0] == "recording the reference"


def test_a_probe_within_the_window_is_blind_and_why(tiny: Pair, only: Callable[..., None]) -> None:
    """A window that no token leaves can be anything; a longer probe would show it, and that is the reason given."""
    only("window-off-by-one")
    found = audit(replace(tiny, program=full(tiny.input_ids[:, : WINDOW - 1])))
    needs = f"needs a longer probe: {2 * (WINDOW - 1) + 1} tokens show it"
    verdict, reason = verdicts(found)["sliding_window"]
    assert (verdict, reason.endswith(needs)) == ("blind", True)
    assert verdicts(found)["rms_norm_eps"] == ("seen", "")
    window = causes(found)["window-off-by-one"]
    assert window.verdict == "blind"
    assert window.caught < window.applicable
    assert "sliding_window" in found.coverage.fields.blind
    assert f"sliding_window={WINDOW + 1}" in found.coverage.mutations.missed
    told = "\n".join(line.plain for line in audit_text.render(found))
    assert told.startswith("BLIND  a check of gemma3 against Gemma3ForCausalLM notices ")
    assert f"cause window-off-by-one: {window.applicable - window.caught} of {window.applicable} mutations" in told
    assert needs in told


def test_a_field_that_only_rounds_is_another_stages_business(tmp_path: Path, only: Callable[..., None]) -> None:
    """It cannot show in float64, and counts neither as seen nor as blind."""
    only()
    sizes = {"n_embd": 48, "n_head": 4, "n_layer": 1, "n_positions": 32, "n_ctx": 32, "vocab_size": 53}
    config = tmp_path / "config.json"
    real = Path(__file__).parents[2] / "fixtures" / "configs" / "gpt2.json"
    config.write_text(json.dumps(json.loads(real.read_text()) | sizes | {"bos_token_id": 1, "eos_token_id": 1}))
    found = audit(pairs.make("gpt2", config, None, True, 0, tmp_path))
    assert verdicts(found)["reorder_and_upcast_attn"] == ("silent", ROUNDING)
    assert "reorder_and_upcast_attn" not in found.coverage.fields.blind


def made(**changes: Any) -> Audit:
    """An audit as records alone."""
    whole = Audit(
        versions=Versions("1", "2", "3"),
        port="port",
        reference="Reference",
        seed=0,
        rows=3,
        tokens=41,
        fields=(
            AuditedField("seen_one", "seen"),
            AuditedField("seen_two", "seen", "changes shapes"),
            AuditedField("idle", "no_effect", NO_EFFECT),
            AuditedField("name", "silent", SILENT),
        ),
        causes=(
            AuditedCause("norm-eps", "seen", 2, 2),
            AuditedCause("swa-cache", "elsewhere", reason="only in decoding: stage cache"),
        ),
        mutations=(TriedMutation("eps=0", "norm-eps", "caught"), TriedMutation("eps=1", "norm-eps", "caught")),
    )
    return replace(whole, **changes)


def text(found: Audit) -> list[str]:
    """Its lines."""
    return "\n".join(line.plain for line in audit_text.render(found)).splitlines()


def test_ten_lines_say_what_a_pass_is_worth() -> None:
    """The score, the counts, and that nothing is missed."""
    lines = text(made())
    assert lines[0] == "SEES  a check of port against Reference notices 2 of 2 changes to the reference, 100 %"
    assert "config fields  2 seen, 0 blind, 1 no effect, 1 silent" in lines
    assert "causes         1 seen, 0 blind, 1 elsewhere" in lines
    assert "Nothing that can be seen in this stage is missed." in lines[:10]
    assert "  elsewhere       swa-cache (only in decoding: stage cache)" in lines
    assert "                  seen_two (changes shapes)" in lines


def test_what_is_missed_is_grouped_by_cause_and_reason() -> None:
    """Long lists are cut, and what has no cause of its own is told too."""
    reasons = ["needs a longer probe"] * 14 + ["needs larger weights"]
    missed = [TriedMutation(f"change {n}", "norm-eps", "missed", why) for n, why in enumerate(reasons)]
    stray = TriedMutation("stray=1", "unknown", "missed", "needs wider heads")
    untried = AuditedField("odd", "untried", "not accepted: no")
    found = made(
        fields=(untried,),
        causes=(AuditedCause("norm-eps", "blind", 0, 15, "change 0: needs a longer probe"),),
        mutations=(*missed, stray),
    )
    lines = text(found)
    assert lines[0] == "BLIND  a check of port against Reference notices 0 of 16 changes to the reference, 0 %"
    start = lines.index("Blind spots")
    assert lines[start + 1] == "  field odd: untried, not accepted: no"
    assert lines[start + 2] == "  cause norm-eps: 15 of 15 mutations missed"
    assert lines[start + 3] == "    needs a longer probe"
    assert lines[start + 16] == "      2 more, in --format json"
    assert lines[start + 17 : start + 19] == ["    needs larger weights", "      change 14"]
    assert lines[start + 20 : start + 22] == ["    needs wider heads", "      stray=1"]


def test_a_score_is_never_rounded_up() -> None:
    """All but one of many is not 100 %."""
    caught = tuple(TriedMutation(f"change {n}", "norm-eps", "caught") for n in range(9_999))
    missed = TriedMutation("last", "norm-eps", "missed", "why")
    assert text(made(mutations=(*caught, missed)))[0].endswith("9,999 of 10,000 changes to the reference, 99.9 %")


def test_json_validates_and_holds_everything(root: Path) -> None:
    """Schema 1 of an audit."""
    missed = TriedMutation("eps=2", "norm-eps", "missed", "needs a longer probe")
    equal = TriedMutation("eps=3", "norm-eps", "equivalent", NO_EFFECT)
    found = made(mutations=(*made().mutations, missed, equal), notes=("a note",))
    document = json.loads(audit_json.render(found))
    jsonschema.validate(document, json.loads((root / "parity" / "report" / "audit-1.json").read_text()))
    assert document["schema"] == 1
    assert document["score"] == {"caught": 2, "applicable": 3, "equivalent": 1}
    assert document["probe"] == {"rows": 3, "tokens": 41}
    assert [each["verdict"] for each in document["mutations"]] == ["caught", "caught", "missed", "equivalent"]
    assert document["notes"] == ["a note"]


def test_an_eps_in_the_last_layer_is_seen(tmp_path: Path, only: Callable[..., None]) -> None:
    """The weakest fault there is, where most has been added to the stream before it: three times the noise at least."""
    only("norm-eps")
    with torch.no_grad():
        own = ground.own_ground(pairs.make("gemma3", None, None, True, 0, tmp_path))
        eps = {own.name(key, each): each for key, each in own.mutations.items() if "1e-07 " in each.text}
        moved = {name: own.played(each) for name, each in eps.items()}
    assert len(moved) > 10
    assert all(figure is not None and figure > 3e-9 for figure in moved.values()), moved


def test_nothing_known_is_no_coverage() -> None:
    """An audit without mutations claims nothing."""
    assert made(fields=(), mutations=()).coverage == Coverage()


def test_wider_heads_where_another_field_says_the_width_again(root: Path, tmp_path: Path) -> None:
    """Only the rotated part of a head has the width that `head_dim` says: both are widened, or neither runs."""
    config = root / "fixtures" / "configs" / "deepseek-v3.json"
    reference = pairs.make("deepseek_v3", config, None, True, 0, tmp_path).reference
    wider = ground._wider(reference, {"head_dim": 64, "qk_rope_head_dim": 64})
    assert wider is not None
    assert wider.settings["qk_rope_head_dim"] == wider.settings["head_dim"] == 64
    assert ground._wider(reference, {"head_dim": 64, "qk_rope_head_dim": 16}) is None
