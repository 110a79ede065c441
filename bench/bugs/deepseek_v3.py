"""Bugs in models/deepseek_v3.py."""

from functools import partial

from bench.bugs import experts as e
from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, MLP, ROTARY, projection

new = partial(bug, "deepseek_v3")

SCALING = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
UNLIKE = {"rope_scaling": {**SCALING, "mscale": 0.5, "mscale_all_dim": 1.0}}
UNCOMPRESSED = {"q_lora_rank": None}
TURNED = (ROTARY, ATTENTION)
KV_A = ("model.layers.*.self_attn.kv_a_layernorm", "model.layers.*.self_attn.kv_b_proj", ATTENTION,
        projection("kv_b"), "model.layers.*.self_attn.kv_a_proj_with_mqa")  # fmt: skip
Q_A = ("model.layers.*.self_attn.q_a_layernorm", "model.layers.*.self_attn.q_b_proj", ATTENTION)
MSCALE = "self.scale *= _growth(config.rope.yarn.factor, config.rope.yarn.mscale_all_dim) ** 2"
FACTOR = "return _growth(yarn.factor, yarn.mscale) / _growth(yarn.factor, yarn.mscale_all_dim)"

LATENT: tuple[Mutant, ...] = (
    new("queries_split_the_other_way", "split-layout", ATTENTION, e.QUERIES_SPLIT_THE_OTHER_WAY),
    new("values_before_keys", "split-layout", ATTENTION, e.VALUES_FIRST),
    new("keys_then_values", "split-layout", ATTENTION, *e.KEYS_THEN_VALUES),
    new("rope_before_latent", "split-layout", KV_A,
        (e.A_SPLIT, "turned, latents = self.kv_a_proj(x).split((self.rope, self.latent), dim=-1)")),
    new("features_before_heads", "split-layout", ATTENTION, e.FEATURES_BEFORE_HEADS),
    new("turned_first_in_keys", "split-layout", ATTENTION, e.TURNED_BEFORE_KEPT_IN_KEYS),
    new("latent_not_normed", "residual-topology", KV_A, e.LATENT_NOT_NORMED, consumer="kv = self.kv_b_proj(latents)",
        also=("qknorm-missing-or-width",)),
    new("query_latent_not_normed", "residual-topology", Q_A,
        ("self.q_b_proj(self.q_a_norm(self.q_a_proj(x)))", "self.q_b_proj(self.q_a_proj(x))"),
        also=("qknorm-missing-or-width",)),
    new("rotated_key_normed", "residual-topology", ATTENTION,
        (f"{e.K_TURNED}, self.interleaved)",
         "turned = turned * torch.rsqrt(turned.pow(2).mean(-1, keepdim=True) + 1e-6)\n"
         f"        {e.K_TURNED}, self.interleaved)"),
        also=("qknorm-missing-or-width",)),
    new("latent_norm_takes_the_config_eps", "norm-eps", KV_A,
        ("RMSNorm(self.latent, 1e-6)", "RMSNorm(self.latent, config.rms_norm_eps)"), config={"rms_norm_eps": 1e-5}),
    new("scale_without_mscale", "mla-yarn-mscale", ATTENTION, (f"            {MSCALE}\n", "            pass\n"),
        also=("softmax-scale",)),
    new("mscale_not_squared", "mla-yarn-mscale", ATTENTION, (MSCALE, MSCALE.replace(" ** 2", ""))),
    new("mscale_for_all_dim", "mla-yarn-mscale", ATTENTION, (MSCALE, MSCALE.replace("mscale_all_dim", "mscale")),
        config=UNLIKE),
    new("mscale_twice", "mla-yarn-mscale", TURNED, (FACTOR, "return _growth(yarn.factor, yarn.mscale)"),
        also=("rope-scaling-details",)),
    new("mscale_of_rope_dropped", "mla-yarn-mscale", TURNED,
        (f"        {FACTOR}\n", "        return 1.0\n"), config=UNLIKE, also=("rope-scaling-details",)),
    new("mscale_upside_down", "mla-yarn-mscale", TURNED,
        (FACTOR, "return _growth(yarn.factor, yarn.mscale_all_dim) / _growth(yarn.factor, yarn.mscale)"),
        config=UNLIKE, also=("rope-scaling-details",)),
    new("scale_of_kept_features", "softmax-scale", ATTENTION, e.SCALE_OF_KEPT, also=("mla-yarn-mscale",)),
    new("scale_of_the_absorbed_width", "softmax-scale", ATTENTION, e.SCALE_OF_LATENT, also=("mla-yarn-mscale",)),
    new("no_scale", "softmax-scale", ATTENTION, s.NO_SCALE),
)  # fmt: skip

