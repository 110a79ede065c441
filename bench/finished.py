"""Ports that `python -m bench.new` begins, finished by hand: text, and what was written in its place."""

from collections.abc import Mapping

Edits = tuple[tuple[str, str], ...]

QWEN3: Edits = (
    (
        '    "model.layers.{}.post_attention_layernorm.weight": ',
        '    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attention.q_norm.weight",\n'
        '    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attention.k_norm.weight",\n'
        '    "model.layers.{}.post_attention_layernorm.weight": ',
    ),
    (
        "        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)\n",
        "        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)\n"
        "        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)\n"
        "        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)\n",
    ),
    (
        "        q = self.q_proj(x).view(heads).transpose(1, 2)\n"
        "        k = self.k_proj(x).view(heads).transpose(1, 2)\n",
        "        q = self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2)\n"
        "        k = self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2)\n",
    ),
)

SMOLLM3: Edits = (
    ("    num_hidden_layers: int\n", "    num_hidden_layers: int\n    rotated: tuple[bool, ...]\n"),
    ("            rope=_rope(hf),\n", "            rotated=_rotated(hf),\n            rope=_rope(hf),\n"),
    (
        "def _rope(hf: Mapping[str, Any]) -> Rope:\n",
        "def _rotated(hf: Mapping[str, Any]) -> tuple[bool, ...]:\n"
        '    """Which layers rotate: those with a 1 in `no_rope_layers`, by default all but each fourth."""\n'
        '    layers = range(hf["num_hidden_layers"])\n'
        '    if hf.get("no_rope_layers"):\n'
        '        return tuple(bool(hf["no_rope_layers"][layer]) for layer in layers)\n'
        '    interval = hf.get("no_rope_layer_interval", 4)\n'
        "    return tuple((layer + 1) % interval != 0 for layer in layers)\n\n\n"
        "def _rope(hf: Mapping[str, Any]) -> Rope:\n",
    ),
    (
        '    """Grouped-query attention."""\n\n    def __init__(self, config: Config):\n        super().__init__()\n',
        '    """Grouped-query attention, with rotated queries and keys or without."""\n\n'
        "    def __init__(self, config: Config, rotated: bool):\n        super().__init__()\n"
        "        self.rotated = rotated\n",
    ),
    (
        "        q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n",
        "        if self.rotated:\n            q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n",
    ),
    (
        "    def __init__(self, config: Config):\n        super().__init__()\n        size, eps =",
        "    def __init__(self, config: Config, rotated: bool):\n        super().__init__()\n        size, eps =",
    ),
    ("        self.attention = Attention(config)\n", "        self.attention = Attention(config, rotated)\n"),
    (
        "DecoderLayer(config) for _ in range(config.num_hidden_layers)",
        "DecoderLayer(config, rotated) for rotated in config.rotated",
    ),
)

