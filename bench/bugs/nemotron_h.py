"""Bugs in models/nemotron_h.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug

new = partial(bug, "nemotron_h")

SUPER = "nemotron-3-super-120b-a12b.json"
GROUPED = {"n_group": 4, "topk_group": 2}
LAYER = "model.layers.[0-9]"
MIXER = "model.layers.*.mixer"
CONVOLVED = (MIXER, f"{MIXER}.conv1d", f"{MIXER}.act")
GATED_NORM = (MIXER, f"{MIXER}.norm")
EXPERTS = (MIXER, f"{MIXER}.experts", f"{MIXER}.experts.act_fn", f"{MIXER}.shared_experts",
           f"{MIXER}.shared_experts.act_fn")  # fmt: skip
ROUTER = (f"{MIXER}.gate", MIXER)

STEP = "functional.softplus(dt + self.dt_bias)"
CONVOLUTION = "functional.silu(self.conv(mixed)).transpose(1, 2)"
GATED = "        x32 = (x.float() * functional.silu(gate.float())).unflatten(-1, (self.groups, -1))\n"
REPEATED = "x.repeat_interleave(self.heads // self.groups, dim=1)"
PARTS = "value, write, read = (self._per_head"
EPS = "self.eps = eps\n        self.weight = nn.Parameter(torch.ones(size))\n\n    def forward(self, x: Tensor) ->"
SHARED = "return mixed.view_as(x) + self.shared_expert(x)"

SCAN: tuple[Mutant, ...] = (
    new("softplus_twice", "ssm-delta-math", MIXER, (STEP, f"functional.softplus({STEP})")),
    new("no_softplus", "ssm-delta-math", MIXER, (STEP, "(dt + self.dt_bias)")),
    new("step_bias_forgotten", "ssm-delta-math", MIXER, ("dt + self.dt_bias", "dt")),
    new("step_not_clamped", "ssm-delta-math", MIXER, (".clamp_min(self.time_step_min)", ""),
        config={"time_step_min": 0.9}),
    new("skip_forgotten", "ssm-delta-math", MIXER, ("(found + value * self.skip[:, None, None])", "found")),
    new("skip_of_the_step", "ssm-delta-math", MIXER,
        ("value * self.skip[:, None, None]", "value * dt[..., None] * self.skip[:, None, None]")),
    new("decay_positive", "ssm-delta-math", MIXER, ("decay = -self.a_log", "decay = self.a_log")),
    new("decay_log_not_undone", "ssm-delta-math", MIXER, ("-self.a_log.float().exp()[", "-self.a_log.float()[")),
    new("decay_without_the_step", "ssm-delta-math", MIXER,
        ("[:, None] * dt\n", "[:, None] * torch.ones_like(dt)\n")),
    new("input_not_times_the_step", "ssm-delta-math", MIXER, ("scan(value * dt[..., None],", "scan(value,")),
    new("write_and_read_exchanged", "ssm-delta-math", MIXER, (PARTS, "value, read, write = (self._per_head"),
        also=("split-layout",)),
    new("groups_tiled", "ssm-delta-math", MIXER, (REPEATED, "x.repeat(1, self.heads // self.groups, 1, 1)"),
        also=("gqa-repeat",)),
    new("decay_of_the_own_step_only", "ssm-delta-math", MIXER,
        ("state = state * decayed[:, :, chunk, -1:] +", "state = state +")),
    new("state_decays_before_it_is_written_only", "ssm-delta-math", MIXER,
        ("(write * left)[:, :, chunk]", "write[:, :, chunk]")),
    new("no_silu_behind_the_convolution", "ssm-delta-math", CONVOLVED,
        (CONVOLUTION, "self.conv(mixed).transpose(1, 2)")),
    new("convolution_backwards", "ssm-delta-math", CONVOLVED,
        ("self.conv(mixed)",
         "functional.conv1d(mixed, self.conv.weight.flip(-1), self.conv.bias, groups=self.conv.groups)")),
    new("convolution_one_late", "ssm-delta-math", CONVOLVED,
        ("self.conv(mixed)", "self.conv(functional.pad(mixed, (1, 0)))[..., :-1]")),
    new("convolution_without_bias", "bias-dropped", CONVOLVED,
        ("self.conv(mixed)", "functional.conv1d(mixed, self.conv.weight, groups=self.conv.groups)"),
        also=("ssm-delta-math",)),
)  # fmt: skip

GATED_NORMS = (
    new("norm_before_the_gate", "ssm-gated-norm", GATED_NORM,
        (GATED, "        x32 = x.float().unflatten(-1, (self.groups, -1))\n"),
        ("return normed.flatten(-2).to(x.dtype) * self.weight",
         "return normed.flatten(-2).to(x.dtype) * self.weight * functional.silu(gate.float())")),
    new("norm_over_the_whole_width", "ssm-gated-norm", GATED_NORM,
        (GATED, "        x32 = x.float() * functional.silu(gate.float())\n"),
        ("return normed.flatten(-2).to(x.dtype)", "return normed.to(x.dtype)")),
    new("norm_per_head", "ssm-gated-norm", GATED_NORM,
        ("GatedRMSNorm(size, self.groups,", "GatedRMSNorm(size, self.heads,")),
    new("norm_ungated", "ssm-gated-norm", GATED_NORM, ("x.float() * functional.silu(gate.float())", "x.float()")),
    new("norm_gated_by_sigmoid", "ssm-gated-norm", GATED_NORM,
        ("functional.silu(gate.float())", "torch.sigmoid(gate.float())"), also=("activation",)),
    new("gate_is_the_last_part", "split-layout", (MIXER, f"{MIXER}.in_proj", *GATED_NORM),
        ("gate, mixed, dt = self.in_proj(x).split((self.sizes[0], sum(self.sizes), self.heads), dim=-1)",
         "mixed, gate, dt = self.in_proj(x).split((sum(self.sizes), self.sizes[0], self.heads), dim=-1)"),
        also=("ssm-delta-math",)),
)  # fmt: skip

MIXERS = (
    new("relu_not_squared", "activation", EXPERTS, ("torch.relu(x).square()", "torch.relu(x)")),
    new("square_of_all", "activation", EXPERTS, ("torch.relu(x).square()", "x.square()")),
    new("silu_in_the_experts", "activation", EXPERTS, ("torch.relu(x).square()", "functional.silu(x)")),
    new("shared_expert_forgotten", "moe-combine", EXPERTS, (SHARED, "return mixed.view_as(x)")),
    new("factor_on_the_shared_expert_too", "moe-combine", EXPERTS,
        ("return shares * self.factor, chosen", "return shares, chosen"),
        (SHARED, "return (mixed.view_as(x) + self.shared_expert(x)) * self.router.factor")),
    new("factor_forgotten", "moe-combine", (*EXPERTS, *ROUTER), ("shares * self.factor, chosen", "shares, chosen"),
        also=("scalar-multipliers",)),
    new("shares_hold_the_bias", "router-selection", ROUTER,
        ("shares = scores.gather(-1, chosen)", "shares = (scores + self.correction_bias).gather(-1, chosen)")),
    new("experts_chosen_without_bias", "router-selection", ROUTER,
        ("biased = (scores + self.correction_bias).unflatten", "biased = scores.unflatten")),
    new("shares_by_softmax", "router-selection", ROUTER,
        ("torch.sigmoid(functional.linear(tokens.float(), self.weight.float()))",
         "torch.softmax(functional.linear(tokens.float(), self.weight.float()), dim=-1)"), also=("router-norm-topk",)),
    new("shares_not_renormalised", "router-norm-topk", ROUTER,
        ("        if self.normalised:\n            shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)\n", ""),
        consumer="return shares * self.factor, chosen"),
    new("shares_renormalised_always", "router-norm-topk", ROUTER,
        ("        if self.normalised:\n", "        if True:\n"),
        config={"norm_topk_prob": False}),
    new("groups_by_their_best_expert", "router-selection", ROUTER,
        ("biased.topk(2, dim=-1).values.sum(-1)", "biased.amax(-1)"), config=GROUPED),
    new("experts_added_in_latent_space", "moe-combine", EXPERTS,
        ("        mixed = self.latent_out_proj(mixed) if self.latent else mixed\n"
         "        return mixed.view_as(x) + self.shared_expert(x)",
         "        mixed = self.latent_out_proj(mixed / self.router.factor) if self.latent else mixed\n"
         "        return mixed.view_as(x) + self.shared_expert(x)"), config=SUPER),
    new("scale_of_hidden_size", "softmax-scale", MIXER, ("self.scale = config.head_dim**-0.5",
         "self.scale = (config.hidden_size // config.num_attention_heads) ** -0.5"), also=("head-dim-config",)),
    new("kv_tiled", "gqa-repeat", MIXER, *s.TILED),
    new("rope_in_attention", "nope-and-temperature", MIXER,
        ("        if cache is not None:\n            k, v = cache.append(k, v)\n",
         "        q, k = rotate(q), rotate(k)\n        if cache is not None:\n            k, v = cache.append(k, v)\n"),
        ("def scan(", 'def rotate(x: Tensor) -> Tensor:\n    """Rotate `[B, heads, T, D]`."""\n'
         "    size = x.shape[-1]\n"
         "    inv_freq = 1.0 / 10_000.0 ** (torch.arange(0, size, 2, dtype=torch.float32) / size)\n"
         "    angles = torch.arange(x.shape[2])[:, None].float() * inv_freq\n"
         "    angles = torch.cat((angles, angles), dim=-1)\n"
         "    first, second = x.chunk(2, dim=-1)\n"
         "    return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()\n\n\ndef scan(")),
    new("residual_of_the_normed", "residual-topology", (LAYER, "model.layers.[0-9].norm"),
        ("        if self.kind == \"mamba\":\n            return x + self.mixer(self.norm(x), real, cache)",
         "        if self.kind == \"mamba\":\n            x = self.norm(x)\n"
         "            return x + self.mixer(x, real, cache)")),
    new("layer_norm_eps", "norm-eps", ("model.norm_f", "model.layers.*norm"),
        (EPS,
         EPS.replace("= eps", "= 1e-6"))),
)  # fmt: skip

MUTANTS = (*SCAN, *GATED_NORMS, *MIXERS)