ROPE = (
    new("rope_by_halves", "rope-pairing", TURNED, (e.PAIRED, "x.chunk(2, dim=-1)")),
    new("rope_interleave_not_read", "rope-pairing", TURNED,
        ('hf.get("rope_interleave", True)', 'hf.get("rope_interleaved", False)')),
    new("keys_by_halves", "rope-pairing", ATTENTION,
        (f"{e.K_TURNED}, self.interleaved)", f"{e.K_TURNED}, False)")),
    new("keys_not_rotated", "nope-and-temperature", ATTENTION,
        (f"{e.K_TURNED}, self.interleaved)", "turned = turned[:, None]"), also=("rope-pairing", "partial-rotary")),
    new("rope_backwards", "rope-pairing", ATTENTION, s.BACKWARDS),
    new("yarn_forgotten", "rope-scaling-dropped", TURNED,
        ('_yarn(settings) if rope_type == "yarn" else None', "None")),
    new("yarn_range_of_the_head", "rope-scaling-details", TURNED,
        ("RotaryEmbedding(config.qk_rope_head_dim, config.rope)",
         "RotaryEmbedding(config.qk_rope_head_dim, config.rope)"[:-1] + ")"),
        ("first = max(math.floor(feature(yarn.beta_fast)), 0)", "first = max(math.floor(feature(yarn.beta_slow)), 0)"),
        ("last = min(math.ceil(feature(yarn.beta_slow)), rotary_dim - 1)",
         "last = min(math.ceil(feature(yarn.beta_fast)), rotary_dim - 1)")),
)  # fmt: skip

ROUTER = (
    new("softmax_scores", "router-norm-topk", e.ROUTED, e.SOFTMAX_SCORES, also=("router-selection",)),
    new("bias_forgotten", "router-selection", e.ROUTED, e.BIAS_FORGOTTEN),
    new("bias_in_the_shares", "router-selection", e.ROUTED, e.BIAS_IN_THE_SHARES, also=("router-norm-topk",)),
    new("group_by_its_best", "router-selection", e.ROUTED, e.GROUP_BY_ITS_BEST),
    new("group_by_all_of_it", "router-selection", e.ROUTED, e.GROUP_BY_ALL),
    new("groups_hidden_by_zero", "router-selection", e.ROUTED, e.GROUPS_HIDDEN_BY_ZERO),
    new("groups_forgotten", "router-selection", e.ROUTED, e.GROUPS_FORGOTTEN),
    new("one_group_less", "router-selection", e.ROUTED, e.ONE_GROUP_LESS),
    new("one_expert_less", "router-selection", (*e.ROUTED, MLP), e.ONE_EXPERT_LESS),
    new("not_renormalised", "router-norm-topk", e.ROUTED, *e.NOT_NORMALISED, consumer=e.RETURNED),
    new("normalised_by_length", "router-norm-topk", e.ROUTED, e.NORMALISED_BY_LENGTH),
    new("scaled_before_normalising", "moe-combine", e.ROUTED, *e.SCALED_BEFORE_NORMALISING,
        also=("router-norm-topk",)),
)  # fmt: skip

COMBINING = (
    new("scale_dropped", "moe-combine", e.ROUTED, e.SCALE_DROPPED, also=("router-norm-topk",)),
    new("scale_divides", "moe-combine", e.ROUTED, e.SCALE_DIVIDES, also=("router-norm-topk",)),
    new("shared_forgotten", "moe-combine", (*e.COMBINED, e.SHARED), e.SHARED_FORGOTTEN, also=("residual-topology",)),
    new("shared_scaled", "moe-combine", (*e.COMBINED, e.SHARED), e.SHARED_SCALED),
    new("shared_averaged", "moe-combine", (*e.COMBINED, e.SHARED), e.SHARED_AVERAGED),
    new("shares_forgotten", "moe-combine", e.COMBINED, e.SHARES_FORGOTTEN),
    new("shares_of_the_first_place", "moe-combine", e.COMBINED, e.SHARES_OF_THE_FIRST),
    new("next_expert", "weights-misplaced", e.COMBINED, e.NEXT_EXPERT, also=("moe-combine", "router-selection")),
    new("gelu_in_experts", "activation", e.INSIDE, *e.experts_of(e.TANH_GELU)),
    new("gate_without_up_in_experts", "gate-up-order", e.INSIDE, *e.experts_of(e.NOT_GATED), also=("moe-combine",)),
    new("shared_gate_and_up_crosswise", "gate-up-order", (e.SHARED, f"{e.SHARED}.*"), *e.SHARED_GATE_UP_CROSSWISE),
)  # fmt: skip

MUTANTS = (*LATENT, *ROPE, *ROUTER, *COMBINING)
