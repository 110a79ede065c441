"""Edits of what ports with experts or with keys from a latent share, each one mistake."""

from bench.bugs.edits import Edit
from bench.bugs.places import ATTENTION, LAYER, MLP, POST_ATTENTION_NORM

ROUTER = "model.layers.*.mlp.gate"
EXPERTS = "model.layers.*.mlp.experts"
SHARED = "model.layers.*.mlp.shared_experts"
ROUTED = (ROUTER, EXPERTS)  # the shares: made in one, used in the other
COMBINED = (EXPERTS, MLP)
INSIDE = (EXPERTS, "model.layers.*.mlp.experts.act_fn")
INDEXER = "model.layers.*.self_attn.indexer"
INDEXED = (INDEXER, f"{INDEXER}.*", ATTENTION)
PATTERN = (MLP, LAYER, POST_ATTENTION_NORM, *ROUTED, SHARED, "model.layers.*.mlp.*")

# A router of independent scores, as its text stands in four ports.
SCORES = "scores = torch.sigmoid(tokens.float() @ self.weight.float().T)"
CHOSEN = "torch.topk(self._within_groups(scores + self.correction), self.chosen, dim=-1, sorted=False).indices"
TAKEN = "shares = scores.gather(1, chosen)"
NORMALISED = "            shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)\n"
RETURNED = "return shares * self.scale, chosen"
BEST = "grouped.topk(2, dim=-1).values.sum(-1)"
HIDDEN = 'grouped.masked_fill(outside[..., None], float("-inf"))'

SOFTMAX_SCORES: Edit = (SCORES, "scores = torch.softmax(tokens.float() @ self.weight.float().T, dim=-1)")
RAW_SCORES: Edit = (SCORES, "scores = tokens.float() @ self.weight.float().T")
BIAS_FORGOTTEN: Edit = (CHOSEN, CHOSEN.replace(" + self.correction", ""))
BIAS_SUBTRACTED: Edit = (CHOSEN, CHOSEN.replace("+", "-"))
BIAS_IN_THE_SHARES: Edit = (TAKEN, "shares = (scores + self.correction).gather(1, chosen)")
GROUPS_FORGOTTEN: Edit = (CHOSEN, "torch.topk(scores + self.correction, self.chosen, dim=-1, sorted=False).indices")
GROUP_BY_ITS_BEST: Edit = (BEST, "grouped.amax(-1)")
GROUP_BY_ALL: Edit = (BEST, "grouped.sum(-1)")
GROUPS_HIDDEN_BY_ZERO: Edit = (HIDDEN, "grouped.masked_fill(outside[..., None], 0.0)")
ONE_GROUP_LESS: Edit = ("config.n_group, config.topk_group", "config.n_group, config.topk_group - 1")
WORST_GROUPS: Edit = (BEST, f"-{BEST}")
ONE_EXPERT_LESS: Edit = ("self.chosen = config.num_experts_per_tok", "self.chosen = config.num_experts_per_tok - 1")
ONE_EXPERT_MORE: Edit = ("self.chosen = config.num_experts_per_tok", "self.chosen = config.num_experts_per_tok + 1")
NOT_NORMALISED: tuple[Edit, ...] = (("        if self.normalised:\n" + NORMALISED, ""),)
SOFTMAX_OF_CHOSEN: Edit = (NORMALISED, "            shares = shares.softmax(-1)\n")
NORMALISED_OVER_ALL: Edit = (NORMALISED, "            shares = shares / (scores.sum(-1, keepdim=True) + 1e-20)\n")
NORMALISED_BY_LENGTH: Edit = (
    NORMALISED,
    "            shares = shares / (shares.norm(dim=-1, keepdim=True) + 1e-20)\n",
)
SCALE_DROPPED: Edit = (RETURNED, "return shares, chosen")
SCALE_SQUARED: Edit = (RETURNED, "return shares * self.scale**2, chosen")
SCALE_DIVIDES: Edit = (RETURNED, "return shares / self.scale, chosen")
SCALED_BEFORE_NORMALISING: tuple[Edit, ...] = (
    (TAKEN, "shares = scores.gather(1, chosen) * self.scale"),
    (RETURNED, "return shares, chosen"),
)

