"""Places in the references, as globs on their module names; in Hugging Face's Llama family they are the same."""

LAYER = "model.layers.[0-9]"
ATTENTION = "model.layers.*.self_attn"
MLP = "model.layers.*.mlp"
ACTIVATION = "model.layers.*.mlp.act_fn"
ROTARY = "model.rotary_emb"
EMBEDDING = "model.embed_tokens"
FINAL_NORM = "model.norm"
HEAD = "lm_head"
INPUT_NORM = "model.layers.*.input_layernorm"
POST_ATTENTION_NORM = "model.layers.*.post_attention_layernorm"
PRE_MLP_NORM = "model.layers.*.pre_feedforward_layernorm"
POST_MLP_NORM = "model.layers.*.post_feedforward_layernorm"
QK_NORM = "model.layers.*.self_attn.[qk]_norm"
Q_NORM = "model.layers.*.self_attn.q_norm"
K_NORM = "model.layers.*.self_attn.k_norm"

# Any norm of the model: a fault of the norm itself is in all of them.
NORMS = ("model.norm", "model.layers.*norm")


def projection(name: str, layer: str = "*") -> str:
    """One projection of the attention or of the MLP."""
    return f"model.layers.{layer}.{'mlp' if name in ('gate', 'up', 'down') else 'self_attn'}.{name}_proj"


# GPT-2 calls things by other names.
GPT2_LAYER = "transformer.h.[0-9]"
GPT2_ATTENTION = "transformer.h.*.attn"
GPT2_MLP = "transformer.h.*.mlp"
GPT2_ACTIVATION = "transformer.h.*.mlp.act"
GPT2_TOKENS = "transformer.wte"
GPT2_POSITIONS = "transformer.wpe"
GPT2_FINAL_NORM = "transformer.ln_f"
GPT2_NORMS = ("transformer.ln_f", "transformer.h.*.ln_[12]")
