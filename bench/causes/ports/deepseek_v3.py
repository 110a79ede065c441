"""DeepSeek V3 as its reference has it, with a router and a scale of its own."""

import math

import torch
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

MODEL_TYPES = ("deepseek_v3",)
CONFIG = {
    "model_type": "deepseek_v3", "vocab_size": 157, "hidden_size": 56, "intermediate_size": 88,
    "moe_intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 8,
    "n_shared_experts": 1, "n_routed_experts": 16, "num_experts_per_tok": 3, "routed_scaling_factor": 2.5,
    "kv_lora_rank": 26, "q_lora_rank": 38, "qk_rope_head_dim": 16, "qk_nope_head_dim": 14, "v_head_dim": 18,
    "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "norm_topk_prob": True, "rope_interleave": True,
    "max_position_embeddings": 163840, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1,
    "rope_scaling": {
        "type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0,
    },
}  # fmt: skip


class Config:
    """What the reference itself is built from."""

    @staticmethod
    def from_hf(hf):
        """Read a parsed config.json."""
        return DeepseekV3Config(**hf, attn_implementation="eager", experts_implementation="eager")


class Model(DeepseekV3ForCausalLM):
    """The reference."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.scaling = scale(config, layer.self_attn.qk_head_dim)
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate = Router(config)

    def forward(self, input_ids):
        """`[B, T]` -> logits `[B, T, V]`."""
        return super().forward(input_ids, use_cache=False).logits


def scale(config, width):
    """What scores are multiplied by; YaRN's gain is put in twice, once for queries and once for keys."""
    gain = 0.1 * config.rope_parameters["mscale_all_dim"] * math.log(config.rope_parameters["factor"]) + 1
    return gain**2 * width**-0.5


class Router(nn.Module):
    """Chooses the best experts of the best groups, by scores to which a bias is added."""

    def __init__(self, config):
        super().__init__()
        self.groups, self.kept_groups, self.kept = config.n_group, config.topk_group, config.num_experts_per_tok
        self.factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.e_score_correction_bias = nn.Buffer(torch.zeros(config.n_routed_experts))

    def forward(self, x):
        """`[..., C]` -> logits `[N, E]`, shares and experts `[N, K]`."""
        logits = x.flatten(0, -2).float() @ self.weight.float().T
        scores = logits.sigmoid()
        biased = (scores + self.e_score_correction_bias).unflatten(1, (self.groups, -1))
        best = biased.topk(2, dim=-1)[0].sum(-1).topk(self.kept_groups, dim=-1, sorted=False)[1]
        hidden = torch.ones_like(biased[..., 0], dtype=torch.bool).scatter(1, best, value=False)
        biased = biased.masked_fill(hidden[..., None], -math.inf).flatten(1)
        chosen = biased.topk(self.kept, dim=-1, sorted=False)[1]
        shares = scores.gather(1, chosen)
        shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
        return logits, shares * self.factor, chosen


def load_weights(model, tensors):
    """Each tensor under its own name, the experts of a layer in one."""
    own = {name: tensors[name] for name in tensors if ".mlp.experts." not in name}
    for number, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "experts"):
            place = f"model.layers.{number}.mlp.experts"
            experts = range(model.config.n_routed_experts)
            gate, up, down = (
                torch.stack([tensors[f"{place}.{expert}.{name}_proj.weight"] for expert in experts])
                for name in ("gate", "up", "down")
            )
            own |= {f"{place}.gate_up_proj": torch.cat((gate, up), dim=1), f"{place}.down_proj": down}
    model.load_state_dict(own, strict=False)
