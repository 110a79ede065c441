"""Bugs in models/glm4_moe.py."""

from functools import partial

from bench.bugs import experts as e
from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, K_NORM, MLP, POST_ATTENTION_NORM, QK_NORM, ROTARY, projection

new = partial(bug, "glm4_moe")

SCALED = {"routed_scaling_factor": 2.5, "use_qk_norm": True}
GROUPED = {"n_group": 8, "topk_group": 4}
NOT_NORMALISED = {"norm_topk_prob": False}
TURNED = "    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]\n"

ROUTER: tuple[Mutant, ...] = (
    new("softmax_scores", "router-norm-topk", e.ROUTED, e.SOFTMAX_SCORES, also=("router-selection",)),
    new("bias_forgotten", "router-selection", e.ROUTED, e.BIAS_FORGOTTEN),
    new("bias_in_the_shares", "router-selection", e.ROUTED, e.BIAS_IN_THE_SHARES, also=("router-norm-topk",)),
    new("bias_subtracted", "router-selection", e.ROUTED, e.BIAS_SUBTRACTED),
    new("not_renormalised", "router-norm-topk", e.ROUTED, *e.NOT_NORMALISED, consumer=e.RETURNED),
    new("renormalised_always", "router-norm-topk", e.ROUTED,
        ("        if self.normalised:\n" + e.NORMALISED, e.NORMALISED[4:]), config=NOT_NORMALISED),
    new("normalised_over_all", "router-norm-topk", e.ROUTED, e.NORMALISED_OVER_ALL),
    new("softmax_of_the_shares", "router-norm-topk", e.ROUTED, e.SOFTMAX_OF_CHOSEN),
    new("one_expert_more", "router-selection", (*e.ROUTED, MLP), e.ONE_EXPERT_MORE),
    new("group_by_its_best", "router-selection", e.ROUTED, e.GROUP_BY_ITS_BEST, config=GROUPED),
    new("groups_forgotten", "router-selection", e.ROUTED, e.GROUPS_FORGOTTEN, config=GROUPED),
)  # fmt: skip

COMBINING = (
    new("scale_dropped", "moe-combine", e.ROUTED, e.SCALE_DROPPED, config=SCALED, also=("router-norm-topk",)),
    new("scale_squared", "moe-combine", e.ROUTED, e.SCALE_SQUARED, config=SCALED, also=("router-norm-topk",)),
    new("shared_forgotten", "moe-combine", (*e.COMBINED, e.SHARED), e.SHARED_FORGOTTEN, also=("residual-topology",)),
    new("shared_scaled", "moe-combine", (*e.COMBINED, e.SHARED), e.SHARED_SCALED, config=SCALED),
    new("shared_after_the_experts", "moe-combine", (*e.COMBINED, e.SHARED, f"{e.SHARED}.*"), e.SHARED_AFTER_THE_EXPERTS,
        also=("residual-topology",)),
    new("shares_on_the_input", "moe-combine", e.COMBINED, e.SHARES_ON_THE_INPUT),
    new("last_expert_left_out", "moe-combine", e.COMBINED, e.ONE_LEFT_OUT),
)  # fmt: skip

EXPERTS = (
    new("up_is_activated_in_experts", "gate-up-order", e.INSIDE, *e.experts_of(e.UP_ACTIVATED)),
    new("relu_in_experts", "activation", e.INSIDE, *e.experts_of(e.RELU)),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (*e.INSIDE, MLP), *e.GATE_UP_CROSSWISE),
)  # fmt: skip

REST = (
    new("rope_on_all_features", "partial-rotary", (ROTARY, ATTENTION),
        ('int(head_dim * rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 0.5)))', "head_dim")),
    new("rope_on_the_last_features", "partial-rotary", (ROTARY, ATTENTION),
        (TURNED, "    kept, turned = x[..., : -cos.shape[-1]], x[..., -cos.shape[-1] :]\n"),
        ("return torch.cat((turned, kept), dim=-1)", "return torch.cat((kept, turned), dim=-1)")),
    new("rope_of_the_whole_width", "partial-rotary", (ROTARY, ATTENTION),
        ("dtype=torch.float32) / rotary_dim", "dtype=torch.float32) / (2 * rotary_dim)"),
        also=("rope-theta-config", "rope-scaling-details")),
    new("no_k_norm", "qknorm-missing-or-width", (K_NORM, ATTENTION), s.NO_K_NORM, consumer=s.ROTATED, config=SCALED),
    new("norms_after_rope", "qknorm-order", (QK_NORM, ATTENTION), *s.NORMS_AFTER_ROPE, config=SCALED),
    new("value_bias_dropped", "bias-dropped", (projection("v"), ATTENTION),
        ('"layers.{}.attention.v_proj.bias"', "None"),
        ("self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)",
         "self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)")),
    new("experts_without_norm", "residual-topology", (MLP, *e.ROUTED, POST_ATTENTION_NORM, "model.layers.[0-9]"),
        s.MLP_READS_NO_NORM),
)  # fmt: skip

MUTANTS = (*ROUTER, *COMBINING, *EXPERTS, *REST)