# Experts and their sum.
WEIGHED = "(expert(tokens[rows]) * shares[rows, places, None]).to(mixed.dtype)"
BOTH = "return mixed.view_as(x) + self.shared(x)"
LOOP = "for index, expert in enumerate(self.experts):"
GATED = "return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))"
MIXED = "mixed.index_add(0, rows, "

SHARES_ON_THE_INPUT: Edit = (WEIGHED, "expert(tokens[rows] * shares[rows, places, None].to(tokens.dtype))")
SHARES_FORGOTTEN: Edit = (WEIGHED, "expert(tokens[rows])")
SHARES_OF_THE_FIRST: Edit = (WEIGHED, WEIGHED.replace("[rows, places, None]", "[rows, 0, None]"))
SHARED_FORGOTTEN: Edit = (BOTH, "return mixed.view_as(x)")
SHARED_SCALED: Edit = (BOTH, "return mixed.view_as(x) + self.router.scale * self.shared(x)")
SHARED_GATED: Edit = (BOTH, "return mixed.view_as(x) + self.shared(x).sigmoid() * self.shared(x)")
SHARED_AVERAGED: Edit = (BOTH, "return (mixed.view_as(x) + self.shared(x)) / 2")
SHARED_AFTER_THE_EXPERTS: Edit = (BOTH, "return mixed.view_as(x) + self.shared(mixed.view_as(x))")
SHARED_SUBTRACTED: Edit = (BOTH, "return mixed.view_as(x) - self.shared(x)")
ONE_LEFT_OUT: Edit = (LOOP, "for index, expert in enumerate(self.experts[:-1]):")
COUNTED_FROM_ONE: Edit = (LOOP, "for index, expert in enumerate(self.experts, start=1):")
NEXT_EXPERT: Edit = ("expert(tokens[rows])", "self.experts[(index + 1) % len(self.experts)](tokens[rows])")
ROUTER_READS_HALF: Edit = ("shares, chosen = self.router(tokens)", "shares, chosen = self.router(tokens / 2)")
LAST_WINS: Edit = (
    "mixed = mixed.index_add(0, rows, (expert(tokens[rows]) * shares[rows, places, None]).to(mixed.dtype))",
    "mixed[rows] = (expert(tokens[rows]) * shares[rows, places, None]).to(mixed.dtype)",
)

# The MLP of experts alone: what is in `Experts`, and not in a dense layer.
EXPERT_MADE = "MLP(config, size) for _ in range(config.n_routed_experts)"


def experts_of(body: str, made: str = EXPERT_MADE, size: str = "size") -> tuple[Edit, ...]:
    """Experts of a class of their own, whose forward is `body`."""
    expert = (
        'class Expert(MLP):\n    """One of many."""\n\n    def forward(self, x: Tensor) -> Tensor:\n'
        f'        """`[N, C]` -> `[N, C]`."""\n        {body}\n\n\n'
    )
    router = "class Router(nn.Module):" if made == EXPERT_MADE else "class Experts(nn.Module):"
    return ((router, expert + router), (made, made.replace("MLP(", "Expert(")))


UP_ACTIVATED = "return self.down_proj(self.gate_proj(x) * self.activation(self.up_proj(x)))"
GELU = "return self.down_proj(nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))"
TANH_GELU = 'return self.down_proj(nn.functional.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))'
RELU = "return self.down_proj(nn.functional.relu(self.gate_proj(x)) * self.up_proj(x))"
NOT_GATED = "return self.down_proj(self.activation(self.up_proj(x)))"
SUMMED = "return self.down_proj(self.activation(self.gate_proj(x)) + self.up_proj(x))"
CLAMPED = "return self.down_proj(self.activation(self.gate_proj(x)).clamp(max=0.2) * self.up_proj(x))"

