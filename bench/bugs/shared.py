"""Edits of text that the ports in `models/` share: each is one mistake, as somebody would really make it."""

from bench.bugs.edits import Edit

# Rotary encoding: neighbours instead of halves, the other direction, the head's index as position.
INTERLEAVED: tuple[Edit, ...] = (
    ("first, second = x.chunk(2, dim=-1)", "first, second = x[..., ::2], x[..., 1::2]"),
    ("torch.cat((-second, first), dim=-1) * sin", "torch.stack((-second, first), dim=-1).flatten(-2) * sin"),
    ("torch.cat((angles, angles), dim=-1)", "angles.repeat_interleave(2, dim=-1)"),
)
INTERLEAVED_TABLE: Edit = ("torch.cat((angles, angles), dim=-1)", "angles.repeat_interleave(2, dim=-1)")
BACKWARDS: Edit = ("torch.cat((-second, first), dim=-1)", "torch.cat((second, -first), dim=-1)")
HALF_ROTATED: tuple[Edit, ...] = (
    (
        "    first, second = x.chunk(2, dim=-1)\n",
        "    x, kept = x.chunk(2, dim=-1)\n"
        "    cos, sin = cos[..., ::2], sin[..., ::2]\n"
        "    first, second = x.chunk(2, dim=-1)\n",
    ),
    (
        "return x * cos + torch.cat((-second, first), dim=-1) * sin",
        "return torch.cat((x * cos + torch.cat((-second, first), dim=-1) * sin, kept), dim=-1)",
    ),
)
HEAD_AS_POSITION: Edit = (
    "cos, sin = cos[:, None], sin[:, None]",
    "cos, sin = cos[:, : x.shape[1], None], sin[:, : x.shape[1], None]",
)
KEYS_TWICE: Edit = ("rotate(k, cos, sin)", "rotate(rotate(k, cos, sin), cos, sin)")
KEYS_ONE_AHEAD: Edit = ("rotate(k, cos, sin)", "rotate(k, cos.roll(-1, 1), sin.roll(-1, 1))")
UNSCALED = "inv_freq = 1.0 / (rope.theta**exponents)"  # what a scaling is to be applied to
EXPONENT_OF_HALF: Edit = (
    "torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim",
    "torch.arange(0, head_dim, 2, dtype=torch.float32) / (head_dim // 2)",
)
POSITIONS_RESTART: Edit = (
    "positions = torch.arange(start, real.shape[1], device=x.device)[None]",
    "positions = torch.arange(start, real.shape[1], device=x.device)[None] % 16",
)
POSITIONS_IGNORE_FIRST: Edit = (
    "positions = torch.arange(start, real.shape[1], device=x.device)[None]",
    "positions = (torch.arange(start, real.shape[1], device=x.device)[None] - 1).clamp(min=0)",
)

# Attention: sharing of heads, splitting and merging them, the mask, the scale.
TILED: tuple[Edit, ...] = (
    ("k.repeat_interleave(self.groups, dim=1)", "k.repeat(1, self.groups, 1, 1)"),
    ("v.repeat_interleave(self.groups, dim=1)", "v.repeat(1, self.groups, 1, 1)"),
)
VALUES_SPLIT_WRONG: Edit = (
    "self.v_proj(x).view(heads).transpose(1, 2)",
    "self.v_proj(x).view(x.shape[0], -1, x.shape[1], self.head_dim)",
)
MERGED_WITHOUT_TRANSPOSE: tuple[Edit, ...] = (
    ("context = (weights @ v).transpose(1, 2)", "context = (weights @ v).reshape(*x.shape[:2], -1)"),
)
FEATURES_BEFORE_HEADS: Edit = (
    "v = self.v_proj(x).view(heads).transpose(1, 2)",
    "v = self.v_proj(x).view(*x.shape[:2], self.head_dim, -1).permute(0, 3, 1, 2)",
)
SEES_THE_FUTURE: Edit = ("distance = keys[start:, None] - keys", "distance = (keys[start:, None] - keys).abs()")
MASK_TRANSPOSED: Edit = ("distance = keys[start:, None] - keys", "distance = keys - keys[start:, None]")
BLIND_TO_ITSELF: Edit = ("distance >= 0", "distance > 0")
NO_SCALE: Edit = ("scores = q @ k.transpose(2, 3) * self.scale", "scores = q @ k.transpose(2, 3)")
SCALED_TWICE: Edit = (
    "scores = q @ k.transpose(2, 3) * self.scale",
    "scores = (q * self.scale) @ k.transpose(2, 3) * self.scale",
)
DIVIDED_BY_SCALE: Edit = ("k.transpose(2, 3) * self.scale", "k.transpose(2, 3) / self.scale")

