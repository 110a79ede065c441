"""Bugs of the benchmark, one of each kind, on structures of every kind: place, line and cause of the first finding."""

from pathlib import Path

import pytest

import parity
from bench.bugs.catalogue import MUTANTS, SEVERAL
from bench.bugs.judge import judge, judge_several
from bench.bugs.mutant import Mutant, Several

FIXTURES = Path(__file__).parents[2] / "fixtures"
BUGS = {mutant.key: mutant for mutant in MUTANTS}
TOGETHER = {several.key: several for several in SEVERAL}

NAMED = (
    "gemma3/window_one_too_long",
    "gemma3/cap_without_tanh",
    "gemma3/norm_after_the_sum",
    "gemma3/q_and_k_norm_after_rope",
    "gemma3/post_norms_exchanged",
    "gemma3/gate_and_up_loaded_crosswise",
    "llama3/head_dim_from_hidden_size",
    "llama3/scaling_on_all_frequencies",
    "llama3/merged_without_transpose",
    "gpt2/o_proj_transposed",
    "gpt2_split/eps_outside_the_root",
    "qwen3/k_bias_dropped",
    "gemma3/rope_bases_exchanged",
    "gemma3/window_on_the_wrong_layers",
    "gemma3/normed_stream_is_kept",
    "llama3/sees_the_future",
    "llama3/rope_table_interleaved",
    "llama3/scaling_factor_multiplies",
    "llama3/norms_exchanged",
    "llama3/all_layers_are_one",
    "llama3/head_tied_always",
    "qwen3/first_layers_slide",
    "qwen3_split/no_q_norm",
    "qwen3_split/yarn_gain_squared",
    "gpt2/scaled_although_turned_off",
    "gpt2_split/norms_exchanged",
    "gpt2_split/keys_and_queries_exchanged",
    "deepseek_v3/one_expert_less",
    "deepseek_v3/shared_scaled",
    "deepseek_v3/gelu_in_experts",
    "deepseek_v3/features_before_heads",
    "deepseek_v32/head_weights_softmaxed",
    "glm_moe_dsa/head_weights_forgotten",
    "glm_moe_dsa/indexer_by_halves",
    "gemma4/double_wide_mlp_halved",
    "nemotron_h/skip_forgotten",
    "nemotron_h/step_bias_forgotten",
    "nemotron_h/experts_chosen_without_bias",
    "nemotron_h/experts_added_in_latent_space",
)
FLAT = ("gemma3_flat/rope_interleaved", "llama3_flat/rope_angle_negative")
WITHOUT_MODULES = (
    "gemma3_flat/offset_folded_in_twice",
    "gemma3_flat/gate_and_up_loaded_crosswise",
    "gemma3_flat/values_split_wrong",
    "gemma3_flat/qkv_in_another_order",
    "llama3_flat/values_of_the_next_layer",
    "llama3_flat/q_not_transposed",
    "llama3_flat/scaling_ignored",
)
SEVERAL_BUGS = ("gemma3/window_one_too_long+gelu_by_erf", "llama3/eps_of_mlp_norm+kv_tiled+up_name_misspelt")


@pytest.mark.parametrize("mutant", [BUGS[key] for key in (*NAMED, *WITHOUT_MODULES)], ids=lambda mutant: mutant.key)
def test_place_line_and_cause(mutant: Mutant) -> None:
    """All three in the first finding."""
    outcome = judge(mutant)
    assert (outcome.localised, outcome.exact, outcome.explained) == (True, True, True), outcome.findings[:1]


@pytest.mark.parametrize("mutant", [BUGS[key] for key in FLAT], ids=lambda mutant: mutant.key)
def test_a_wrong_rope_in_a_port_without_modules(mutant: Mutant) -> None:
    """Nothing to hook, and complex numbers in one of them: the line all the same."""
    outcome = judge(mutant)
    assert (outcome.exact, outcome.explained) == (True, True), outcome.findings[:1]


@pytest.mark.parametrize("several", [TOGETHER[key] for key in SEVERAL_BUGS], ids=lambda several: several.key)
def test_bugs_at_once_are_all_named(several: Several) -> None:
    """Each has a finding of its own place with its own cause."""
    outcome = judge_several(several)
    assert outcome.placed == outcome.explained == (True,) * len(several.bugs), outcome.findings


def test_what_left_out_the_norm_is_said_in_words(tmp_path: Path) -> None:
    """The explanation names the change to the reference, with how nearly it reproduces the port."""
    written = BUGS["gemma3/no_final_norm"].write(tmp_path)
    (finding,) = parity.check(written.path, config=written.config, small_config=True).findings
    assert finding.explanations[0].text == "behaves as if norm were left out"
    assert finding.explanations[0].residual < 1e-12


def test_a_difference_is_reported_even_if_explaining_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One finding without line and cause is worth more than none at all, and it says whose fault that is."""

    def broken(*_: object) -> object:
        raise RuntimeError

    monkeypatch.setattr("parity.explain.explanation.diagnose", broken)
    report = parity.check(FIXTURES / "bugs" / "silu.py", small_config=True)
    assert report.verdict == "fail"
    assert report.findings[0].cause == "unknown"
    assert any("RuntimeError, a fault of Parity's" in line for line in report.findings[0].evidence)
