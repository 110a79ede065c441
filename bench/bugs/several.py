"""Two or three bugs in one port at once: each has to be named beside the others."""

from bench.bugs import gemma3, gemma3_flat, gpt2, gpt2_split, llama3, llama3_flat, qwen3, qwen3_split
from bench.bugs.mutant import Mutant, Several


def _together(mutants: tuple[Mutant, ...], *names: str) -> Several:
    by_name = {mutant.name: mutant for mutant in mutants}
    return Several(tuple(by_name[name] for name in names))


SEVERAL = (
    _together(gemma3.MUTANTS, "window_one_too_long", "gelu_by_erf"),
    _together(gemma3.MUTANTS, "embedding_unscaled", "q_norm_without_offset"),
    _together(gemma3.MUTANTS, "kv_tiled", "final_eps"),
    _together(gemma3.MUTANTS, "post_norms_exchanged", "no_final_norm", "scale_of_head_dim"),
    _together(gemma3.MUTANTS, "down_name_misspelt", "local_rope_everywhere"),
    _together(gemma3_flat.MUTANTS, "down_of_the_next_layer", "scale_of_head_dim"),
    _together(gemma3_flat.MUTANTS, "gelu_by_erf", "window_one_too_long"),
    _together(llama3.MUTANTS, "scaling_never_passed_on", "gelu"),
    _together(llama3.MUTANTS, "eps_of_mlp_norm", "kv_tiled", "up_name_misspelt"),
    _together(llama3.MUTANTS, "parallel", "theta_of_llama_2"),
    _together(llama3_flat.MUTANTS, "scale_of_width", "gelu"),
    _together(qwen3.MUTANTS, "q_and_k_norm_exchanged", "theta_of_qwen_1"),
    _together(qwen3.MUTANTS, "up_is_activated", "no_k_norm"),
    _together(qwen3_split.MUTANTS, "heads_dealt_out", "final_eps"),
    _together(gpt2.MUTANTS, "o_proj_transposed", "final_eps"),
    _together(gpt2.MUTANTS, "norm_bias_not_loaded", "gelu_by_erf", "qkv_in_another_order"),
    _together(gpt2_split.MUTANTS, "projection_not_transposed", "narrow_without_bias"),
)
