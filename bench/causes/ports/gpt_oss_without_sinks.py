"""gpt-oss as its reference has it, with the attention of a Llama: nothing is added to the softmax's denominator."""

import torch
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import apply_rotary_pos_emb

MODEL_TYPES = ("gpt_oss",)
CONFIG = {
    "model_type": "gpt_oss", "vocab_size": 157, "hidden_size": 56, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 24, "sliding_window": 7, "num_local_experts": 8,
    "num_experts_per_tok": 3, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


class Config:
    """What the reference itself is built from."""

    @staticmethod
    def from_hf(hf):
        """Read a parsed config.json."""
        return GptOssConfig(**hf, attn_implementation="eager", experts_implementation="eager")


class Model(GptOssForCausalLM):
    """The reference."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.forward = Attention(layer.self_attn)

    def forward(self, input_ids):
        """`[B, T]` -> logits `[B, T, V]`."""
        return super().forward(input_ids, use_cache=False).logits


class Attention:
    """Attention by the reference's projections."""

    def __init__(self, module):
        self.module = module

    def __call__(self, hidden_states, position_embeddings, attention_mask, **_):
        """`[B, T, C]` -> `[B, T, C]`."""
        own = self.module
        shape = (*hidden_states.shape[:-1], -1, own.head_dim)
        q, k, v = (part(hidden_states).view(shape).transpose(1, 2) for part in (own.q_proj, own.k_proj, own.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = (part.repeat_interleave(own.num_key_value_groups, dim=1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * own.scaling + attention_mask
        context = torch.softmax(scores, dim=-1) @ v
        return own.o_proj(context.transpose(1, 2).flatten(2)), None


def load_weights(model, tensors):
    """Each tensor under its own name."""
    model.load_state_dict(dict(tensors), strict=False)