# Loading.
GATE_UP_CROSSWISE: tuple[Edit, ...] = (
    ('"layers.{}.mlp.experts.{}.gate_proj.weight"', '"(aside)"'),
    ('"layers.{}.mlp.experts.{}.up_proj.weight"', '"layers.{}.mlp.experts.{}.gate_proj.weight"'),
    ('"(aside)"', '"layers.{}.mlp.experts.{}.up_proj.weight"'),
)
SHARED_GATE_UP_CROSSWISE: tuple[Edit, ...] = (
    ('"layers.{}.mlp.shared.gate_proj.weight"', '"(aside)"'),
    ('"layers.{}.mlp.shared.up_proj.weight"', '"layers.{}.mlp.shared.gate_proj.weight"'),
    ('"(aside)"', '"layers.{}.mlp.shared.up_proj.weight"'),
)

# Keys and values from a latent.
Q_SPLIT = "q_kept, q_turned = q.split((self.nope, self.rope), dim=-1)"
KV_SPLIT = "k_kept, v = kv.split((self.nope, self.value), dim=-1)"
KV_VIEWED = "self.kv_b_proj(latents).view(*latents.shape[:2], -1, self.nope + self.value).transpose(1, 2)"
A_SPLIT = "latents, turned = self.kv_a_proj(x).split((self.latent, self.rope), dim=-1)"
LATENT_NORMED = "        latents = self.kv_a_norm(latents)\n"
SCALED = "self.scale = head_dim**-0.5"
K_TURNED = "turned = rotate(turned[:, None], cos, sin"
Q_TURNED = "q_turned = rotate(q_turned, cos, sin"
Q_JOINED = "q = torch.cat((q_kept, q_turned), dim=-1)"
K_JOINED = "k = torch.cat((k_kept, turned.expand(-1, k_kept.shape[1], -1, -1)), dim=-1)"
PAIRED = "(x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)"

QUERIES_SPLIT_THE_OTHER_WAY: Edit = (Q_SPLIT, "q_turned, q_kept = q.split((self.rope, self.nope), dim=-1)")
VALUES_FIRST: Edit = (KV_SPLIT, "v, k_kept = kv.split((self.value, self.nope), dim=-1)")
KEYS_THEN_VALUES: tuple[Edit, ...] = (
    (
        f"        kv = {KV_VIEWED}\n        {KV_SPLIT}\n",
        "        kv = self.kv_b_proj(latents)\n"
        "        heads = kv.shape[-1] // (self.nope + self.value)\n"
        "        k_kept, v = kv.split((heads * self.nope, heads * self.value), dim=-1)\n"
        "        k_kept = k_kept.unflatten(-1, (heads, -1)).transpose(1, 2)\n"
        "        v = v.unflatten(-1, (heads, -1)).transpose(1, 2)\n",
    ),
)
ROPE_BEFORE_LATENT: Edit = (
    A_SPLIT,
    "turned, latents = self.kv_a_proj(x).split((self.rope, self.latent), dim=-1)",
)
FEATURES_BEFORE_HEADS: Edit = (
    KV_VIEWED,
    "self.kv_b_proj(latents).view(*latents.shape[:2], self.nope + self.value, -1).permute(0, 3, 1, 2)",
)
TURNED_BEFORE_KEPT_IN_KEYS: Edit = (
    K_JOINED,
    "k = torch.cat((turned.expand(-1, k_kept.shape[1], -1, -1), k_kept), dim=-1)",
)
LATENT_NOT_NORMED: Edit = (LATENT_NORMED, "")
SCALE_OF_KEPT: Edit = (SCALED, "self.scale = self.nope**-0.5")
SCALE_OF_TURNED: Edit = (SCALED, "self.scale = self.rope**-0.5")
SCALE_OF_VALUE: Edit = (SCALED, "self.scale = self.value**-0.5")
SCALE_OF_LATENT: Edit = (SCALED, "self.scale = (self.latent + self.rope) ** -0.5")
