"""Bugs in models/gemma3.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.edits import REMOVED
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import (
    ACTIVATION,
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    K_NORM,
    LAYER,
    MLP,
    NORMS,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    PRE_MLP_NORM,
    Q_NORM,
    QK_NORM,
    ROTARY,
    projection,
)

new = partial(bug, "gemma3")

CAPPED = {"final_logit_softcapping": 30.0}
STRETCHED = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
UNTIED = {"tie_word_embeddings": False}
BIASED = {"attention_bias": True}
# As newer releases write it: nothing but rope_parameters.
NEW_STYLE = {
    "rope_theta": REMOVED,
    "rope_local_base_freq": REMOVED,
    "rope_scaling": REMOVED,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 500_000.0},
    },
}
TURNED = (ROTARY, ATTENTION)
SKETCH = "q = self.q_norm(self.q_proj(x).view(heads).transpose(1, 2))"
ATTENDED = "attended = self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)"
ADD_ATTENDED = "        x = x + self.post_attention_norm(attended)\n"
ADD_MLP = "return x + self.post_mlp_norm(self.mlp(self.pre_mlp_norm(x)))"
VISIBLE = 'return {"full_attention": causal, "sliding_attention": causal & (distance < self.config.sliding_window)}'
SCORES = "        scores = q @ k.transpose(2, 3) * self.scale\n"
CAP_LINE = "return logits if cap is None else torch.tanh(logits / cap) * cap"
LAYER_NORMS = (INPUT_NORM, POST_ATTENTION_NORM, PRE_MLP_NORM, POST_MLP_NORM)

EMBEDDINGS: tuple[Mutant, ...] = (
    new("embedding_unscaled", "embed-scale", EMBEDDING, ("ScaledEmbedding(config", "nn.Embedding(config"),
        consumer="x = self.embed_tokens(input_ids)"),
    new("embedding_scaled_down", "embed-scale", EMBEDDING, ("self.embedding_dim**0.5", "self.embedding_dim**-0.5")),
    new("embedding_scaled_by_vocabulary", "embed-scale", EMBEDDING,
        ("self.embedding_dim**0.5", "self.num_embeddings**0.5")),
    new("embedding_scaled_twice", "embed-scale", EMBEDDING,
        ("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids) * self.config.hidden_size**0.5")),
)  # fmt: skip

MASKS = (
    new("window_one_too_long", "window-off-by-one", ATTENTION, ("distance < self", "distance <= self")),
    new("window_one_too_short", "window-off-by-one", ATTENTION,
        ("self.config.sliding_window)}", "self.config.sliding_window - 1)}")),
    new("window_forgotten", "window-pattern", ATTENTION,
        (' "sliding_attention": causal & (distance < self.config.sliding_window)}', ' "sliding_attention": causal}'),
        consumer="x = layer(x, *rotations[kind], visible[kind]"),
    new("window_everywhere", "window-pattern", ATTENTION,
        (VISIBLE, "near = causal & (distance < self.config.sliding_window)\n"
                  '        return {"full_attention": near, "sliding_attention": near}')),
    new("window_on_the_wrong_layers", "window-pattern", ATTENTION,
        *s.exchanged('"full_attention": causal', '"sliding_attention": causal')),
    new("pattern_counts_from_zero", "window-pattern", (ATTENTION, ROTARY),
        ('range(1, hf["num_hidden_layers"] + 1)', 'range(hf["num_hidden_layers"])'),
        also=("rope-layer-type",), config={"layer_types": REMOVED}),
    new("sees_the_future", "attention-mask", ATTENTION, s.SEES_THE_FUTURE),
    new("mask_transposed", "attention-mask", ATTENTION, s.MASK_TRANSPOSED),
    new("blind_to_itself", "attention-mask", ATTENTION, s.BLIND_TO_ITSELF),
    new("masked_scores_are_zero", "attention-mask", ATTENTION, ("torch.finfo(scores.dtype).min", "0.0")),
    new("mask_after_softmax", "attention-mask", ATTENTION,
        ("        scores = scores.masked_fill(~visible[..., -k.shape[2] :], torch.finfo(scores.dtype).min)\n", ""),
        ("dim=-1, dtype=torch.float32).to(q.dtype)",
         "dim=-1, dtype=torch.float32).to(q.dtype) * visible[..., -k.shape[2] :]")),
)  # fmt: skip

ROPE = (
    new("rope_interleaved", "rope-pairing", TURNED, *s.INTERLEAVED),
    new("rope_table_interleaved", "rope-pairing", TURNED, s.INTERLEAVED_TABLE),
    new("rope_backwards", "rope-pairing", ATTENTION, s.BACKWARDS),
    new("rope_half_the_features", "partial-rotary", ATTENTION, *s.HALF_ROTATED),
    new("rope_exponent_of_half", "partial-rotary", TURNED, s.EXPONENT_OF_HALF, also=("rope-theta-config",)),
    new("rope_position_is_the_head", "rope-axis-or-twice", ATTENTION, s.HEAD_AS_POSITION),
    new("rope_on_keys_twice", "rope-axis-or-twice", ATTENTION, s.KEYS_TWICE),
    new("keys_one_position_ahead", "position-ids", ATTENTION, s.KEYS_ONE_AHEAD),
    new("positions_wrap", "position-ids", TURNED, s.POSITIONS_RESTART),
    new("positions_start_late", "position-ids", TURNED, s.POSITIONS_IGNORE_FIRST),
    new("factor_forgotten", "rope-scaling-dropped", TURNED,
        (" / rope.factor, persistent", ", persistent"), also=("rope-layer-type",), config=STRETCHED),
    new("rope_scaling_never_read", "rope-scaling-dropped", TURNED,
        ('settings["factor"] if rope_type == "linear" else 1.0', "1.0"), also=("rope-layer-type",), config=STRETCHED,
        consumer="self.inv_freq = nn.Buffer("),
    new("factor_on_all_layers", "rope-layer-type", TURNED,
        ('if kind == "full_attention":', "if True:"), config=STRETCHED),
    new("factor_multiplies", "rope-scaling-details", TURNED, ("/ rope.factor", "* rope.factor"), config=STRETCHED),
    new("factor_on_theta", "rope-scaling-details", TURNED,
        ("(rope.theta**exponents) / rope.factor", "((rope.theta * rope.factor) ** exponents)"),
        also=("rope-theta-config",), config=STRETCHED),
    new("global_rope_everywhere", "rope-layer-type", TURNED,
        ("layer(x, *rotations[kind]", 'layer(x, *rotations["full_attention"]')),
    new("local_rope_everywhere", "rope-layer-type", TURNED,
        ("layer(x, *rotations[kind]", 'layer(x, *rotations["sliding_attention"]')),
    new("rope_bases_exchanged", "rope-layer-type", TURNED,
        *s.exchanged('"sliding_attention": ("rope', '"full_attention": ("rope')),
    new("rope_theta_misspelt", "rope-theta-config", TURNED,
        ('("rope_theta", 1_000_000.0)', '("rope_base", 1_000_000.0)'), config={"rope_theta": 500_000.0}),
    new("rope_local_theta_misspelt", "rope-theta-config", TURNED,
        ('("rope_local_base_freq", 10_000.0)', '("rope_local_theta", 10_000.0)'),
        also=("rope-layer-type",), config={"rope_local_base_freq": 25_000.0}),
    new("rope_parameters_not_read", "rope-theta-config", TURNED,
        ('settings.get("rope_theta", hf.get(theta_field, theta))', "hf.get(theta_field, theta)"),
        also=("rope-layer-type",), config=NEW_STYLE),
)  # fmt: skip

HEADS = (
    new("scale_of_head_dim", "softmax-scale", ATTENTION,
        ("config.query_pre_attn_scalar**-0.5", "config.head_dim**-0.5")),
    new("no_scale", "softmax-scale", ATTENTION, s.NO_SCALE),
    new("scale_without_root", "softmax-scale", ATTENTION,
        ("config.query_pre_attn_scalar**-0.5", "1 / config.query_pre_attn_scalar")),
    new("scaled_twice", "softmax-scale", ATTENTION, s.SCALED_TWICE),
    new("scores_capped", "softcap", ATTENTION,
        (SCORES, f"{SCORES}        scores = torch.tanh(scores / 5.0) * 5.0\n")),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
    new("values_tiled", "gqa-repeat", ATTENTION, s.TILED[1]),
    new("values_split_wrong", "split-layout", ATTENTION, s.VALUES_SPLIT_WRONG),
    new("merged_without_transpose", "split-layout", ATTENTION, *s.MERGED_WITHOUT_TRANSPOSE),
    new("features_before_heads", "split-layout", ATTENTION, s.FEATURES_BEFORE_HEADS),
    new("no_q_norm", "qknorm-missing-or-width", (Q_NORM, ATTENTION), s.NO_Q_NORM, consumer=s.ROTATED),
    new("no_q_or_k_norm", "qknorm-missing-or-width", (QK_NORM, ATTENTION), s.NO_Q_NORM, s.NO_K_NORM,
        consumer=s.ROTATED),
    new("q_norm_over_all_heads", "qknorm-missing-or-width", (Q_NORM, ATTENTION),
        (SKETCH, "q = self.q_proj(x)\n"
                 "        q = q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + self.q_norm.eps)\n"
                 "        q = (q.view(heads) * (1 + self.q_norm.weight)).transpose(1, 2)")),
    new("keys_take_the_q_norm", "qknorm-missing-or-width", (K_NORM, ATTENTION),
        ("self.k_norm(self.k_proj(x)", "self.q_norm(self.k_proj(x)"), also=("weights-misplaced",)),
    new("q_and_k_norm_after_rope", "qknorm-order", (QK_NORM, ATTENTION), *s.NORMS_AFTER_ROPE),
)  # fmt: skip

NORM_BUGS = (
    new("eps_ten_times", "norm-eps", NORMS, ("self.eps = eps", "self.eps = 1e-5")),
    new("eps_outside_the_root", "norm-eps", NORMS, s.EPS_OUTSIDE_ROOT),
    new("no_eps", "norm-eps", NORMS, s.NO_EPS),
    new("final_eps", "norm-eps", FINAL_NORM,
        ("self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)",
         "self.norm = RMSNorm(config.hidden_size, 1e-5)")),
    new("layer_eps", "norm-eps", LAYER_NORMS,
        ("size, eps = config.hidden_size, config.rms_norm_eps", "size, eps = config.hidden_size, 1e-5")),
    new("q_norm_eps", "norm-eps", Q_NORM,
        ("self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)",
         "self.q_norm = RMSNorm(config.head_dim, 1e-5)")),
    new("no_offset", "norm-offset", NORMS, ("normed * (1.0 + self.weight.float())", "normed * self.weight.float()")),
    new("offset_twice", "norm-offset", NORMS, ("1.0 + self.weight.float()", "2.0 + self.weight.float()")),
    new("final_norm_without_offset", "norm-offset", FINAL_NORM, ("self.norm = RMSNorm(", "self.norm = nn.RMSNorm(")),
    new("q_norm_without_offset", "norm-offset", Q_NORM, ("self.q_norm = RMSNorm(", "self.q_norm = nn.RMSNorm(")),
    new("no_final_norm", "final-norm", FINAL_NORM, s.NO_FINAL_NORM),
)  # fmt: skip

LAYERS = (
    new("gelu_by_erf", "activation", (ACTIVATION, MLP), ('nn.GELU(approximate="tanh")', "nn.GELU()")),
    new("silu", "activation", (ACTIVATION, MLP), ('nn.GELU(approximate="tanh")', "nn.SiLU()")),
    new("relu", "activation", (ACTIVATION, MLP), ('nn.GELU(approximate="tanh")', "nn.ReLU()")),
    new("up_is_activated", "gate-up-order", (ACTIVATION, MLP), s.GATE_UP),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (MLP, projection("gate"), projection("up")),
        *s.GATE_UP_LOADED),
    new("normed_stream_is_kept", "residual-topology", (LAYER, INPUT_NORM),
        (f"        {ATTENDED}\n",
         "        x = self.pre_attention_norm(x)\n        attended = self.attention(x, cos, sin, visible, cache)\n")),
    new("parallel", "residual-topology", (LAYER, PRE_MLP_NORM),
        (ADD_ATTENDED, "        attended = self.post_attention_norm(attended)\n"),
        (ADD_MLP, "return x + attended + self.post_mlp_norm(self.mlp(self.pre_mlp_norm(x)))")),
    new("norm_after_the_sum", "residual-topology", (LAYER, POST_ATTENTION_NORM),
        ("x + self.post_attention_norm(attended)", "self.post_attention_norm(x + attended)")),
    new("no_post_attention_norm", "residual-topology", (LAYER, POST_ATTENTION_NORM),
        ("x + self.post_attention_norm(attended)", "x + attended")),
    new("no_post_mlp_norm", "residual-topology", (LAYER, POST_MLP_NORM),
        (ADD_MLP, "return x + self.mlp(self.pre_mlp_norm(x))")),
    new("mlp_reads_the_wrong_norm", "residual-topology", (LAYER, PRE_MLP_NORM, POST_ATTENTION_NORM),
        (ADD_MLP, "return x + self.post_mlp_norm(self.mlp(self.post_attention_norm(x)))")),
    new("mlp_without_residual", "residual-topology", LAYER,
        (ADD_MLP, "return self.post_mlp_norm(self.mlp(self.pre_mlp_norm(x)))")),
    new("last_layer_left_out", "layer-wiring", (LAYER, INPUT_NORM),
        ("zip(self.config.layer_types, self.layers, strict=True)",
         "zip(self.config.layer_types[:-1], self.layers, strict=False)"),
        consumer="logits = self.lm_head(self.norm(x))"),
    new("all_layers_are_one", "layer-wiring", ("model.layers.*",),
        (s.ONE_LAYER_SHARED_OLD, "nn.ModuleList([DecoderLayer(config)] * len(config.layer_types))"),
        also=("weights-misplaced", "weights-silently-missing")),
)  # fmt: skip

LOADING = (
    new("cap_forgotten", "softcap", HEAD, (CAP_LINE, "return logits"), config=CAPPED),
    new("cap_without_tanh", "softcap", HEAD, (CAP_LINE, "return logits if cap is None else logits.clamp(-cap, cap)"),
        config={"final_logit_softcapping": 1.5}),
    new("cap_not_multiplied", "softcap", HEAD,
        (CAP_LINE, "return logits if cap is None else torch.tanh(logits / cap) * logits"), config=CAPPED),
    new("head_left_random", "tied-head", HEAD, s.HEAD_LEFT_RANDOM, consumer="logits = self.lm_head(self.norm(x))"),
    new("head_copied_too_early", "tied-head", HEAD, s.HEAD_COPIED_TOO_EARLY),
    new("head_tied_always", "tied-head", (HEAD, EMBEDDING), s.HEAD_TIED_ALWAYS, config=UNTIED),
    new("q_norm_name_misspelt", "weights-silently-missing", Q_NORM,
        s.misspelt("model.layers.{}.self_attn.q_norm.weight")),
    new("down_name_misspelt", "weights-silently-missing", projection("down"),
        s.misspelt("model.layers.{}.mlp.down_proj.weight")),
    new("final_norm_name_misspelt", "weights-silently-missing", FINAL_NORM, s.misspelt("model.norm.weight")),
    new("q_and_k_norm_exchanged", "weights-misplaced", QK_NORM,
        *s.exchanged('"layers.{}.attention.q_norm.weight"', '"layers.{}.attention.k_norm.weight"')),
    new("post_norms_exchanged", "weights-misplaced", (POST_ATTENTION_NORM, POST_MLP_NORM),
        *s.exchanged('"layers.{}.post_attention_norm.weight"', '"layers.{}.post_mlp_norm.weight"')),
    new("llama_names_for_norms", "weights-misplaced", (POST_ATTENTION_NORM, PRE_MLP_NORM),
        *s.exchanged('"layers.{}.post_attention_norm.weight"', '"layers.{}.pre_mlp_norm.weight"')),
    new("keys_and_values_exchanged", "weights-misplaced", (projection("k"), projection("v"), ATTENTION),
        *s.exchanged('"layers.{}.attention.k_proj.weight"', '"layers.{}.attention.v_proj.weight"')),
    new("o_bias_dropped", "bias-dropped", (projection("o"), ATTENTION),
        ('"layers.{}.attention.o_proj.bias"', "None"),
        ("self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)",
         "self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)"), config=BIASED),
    new("q_bias_not_loaded", "bias-dropped", (projection("q"), ATTENTION),
        s.misspelt("model.layers.{}.self_attn.q_proj.bias"), also=("weights-silently-missing",), config=BIASED),
)  # fmt: skip

MUTANTS = (*EMBEDDINGS, *MASKS, *ROPE, *HEADS, *NORM_BUGS, *LAYERS, *LOADING)
