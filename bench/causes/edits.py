"""Faults of architectures that no port of models/ implements: one of those ports, edited to be that, and wrong."""

from collections.abc import Mapping
from typing import Any

from bench.bugs.edits import Edit
from bench.bugs.mutant import Mutant, bug

EVERYWHERE = "*"

EXPERTS = '''class MLP(nn.Module):
    """Experts, of which each token takes the best few (https://arxiv.org/abs/2101.03961)."""

    def __init__(self, config: Config):
        super().__init__()
        self.per_token = config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        shares = torch.softmax(self.gate(x).float(), dim=-1)
        shares, chosen = shares.topk(self.per_token, dim=-1)
        shares = (shares / shares.sum(-1, keepdim=True)).to(x.dtype)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            share = (shares * (chosen == number)).sum(-1, keepdim=True)
            out = out + share * expert(x)
        return out


class Expert(nn.Module):'''

QWEN3_MOE: tuple[Edit, ...] = (
    ('MODEL_TYPES = ("qwen3",)', 'MODEL_TYPES = ("qwen3_moe",)'),
    *(
        (
            f'    "model.layers.{{}}.mlp.{name}_proj.weight": "layers.{{}}.mlp.{name}_proj.weight",\n',
            f'    "model.layers.{{}}.mlp.experts.{{}}.{name}_proj.weight": '
            f'"layers.{{}}.mlp.experts.{{}}.{name}_proj.weight",\n',
        )
        for name in ("gate", "up")
    ),
    (
        '    "model.layers.{}.mlp.down_proj.weight": "layers.{}.mlp.down_proj.weight",\n',
        '    "model.layers.{}.mlp.experts.{}.down_proj.weight": "layers.{}.mlp.experts.{}.down_proj.weight",\n'
        '    "model.layers.{}.mlp.gate.weight": "layers.{}.mlp.gate.weight",\n',
    ),
    (
        "    intermediate_size: int\n",
        "    intermediate_size: int\n    num_experts: int\n    num_experts_per_tok: int\n",
    ),
    (
        '            intermediate_size=hf["intermediate_size"],\n',
        '            intermediate_size=hf["moe_intermediate_size"],\n'
        '            num_experts=hf["num_experts"],\n'
        '            num_experts_per_tok=hf["num_experts_per_tok"],\n',
    ),
)
QWEN3_MOE_CONFIG: Mapping[str, Any] = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}

GRANITE: tuple[Edit, ...] = (
    ('MODEL_TYPES = ("llama",)', 'MODEL_TYPES = ("granite",)'),
    (
        "    rms_norm_eps: float\n",
        "    rms_norm_eps: float\n    embedding_multiplier: float\n    attention_multiplier: float\n"
        "    residual_multiplier: float\n    logits_scaling: float\n",
    ),
    (
        '            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),\n',
        '            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),\n'
        '            embedding_multiplier=hf["embedding_multiplier"],\n'
        '            attention_multiplier=hf["attention_multiplier"],\n'
        '            residual_multiplier=hf["residual_multiplier"],\n'
        '            logits_scaling=hf["logits_scaling"],\n',
    ),
    ("self.scale = config.head_dim**-0.5", "self.scale = config.attention_multiplier"),
    (
        "        self.mlp = MLP(config)\n\n",
        "        self.mlp = MLP(config)\n        self.multiplier = config.residual_multiplier\n\n",
    ),
    ("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids) * self.config.embedding_multiplier"),
    (
        "        x = x + self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)\n",
        "        attended = self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)\n"
        "        x = x + self.multiplier * attended\n",
    ),
    ("return self.lm_head(self.norm(x))", "return self.lm_head(self.norm(x)) / self.config.logits_scaling"),
)
GRANITE_CONFIG: Mapping[str, Any] = {
    "model_type": "granite",
    "architectures": ["GraniteForCausalLM"],
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "rope_scaling": None,
}

SMOLLM3_CONFIG: Mapping[str, Any] = {
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "num_hidden_layers": 8,
    "no_rope_layers": [1, 1, 1, 0, 1, 1, 1, 0],
    "rope_scaling": None,
}

EXAMPLES: tuple[Mutant, ...] = (
    bug(
        "qwen3",
        "router_in_low_precision",
        "router-dtype",
        EVERYWHERE,
        *QWEN3_MOE,
        ("class MLP(nn.Module):", EXPERTS.replace("self.gate(x).float()", "self.gate(x)")),
        config=QWEN3_MOE_CONFIG,
    ),
    bug("llama3", "residual_multiplier_once", "scalar-multipliers", EVERYWHERE, *GRANITE, config=GRANITE_CONFIG),
    bug(
        "llama3",
        "layers_without_rope_miscounted",
        "nope-and-temperature",
        EVERYWHERE,
        ('MODEL_TYPES = ("llama",)', 'MODEL_TYPES = ("smollm3",)'),
        (
            "            x = layer(x, cos, sin, visible,",
            "            angles = (cos, sin) if index % 4 else (torch.ones_like(cos), torch.zeros_like(sin))\n"
            "            x = layer(x, *angles, visible,",
        ),
        config=SMOLLM3_CONFIG,
    ),
    bug(
        "llama3",
        "cache_overwritten",
        "kv-cache",
        EVERYWHERE,
        (
            "            keys = torch.cat((self.keys, keys), dim=2)\n"
            "            values = torch.cat((self.values, values), dim=2)\n"
            "        self.keys, self.values = keys, values\n        return keys, values",
            "            seen = torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)\n"
            "        else:\n            seen = keys, values\n"
            "        self.keys, self.values = keys, values\n        return seen",
        ),
        ("masked_fill(~visible,", "masked_fill(~visible[..., -k.shape[2] :],"),
    ),
)
