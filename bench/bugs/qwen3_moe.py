"""Bugs in models/qwen3_moe.py."""

from functools import partial

from bench.bugs import experts as e
from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, K_NORM, MLP, POST_ATTENTION_NORM, ROTARY

new = partial(bug, "qwen3_moe")

NOT_NORMALISED = {"norm_topk_prob": False}
ONE_DENSE = {"mlp_only_layers": [1]}
SOFTMAX = "shares = torch.softmax(self.router(tokens), dim=-1, dtype=torch.float32)"
TOP = "shares, chosen = torch.topk(shares, self.chosen, dim=-1)"
NORMALISED = "            shares = shares / shares.sum(-1, keepdim=True)\n"
WEIGHED = "expert(tokens[rows]) * shares[rows, places, None]"
MADE = "MLP(config, config.moe_intermediate_size) for _ in range(config.num_experts)"

ROUTER: tuple[Mutant, ...] = (
    new("not_renormalised", "router-norm-topk", e.ROUTED, ("        if self.normalised:\n" + NORMALISED, ""),
        consumer="return shares.to(tokens.dtype), chosen"),
    new("renormalised_always", "router-norm-topk", e.ROUTED,
        ("        if self.normalised:\n" + NORMALISED, NORMALISED[4:]), config=NOT_NORMALISED),
    new("softmax_over_the_chosen", "router-norm-topk", e.ROUTED,
        (SOFTMAX, "shares = self.router(tokens).float()"),
        (TOP, f"{TOP}\n        shares = shares.softmax(-1)"), config=NOT_NORMALISED),
    new("softmax_of_the_shares", "router-norm-topk", e.ROUTED, (NORMALISED,
        "            shares = shares.softmax(-1)\n")),
    new("norm_topk_prob_read_wrongly", "router-norm-topk", e.ROUTED,
        ('hf.get("norm_topk_prob", False)', 'hf.get("normalize_topk_prob", False)')),
    new("sigmoid", "router-norm-topk", e.ROUTED, (SOFTMAX, "shares = torch.sigmoid(self.router(tokens).float())")),
    new("softmax_over_tokens", "router-norm-topk", e.ROUTED, (SOFTMAX, SOFTMAX.replace("dim=-1", "dim=0")),
        also=("router-selection",)),
    new("one_expert_less", "router-selection", (*e.ROUTED, MLP), e.ONE_EXPERT_LESS),
    new("one_expert_more", "router-selection", (*e.ROUTED, MLP), e.ONE_EXPERT_MORE),
    new("worst_experts", "router-selection", e.ROUTED, (TOP, TOP.replace("dim=-1)", "dim=-1, largest=False)"))),
)  # fmt: skip

COMBINING = (
    new("shares_on_the_input", "moe-combine", e.COMBINED, (WEIGHED,
        "expert(tokens[rows] * shares[rows, places, None])")),
    new("shares_forgotten", "moe-combine", e.COMBINED, (WEIGHED, "expert(tokens[rows])")),
    new("shares_of_the_first_place", "moe-combine", e.COMBINED, (WEIGHED, WEIGHED.replace("places", "0"))),
    new("last_expert_left_out", "moe-combine", e.COMBINED, e.ONE_LEFT_OUT),
    new("experts_counted_from_one", "moe-combine", e.COMBINED, e.COUNTED_FROM_ONE,
        also=("weights-misplaced", "router-selection")),
    new("next_expert", "weights-misplaced", e.COMBINED, e.NEXT_EXPERT, also=("moe-combine", "router-selection")),
    new("later_expert_overwrites", "moe-combine", e.COMBINED,
        (f"mixed = mixed.index_add(0, rows, {WEIGHED})", f"mixed[rows] = {WEIGHED}")),
    new("experts_add_the_residual", "moe-combine", e.COMBINED,
        ("mixed = torch.zeros_like(tokens)", "mixed = tokens.clone()"), also=("residual-topology",)),
)  # fmt: skip

EXPERTS = (
    new("up_is_activated", "gate-up-order", e.INSIDE, s.GATE_UP),
    new("gelu", "activation", e.INSIDE, *e.experts_of(e.GELU, MADE)),
    new("relu", "activation", e.INSIDE, ("nn.SiLU()", "nn.ReLU()")),
    new("gate_added", "gate-up-order", e.INSIDE, *e.experts_of(e.SUMMED, MADE), also=("moe-combine",)),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (*e.INSIDE, MLP), *e.GATE_UP_CROSSWISE),
    new("experts_without_norm", "residual-topology", (MLP, *e.ROUTED, POST_ATTENTION_NORM, "model.layers.[0-9]"),
        s.MLP_READS_NO_NORM),
)  # fmt: skip

REST = (
    new("scaled_twice", "softmax-scale", ATTENTION, s.SCALED_TWICE),
    new("no_k_norm", "qknorm-missing-or-width", (K_NORM, ATTENTION), s.NO_K_NORM, consumer=s.ROTATED),
    new("rope_interleaved", "rope-pairing", (ROTARY, ATTENTION), *s.INTERLEAVED),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
)  # fmt: skip

MUTANTS = (*ROUTER, *COMBINING, *EXPERTS, *REST)