# MLP.
GATE_UP: Edit = (
    "self.activation(self.gate_proj(x)) * self.up_proj(x)",
    "self.gate_proj(x) * self.activation(self.up_proj(x))",
)
GATE_UP_LOADED: tuple[Edit, ...] = (
    ('"layers.{}.mlp.gate_proj.weight"', '"layers.{}.mlp.(gate)_proj.weight"'),
    ('"layers.{}.mlp.up_proj.weight"', '"layers.{}.mlp.gate_proj.weight"'),
    ('"layers.{}.mlp.(gate)_proj.weight"', '"layers.{}.mlp.up_proj.weight"'),
)

# Norms.
EPS_OUTSIDE_ROOT: Edit = (
    "x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)",
    "x32 / (x32.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)",
)
NO_EPS: Edit = (
    "torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)",
    "torch.rsqrt(x32.pow(2).mean(-1, keepdim=True))",
)
HEAD_CALLED = "return self.lm_head(self.norm(x))"  # takes what the last layer gives
NO_FINAL_NORM: Edit = ("self.lm_head(self.norm(x))", "self.lm_head(x)")

# Queries and keys: norms around the rotation.
Q_LINE = "        q = self.q_norm(self.q_proj(x).view(heads).transpose(1, 2))\n"
K_LINE = "        k = self.k_norm(self.k_proj(x).view(heads).transpose(1, 2))\n"
ROTATED = "q, k = rotate(q, cos, sin), rotate(k, cos, sin)"  # takes what the norms give
NO_Q_NORM: Edit = (Q_LINE, "        q = self.q_proj(x).view(heads).transpose(1, 2)\n")
NO_K_NORM: Edit = (K_LINE, "        k = self.k_proj(x).view(heads).transpose(1, 2)\n")
NORMS_AFTER_ROPE: tuple[Edit, ...] = (
    NO_Q_NORM,
    NO_K_NORM,
    (
        "q, k = rotate(q, cos, sin), rotate(k, cos, sin)",
        "q, k = self.q_norm(rotate(q, cos, sin)), self.k_norm(rotate(k, cos, sin))",
    ),
)

# The decoder layer with two norms.
ATTEND_AND_ADD = "        x = x + self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)\n"
MLP_AND_ADD = "        return x + self.mlp(self.pre_mlp_norm(x))\n"
STREAM_NORMED: Edit = (
    ATTEND_AND_ADD,
    "        x = self.pre_attention_norm(x)\n        x = x + self.attention(x, cos, sin, visible, cache)\n",
)
PARALLEL: tuple[Edit, ...] = (
    (ATTEND_AND_ADD, "        attended = self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)\n"),
    (MLP_AND_ADD, "        return x + attended + self.mlp(self.pre_mlp_norm(x))\n"),
)
MLP_READS_FIRST_NORM: Edit = ("self.mlp(self.pre_mlp_norm(x))", "self.mlp(self.pre_attention_norm(x))")
MLP_READS_NO_NORM: Edit = ("self.mlp(self.pre_mlp_norm(x))", "self.mlp(x)")
MLP_NOT_ADDED: Edit = ("return x + self.mlp(self.pre_mlp_norm(x))", "return self.mlp(self.pre_mlp_norm(x))")
NORMS_AFTER: tuple[Edit, ...] = (
    (ATTEND_AND_ADD, "        x = self.pre_attention_norm(x + self.attention(x, cos, sin, visible, cache))\n"),
    (MLP_AND_ADD, "        return self.pre_mlp_norm(x + self.mlp(x))\n"),
)

# Layers and head.
ONE_LAYER_SHARED_OLD = "nn.ModuleList(DecoderLayer(config) for _ in config.layer_types)"
HEAD_LEFT_RANDOM: Edit = (
    "        if config.tie_word_embeddings:\n            self.lm_head.weight = self.embed_tokens.weight\n",
    "",
)
HEAD_COPIED_TOO_EARLY: Edit = (
    "self.lm_head.weight = self.embed_tokens.weight",
    "self.lm_head.weight.data.copy_(self.embed_tokens.weight)",
)
HEAD_TIED_ALWAYS: Edit = (
    "        if config.tie_word_embeddings:\n            self.lm_head.weight = self.embed_tokens.weight\n",
    "        self.lm_head.weight = self.embed_tokens.weight\n",
)


def exchanged(first: str, second: str) -> tuple[Edit, ...]:
    """Two texts in each other's place."""
    return ((first, "(aside)"), (second, first), ("(aside)", second))


def misspelt(name: str) -> Edit:
    """A checkpoint name in WEIGHTS that matches no tensor."""
    return f'"{name}":', f'"{name.replace("layers", "layer").replace("norm.", "norms.")}":'
