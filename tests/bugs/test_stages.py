"""What one full forward does not show: each stage finds its own bugs, names line and cause, and no other fails."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import parity
from bench.bugs.catalogue import DECODING, ROUNDING, STAGED, TRAINING
from bench.bugs.mutant import Mutant

# Every kind of bug on one port, and every port once; the benchmark has them all.
PICKED = (
    "gemma3/decode_offset_doubled",
    "gemma3/ring_keeps_one_less",
    "gemma3/ring_in_full_layers_too",
    "gemma3/no_window_in_decode",
    "llama3/decode_not_causal",
    "llama3/decode_pads_seen",
    "qwen3/decode_chunk_shares_position",
    "qwen3/padding_of_first_row",
    "gpt2/positions_shared_by_padded_rows",
    "gpt2/decode_mask_from_top_left",
    "gemma3/norm_cast_before_the_weight",
    "gemma3/embedding_scale_not_rounded",
    "llama3/rope_table_in_bf16",
    "qwen3/norm_root_in_low_precision",
    "llama3/norm_weight_data",
    "gpt2/mlp_without_gradient",
)


def stage_of(mutant: Mutant) -> set[str]:
    """The stages that may tell of a bug."""
    if mutant in TRAINING:
        return {"gradient"}
    return {"precision"} if mutant in ROUNDING else {"cache", "batch"}


@pytest.mark.parametrize("mutant", [each for each in STAGED if each.key in PICKED], ids=lambda each: each.key)
def test_its_stage_names_line_and_cause(mutant: Mutant, tmp_path: Path) -> None:
    """The full forward passes; the first finding is of the bug's own stage, on its line, of its cause."""
    written = mutant.write(tmp_path)
    report = parity.check(written.path, config=written.config, small_config=True, gradient=mutant in TRAINING)
    verdicts = {stage.name: stage.verdict for stage in report.stages}
    assert verdicts["forward"] == verdicts["weights"] == "pass"
    assert {name for name, verdict in verdicts.items() if verdict == "fail"} <= stage_of(mutant)
    first = report.findings[0]
    assert first.stage in stage_of(mutant)
    assert mutant.named_by(first.cause)
    assert first.port_source is not None
    assert first.port_source.line in written.lines
    assert any(fnmatchcase(first.reference_module, place) for place in mutant.guilty)


def test_all_were_picked() -> None:
    """The list above names bugs that there are."""
    assert {each.key for each in STAGED} >= set(PICKED)
    assert set(DECODING) | set(ROUNDING) | set(TRAINING) == set(STAGED)
