"""Bugs in models/olmo3.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import (
    ATTENTION,
    FINAL_NORM,
    LAYER,
    MLP,
    NORMS,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    QK_NORM,
    ROTARY,
)

new = partial(bug, "olmo3")

TURNED = (ROTARY, ATTENTION)
ATTEND = "x = x + self.post_attention_norm(self.attention(x, cos, sin, visible, cache))"
MIX = "return x + self.post_mlp_norm(self.mlp(x))"
Q_LINE = "q = self.q_norm(self.q_proj(x)).view(heads).transpose(1, 2)"
K_LINE = "k = self.k_norm(self.k_proj(x)).view(heads).transpose(1, 2)"
YARN = 'return Rope(theta, _yarn(settings) if rope_type == "yarn" else None)'
SCALED = "return angles.cos() * self.scale, angles.sin() * self.scale"


def _per_head(line: str, name: str) -> str:
    """A norm of one head at a time, each with its own part of the weight."""
    return line.replace(
        f"self.{name}_norm(self.{name}_proj(x)).view(heads)",
        f"({name} := self.{name}_proj(x).view(heads)) * torch.rsqrt({name}.pow(2).mean(-1, keepdim=True)"
        f" + self.{name}_norm.eps)\n        {name} = ({name} * self.{name}_norm.weight.view(-1, self.head_dim))",
    )


MUTANTS: tuple[Mutant, ...] = (
    new("norms_before", "residual-topology", (LAYER, POST_ATTENTION_NORM, POST_MLP_NORM, ATTENTION),
        (ATTEND, "x = x + self.attention(self.post_attention_norm(x), cos, sin, visible, cache)"),
        (MIX, "return x + self.mlp(self.post_mlp_norm(x))")),
    new("norms_of_the_sums", "residual-topology", (LAYER, POST_ATTENTION_NORM, POST_MLP_NORM),
        (ATTEND, "x = self.post_attention_norm(x + self.attention(x, cos, sin, visible, cache))"),
        (MIX, "return self.post_mlp_norm(x + self.mlp(x))")),
    new("mlp_reads_the_first_stream", "residual-topology", (LAYER, POST_ATTENTION_NORM, MLP),
        (ATTEND, "first = x\n        x = x + self.post_attention_norm(self.attention(x, cos, sin, visible, cache))"),
        (MIX, "return x + self.post_mlp_norm(self.mlp(first))")),
    new("post_mlp_norm_forgotten", "residual-topology", (LAYER, POST_MLP_NORM), (MIX, "return x + self.mlp(x)")),
    new("qk_norm_per_head", "qknorm-missing-or-width", (QK_NORM, ATTENTION),
        (Q_LINE, _per_head(Q_LINE, "q")), (K_LINE, _per_head(K_LINE, "k"))),
    new("k_norm_per_head", "qknorm-missing-or-width", (QK_NORM, ATTENTION), (K_LINE, _per_head(K_LINE, "k"))),
    new("no_q_norm", "qknorm-missing-or-width", (QK_NORM, ATTENTION),
        (Q_LINE, "q = self.q_proj(x).view(heads).transpose(1, 2)")),
    new("qk_norm_after_rope", "qknorm-order", (QK_NORM, ATTENTION),
        (Q_LINE, "q = self.q_proj(x).view(heads).transpose(1, 2)"),
        (K_LINE, "k = self.k_proj(x).view(heads).transpose(1, 2)"),
        ("q, k = rotate(q, cos, sin), rotate(k, cos, sin)",
         "q, k = (rotate(each, cos, sin).transpose(1, 2).flatten(2) for each in (q, k))\n"
         "        q = self.q_norm(q).view(heads).transpose(1, 2)\n"
         "        k = self.k_norm(k).view(heads).transpose(1, 2)")),
    new("yarn_on_all_layers", "rope-layer-type", TURNED,
        ('if kind == "full_attention":\n        settings.update', "if kind:\n        settings.update")),
    new("yarn_on_no_layer", "rope-scaling-dropped", TURNED, (YARN, "return Rope(theta, None)"),
        also=("rope-layer-type",)),
    new("yarn_without_its_gain", "rope-scaling-details", TURNED, (SCALED, "return angles.cos(), angles.sin()")),
    new("yarn_ramp_backwards", "rope-scaling-details", TURNED,
        ("stretched * (1 - kept) + inv_freq * kept", "stretched * kept + inv_freq * (1 - kept)")),
    new("rope_of_full_layers_everywhere", "rope-layer-type", TURNED, ("*rotations[kind]",
        '*rotations["full_attention"]')),
    new("window_one_too_long", "window-off-by-one", ATTENTION,
        ("distance < self.config.sliding_window", "distance <= self.config.sliding_window")),
    new("window_on_all_layers", "window-pattern", ATTENTION,
        ('"full_attention": causal,', '"full_attention": causal & (distance < self.config.sliding_window),')),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
    new("norm_eps_default", "norm-eps", NORMS, ("self.eps = eps", "self.eps = 1e-5")),
    new("no_final_norm", "final-norm", FINAL_NORM, s.NO_FINAL_NORM),
)  # fmt: skip
