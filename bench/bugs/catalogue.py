"""All mutants, alone and several at once, and all equivalent rewrites."""

from bench.bugs import (
    deepseek_v3,
    deepseek_v32,
    gemma3,
    gemma3_flat,
    gemma4,
    glm4_moe,
    glm_moe_dsa,
    gpt2,
    gpt2_split,
    llama3,
    llama3_flat,
    nemotron_h,
    olmo3,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_split,
    smollm3,
)
from bench.bugs.benign import BENIGN
from bench.bugs.decoding import DECODING
from bench.bugs.mutant import Mutant
from bench.bugs.rounding import ROUNDING
from bench.bugs.several import SEVERAL
from bench.bugs.training import TRAINING

__all__ = ["BENIGN", "DECODING", "MUTANTS", "ROUNDING", "SEVERAL", "STAGED", "TRAINING"]

# Bugs that one full forward in float64 does not show: other stages find them.
STAGED: tuple[Mutant, ...] = (*DECODING, *ROUNDING, *TRAINING)

MUTANTS: tuple[Mutant, ...] = (
    *gemma3.MUTANTS,
    *gemma3_flat.MUTANTS,
    *llama3.MUTANTS,
    *llama3_flat.MUTANTS,
    *qwen3.MUTANTS,
    *qwen3_split.MUTANTS,
    *gpt2.MUTANTS,
    *gpt2_split.MUTANTS,
    *qwen3_moe.MUTANTS,
    *glm4_moe.MUTANTS,
    *deepseek_v3.MUTANTS,
    *deepseek_v32.MUTANTS,
    *glm_moe_dsa.MUTANTS,
    *qwen3_5.MUTANTS,
    *nemotron_h.MUTANTS,
    *gemma4.MUTANTS,
    *olmo3.MUTANTS,
    *smollm3.MUTANTS,
)