OLMO3: Edits = (
    ("from collections.abc import Mapping\n", "import math\nfrom collections.abc import Mapping\n"),
    ('    "model.layers.{}.input_layernorm.weight": "layers.{}.pre_attention_norm.weight",\n', ""),
    ('    "model.layers.{}.pre_feedforward_layernorm.weight": "layers.{}.pre_mlp_norm.weight",\n', ""),
    (
        '    "model.layers.{}.post_attention_layernorm.weight": ',
        '    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attention.q_norm.weight",\n'
        '    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attention.k_norm.weight",\n'
        '    "model.layers.{}.post_attention_layernorm.weight": ',
    ),
    (
        "@dataclass(frozen=True)\nclass Rope:\n",
        "@dataclass(frozen=True)\nclass Yarn:\n"
        '    """How slow rotations are stretched, told by the turns they make within the original context."""\n\n'
        "    factor: float\n    beta_fast: float\n    beta_slow: float\n    original: int\n"
        "    attention_factor: float\n\n\n"
        "@dataclass(frozen=True)\nclass Rope:\n",
    ),
    (
        '"""One rotary position encoding: its base, and the factor by which positions are stretched."""\n\n'
        "    theta: float\n    factor: float\n",
        '"""One rotary position encoding: its base, and how it is stretched."""\n\n'
        "    theta: float\n    yarn: Yarn | None\n",
    ),
    ('    carried.pop("hidden_act", None)\n', ""),
    ('    carried.pop("rope_scaling", None)\n', ""),
    (
        'hf.get("hidden_activation") or hf.get("hidden_act") or "gelu_pytorch_tanh"\n'
        '        if activation != "gelu_pytorch_tanh":\n'
        '            raise ValueError(f"hidden_activation {activation!r} is not implemented, '
        "only 'gelu_pytorch_tanh'\")\n",
        'hf.get("hidden_act") or "silu"\n        if activation != "silu":\n'
        "            raise ValueError(f\"hidden_act {activation!r} is not implemented, only 'silu'\")\n",
    ),
    ("    query_pre_attn_scalar: float\n", ""),
    ('            query_pre_attn_scalar=hf.get("query_pre_attn_scalar", 256),\n', ""),
    ("config.query_pre_attn_scalar**-0.5", "config.head_dim**-0.5"),
    (
        "    theta_field, theta = {\n"
        '        "sliding_attention": ("rope_local_base_freq", 10_000.0),\n'
        '        "full_attention": ("rope_theta", 1_000_000.0),\n'
        "    }[kind]\n",
        "",
    ),
    ('("default", "linear")', '("default", "yarn")'),
    ("only 'default' and 'linear'", "only 'default' and 'yarn'"),
    (
        '    return Rope(\n        theta=settings.get("rope_theta", hf.get(theta_field, theta)),\n'
        '        factor=settings["factor"] if rope_type == "linear" else 1.0,\n    )\n',
        '    theta = settings.get("rope_theta", hf.get("rope_theta", 500_000.0))\n'
        '    return Rope(theta, _yarn(settings) if rope_type == "yarn" else None)\n\n\n'
        "def _yarn(settings: Mapping[str, Any]) -> Yarn:\n"
        '    """The stretch; without an attention_factor it follows from factor."""\n'
        '    factor = settings["factor"]\n'
        "    inferred = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0\n"
        "    return Yarn(\n        factor=factor,\n"
        '        beta_fast=settings.get("beta_fast") or 32.0,\n'
        '        beta_slow=settings.get("beta_slow") or 1.0,\n'
        '        original=settings["original_max_position_embeddings"],\n'
        '        attention_factor=settings.get("attention_factor") or inferred,\n    )\n',
    ),
    (
        "class ScaledEmbedding(nn.Embedding):\n"
        '    """Token embedding times sqrt(C), the factor rounded to the weight\'s dtype as in training."""\n\n'
        "    def forward(self, input_ids: Tensor) -> Tensor:\n"
        '        """`[B, T]` int64 -> `[B, T, C]`."""\n'
        "        scale = torch.tensor(self.embedding_dim**0.5).to(self.weight.dtype)\n"
        "        return super().forward(input_ids) * scale\n\n\n",
        "",
    ),
    ("ScaledEmbedding(config", "nn.Embedding(config"),
    ("scales by (1 + weight), all", "scales by weight, all"),
    ("nn.Parameter(torch.zeros(size))", "nn.Parameter(torch.ones(size))"),
    ("return (normed * (1.0 + self.weight.float())).to(x.dtype)", "return (self.weight * normed).to(x.dtype)"),
    (
        "        self.inv_freq = nn.Buffer(1.0 / (rope.theta**exponents) / rope.factor, persistent=False)\n",
        "        inv_freq = 1.0 / (rope.theta**exponents)\n        self.scale = 1.0\n"
        "        if rope.yarn is not None:\n            kept = _kept(head_dim, rope.theta, rope.yarn)\n"
        "            inv_freq = inv_freq / rope.yarn.factor * (1 - kept) + inv_freq * kept\n"
        "            self.scale = rope.yarn.attention_factor\n"
        "        self.inv_freq = nn.Buffer(inv_freq, persistent=False)\n",
    ),
    (
        'in x\'s dtype."""\n        angles = positions',
        'float32."""\n        angles = positions',
    ),
    (
        "        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)\n",
        "        return angles.cos() * self.scale, angles.sin() * self.scale\n\n\n"
        "def _kept(head_dim: int, theta: float, yarn: Yarn) -> Tensor:\n"
        '    """How much of each rotation stays as it is, `[D/2]`: 1 for the fast ones, 0 for the slow ones."""\n\n'
        "    def feature(turns: float) -> float:\n"
        "        return head_dim * math.log(yarn.original / (turns * 2 * math.pi)) / (2 * math.log(theta))\n\n"
        "    first = max(math.floor(feature(yarn.beta_fast)), 0)\n"
        "    last = min(math.ceil(feature(yarn.beta_slow)), head_dim - 1)\n"
        "    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - first) / max(last - first, 0.001)\n"
        "    return 1 - ramp.clamp(0, 1)\n",
    ),
    (
        "    return x * cos + torch.cat((-second, first), dim=-1) * sin\n",
        "    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)\n",
    ),
    (
        "        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)\n"
        "        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)\n",
        "        self.q_norm = RMSNorm(q_size, config.rms_norm_eps)\n"
        "        self.k_norm = RMSNorm(kv_size, config.rms_norm_eps)\n",
    ),
    (
        "        q = self.q_norm(self.q_proj(x).view(heads).transpose(1, 2))\n"
        "        k = self.k_norm(self.k_proj(x).view(heads).transpose(1, 2))\n",
        "        q = self.q_norm(self.q_proj(x)).view(heads).transpose(1, 2)\n"
        "        k = self.k_norm(self.k_proj(x)).view(heads).transpose(1, 2)\n",
    ),
    ('nn.GELU(approximate="tanh")', "nn.SiLU()"),
    ("down(gelu(gate(x)) * up(x))", "down(silu(gate(x)) * up(x))"),
    ("each normed before and after, each added", "each normed behind, each added"),
    ("        self.pre_attention_norm = RMSNorm(size, eps)\n", ""),
    ("        self.pre_mlp_norm = RMSNorm(size, eps)\n", ""),
    ("self.attention(self.pre_attention_norm(x), cos", "self.attention(x, cos"),
    ("self.mlp(self.pre_mlp_norm(x))", "self.mlp(x)"),
)

FINISHED: Mapping[str, Edits] = {"qwen3": QWEN3, "smollm3": SMOLLM3, "olmo3": OLMO3}
