"""Bugs in models/qwen3_5.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, INPUT_NORM, K_NORM, LAYER, MLP, POST_ATTENTION_NORM, Q_NORM, QK_NORM, ROTARY

new = partial(bug, "qwen3_5")

EXPERTS = "qwen3.5-35b-a3b.json"
TURNED = (ROTARY, ATTENTION)
DELTA_NET = "model.layers.*.linear_attn"
CONVOLVED = (DELTA_NET, f"{DELTA_NET}.conv1d")
GATED_NORM = (DELTA_NET, f"{DELTA_NET}.norm")
ROUTER = ("model.layers.*.mlp.gate", MLP)

QUERIES = "q = normalise(q) * self.key_dim**-0.5"
BETA = "torch.sigmoid(self.beta_proj(x)).transpose(1, 2)"
DECAY = "-self.a_log.float().exp() * functional.softplus(self.decay_proj(x).float() + self.dt_bias)"
CONVOLUTION = "functional.silu(self.conv(cache.append(self.qkv_proj(x).transpose(1, 2)))).transpose(1, 2)"
GATED = "(normed.to(x.dtype) * self.weight * functional.silu(gate.float())).to(x.dtype)"
NORMED = "normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)\n        return (normed.to"
BOTH = "q, gate = self.q_proj(x).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, dim=-1)"
MERGED = "return self.o_proj((context * torch.sigmoid(gate)).flatten(2))"
TURNED_PART = "turned, kept = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)"

DELTA_RULE: tuple[Mutant, ...] = (
    new("queries_unscaled", "ssm-delta-math", DELTA_NET, (QUERIES, "q = normalise(q)")),
    new("queries_scaled_by_value_dim", "ssm-delta-math", DELTA_NET, (QUERIES, QUERIES.replace("key", "value"))),
    new("keys_scaled_too", "ssm-delta-math", DELTA_NET,
        ("normalise(k), v, decay", "normalise(k) * self.key_dim**-0.5, v, decay")),
    new("queries_not_normalised", "ssm-delta-math", DELTA_NET, (QUERIES, "q = q * self.key_dim**-0.5")),
    new("keys_not_normalised", "ssm-delta-math", DELTA_NET, ("normalise(k), v, decay", "k, v, decay")),
    new("length_eps_on_the_mean", "ssm-delta-math", DELTA_NET,
        ("x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)",
         "x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * x.shape[-1] ** -0.5"), also=("norm-eps",)),
    new("root_mean_square_for_length", "ssm-delta-math", DELTA_NET, (".sum(-1, keepdim=True) + 1e-6",
         ".mean(-1, keepdim=True) + 1e-6")),
    new("beta_without_sigmoid", "ssm-delta-math", DELTA_NET, (BETA, "self.beta_proj(x).transpose(1, 2)")),
    new("beta_doubled", "ssm-delta-math", DELTA_NET, (BETA, f"2 * {BETA}")),
    new("decay_without_softplus", "ssm-delta-math", DELTA_NET,
        (DECAY, "-self.a_log.float().exp() * (self.decay_proj(x).float() + self.dt_bias)")),
    new("decay_softplus_twice", "ssm-delta-math", DELTA_NET,
        ("functional.softplus(self.decay_proj(x).float() + self.dt_bias)",
         "functional.softplus(functional.softplus(self.decay_proj(x).float() + self.dt_bias))")),
    new("decay_positive", "ssm-delta-math", DELTA_NET,
        ("decay = -self.a_log.float().exp()", "decay = self.a_log.float().exp()")),
    new("decay_log_not_undone", "ssm-delta-math", DELTA_NET, ("-self.a_log.float().exp() *", "-self.a_log.float() *")),
    new("decay_without_its_bias", "ssm-delta-math", DELTA_NET, (" + self.dt_bias)", ")")),
    new("decay_bias_after_softplus", "ssm-delta-math", DELTA_NET,
        ("functional.softplus(self.decay_proj(x).float() + self.dt_bias)",
         "(functional.softplus(self.decay_proj(x).float()) + self.dt_bias)")),
    new("state_read_before_it_is_written", "ssm-delta-math", DELTA_NET,
        ("scores = (q @ k.transpose(-1, -2)) * between",
         "scores = (q @ k.transpose(-1, -2)) * between.tril(-1)")),
    new("nothing_recalled", "ssm-delta-math", DELTA_NET,
        ("    written = torch.linalg.solve_triangular(system, v * beta[..., None], upper=False, unitriangular=True)\n",
         "    written = v * beta[..., None]\n"),
        ("recalled = torch.linalg.solve_triangular(system, writing * decayed, upper=False, unitriangular=True)",
         "recalled = torch.zeros_like(writing)")),
    new("key_heads_tiled", "ssm-delta-math", DELTA_NET,
        ("q = q.unflatten(-1, (-1, self.key_dim)).repeat_interleave(self.groups, dim=2)",
         "q = q.unflatten(-1, (-1, self.key_dim)).repeat(1, 1, self.groups, 1)"),
        ("k = k.unflatten(-1, (-1, self.key_dim)).repeat_interleave(self.groups, dim=2)",
         "k = k.unflatten(-1, (-1, self.key_dim)).repeat(1, 1, self.groups, 1)"), also=("gqa-repeat",)),
)  # fmt: skip

CONVOLUTIONS = (
    new("no_silu_behind_the_convolution", "ssm-delta-math", CONVOLVED,
        (CONVOLUTION, "self.conv(cache.append(self.qkv_proj(x).transpose(1, 2))).transpose(1, 2)")),
    new("convolution_backwards", "ssm-delta-math", CONVOLVED,
        ("self.conv(cache.append(self.qkv_proj(x).transpose(1, 2)))",
         "functional.conv1d(cache.append(self.qkv_proj(x).transpose(1, 2)), self.conv.weight.flip(-1),"
         " groups=self.conv.groups)")),
    new("convolution_one_late", "ssm-delta-math", CONVOLVED,
        ("self.conv(cache.append(self.qkv_proj(x).transpose(1, 2)))",
         "self.conv(functional.pad(cache.append(self.qkv_proj(x).transpose(1, 2)), (1, 0)))[..., :-1]")),
    new("no_convolution", "ssm-delta-math", CONVOLVED,
        ("functional.silu(self.conv(cache.append(self.qkv_proj(x).transpose(1, 2)))).transpose(1, 2)",
         "functional.silu(self.qkv_proj(x))")),
    new("queries_and_keys_split_the_other_way", "split-layout", DELTA_NET,
        ("q, k, v = qkv.split(self.sizes, dim=-1)", "k, q, v = qkv.split(self.sizes, dim=-1)"),
        also=("ssm-delta-math",)),
)  # fmt: skip

GATED_NORMS = (
    new("gate_before_the_norm", "ssm-gated-norm", GATED_NORM,
        (GATED, "(normed.to(x.dtype) * self.weight).to(x.dtype)"),
        ("        x32 = x.float()\n        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)\n"
         "        return (normed.to",
         "        x32 = x.float() * functional.silu(gate.float())\n"
         "        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)\n"
         "        return (normed.to")),
    new("norm_gated_by_sigmoid", "ssm-gated-norm", GATED_NORM,
        ("functional.silu(gate.float())", "torch.sigmoid(gate.float())"), also=("activation",)),
    new("norm_ungated", "ssm-gated-norm", GATED_NORM, (GATED, "(normed.to(x.dtype) * self.weight).to(x.dtype)")),
    new("gated_norm_over_all_heads", "ssm-gated-norm", GATED_NORM,
        (NORMED, "normed = x32 * torch.rsqrt(x32.pow(2).mean((-1, -2), keepdim=True) + self.eps)\n"
                 "        return (normed.to")),
    new("gated_norm_scales_like_the_others", "norm-offset", GATED_NORM,
        ("normed.to(x.dtype) * self.weight *", "normed.to(x.dtype) * (1.0 + self.weight) *"), also=("ssm-gated-norm",)),
    new("gated_norm_eps", "norm-eps", GATED_NORM,
        ("GatedRMSNorm(self.value_dim, config.rms_norm_eps)", "GatedRMSNorm(self.value_dim, 1e-5)"),
        also=("ssm-gated-norm",)),
)  # fmt: skip

ATTENTION_BUGS = (
    new("queries_and_gate_split_flat", "split-layout", ATTENTION,
        (BOTH, "q, gate = (each.view(heads) for each in self.q_proj(x).chunk(2, dim=-1))")),
    new("gate_before_queries", "split-layout", ATTENTION, (BOTH, BOTH.replace("q, gate", "gate, q"))),
    new("output_gate_without_sigmoid", "activation", ATTENTION,
        (MERGED, MERGED.replace("torch.sigmoid(gate)", "gate"))),
    new("output_gate_by_silu", "activation", ATTENTION,
        (MERGED, MERGED.replace("torch.sigmoid(gate)", "functional.silu(gate)"))),
    new("output_ungated", "activation", ATTENTION, (MERGED, "return self.o_proj(context.flatten(2))"),
        also=("layer-wiring",)),
    new("rope_on_all_features", "partial-rotary", TURNED,
        ('rotary_dim=int(head_dim * rope["partial_rotary_factor"])', "rotary_dim=head_dim")),
    new("rope_on_the_last_features", "partial-rotary", ATTENTION,
        (TURNED_PART, "kept, turned = x.split((x.shape[-1] - cos.shape[-1], cos.shape[-1]), dim=-1)"),
        ("return torch.cat((turned, kept), dim=-1)", "return torch.cat((kept, turned), dim=-1)")),
    new("rope_frequencies_of_the_whole_head", "partial-rotary", TURNED,
        ("exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim",
         "exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / (4 * rotary_dim)"),
        also=("rope-theta-config",)),
    new("theta_default", "rope-theta-config", TURNED,
        ("settings.get(name, hf.get(name, default)) for name", "hf.get(name, default) for name")),
    new("no_q_norm", "qknorm-missing-or-width", (Q_NORM, QK_NORM, ATTENTION),
        ("q = self.q_norm(q).transpose(1, 2)", "q = q.transpose(1, 2)")),
    new("k_norm_without_offset", "norm-offset", (K_NORM, ATTENTION),
        ("self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)",
         "self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)")),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
)  # fmt: skip

LAYERS = (
    new("pre_mlp_norm_forgotten", "residual-topology", (LAYER, POST_ATTENTION_NORM, MLP), s.MLP_READS_NO_NORM),
    new("delta_net_reads_the_stream", "residual-topology", (LAYER, INPUT_NORM, DELTA_NET),
        ("self.delta_net(normed, real, cache)", "self.delta_net(x, real, cache)")),
    new("shared_expert_ungated", "moe-combine", (MLP, "model.layers.*.mlp.shared_expert_gate"),
        ("torch.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)", "self.shared_expert(tokens)"),
        config=EXPERTS),
    new("shared_expert_gate_without_sigmoid", "moe-combine", (MLP, "model.layers.*.mlp.shared_expert_gate"),
        ("torch.sigmoid(self.shared_expert_gate(tokens))", "self.shared_expert_gate(tokens)"), config=EXPERTS),
    new("shared_expert_forgotten", "moe-combine", (MLP, "model.layers.*.mlp.shared_expert*"),
        ("        mixed = mixed + torch.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)\n", ""),
        consumer="return mixed.view_as(x)", config=EXPERTS),
    new("shares_not_renormalised", "router-norm-topk", ROUTER,
        ("        shares = shares / shares.sum(-1, keepdim=True)\n", ""),
        consumer="return shares.to(tokens.dtype), chosen", config=EXPERTS),
)  # fmt: skip

MUTANTS = (*DELTA_RULE, *CONVOLUTIONS, *GATED_NORMS, *ATTENTION_BUGS, *LAYERS)
