"""Bugs in models/qwen3.py."""

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
    Q_NORM,
    QK_NORM,
    ROTARY,
    projection,
)

new = partial(bug, "qwen3")

UNTIED = {"tie_word_embeddings": False}
SLIDING = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 14}
NEW_STYLE = {
    "rope_theta": REMOVED,
    "rope_scaling": REMOVED,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
TURNED = (ROTARY, ATTENTION)
THETA = 'return settings.get("rope_theta", hf.get("rope_theta", 10_000.0))'

ATTENTION_BUGS: tuple[Mutant, ...] = (
    new("no_k_norm", "qknorm-missing-or-width", (K_NORM, ATTENTION), s.NO_K_NORM, consumer=s.ROTATED),
    new("no_q_or_k_norm", "qknorm-missing-or-width", (QK_NORM, ATTENTION), s.NO_Q_NORM, s.NO_K_NORM,
        consumer=s.ROTATED),
    new("k_norm_over_all_heads", "qknorm-missing-or-width", (K_NORM, ATTENTION),
        (s.K_LINE, "        k = self.k_proj(x)\n"
                   "        k = k * torch.rsqrt(k.pow(2).mean(-1, keepdim=True) + self.k_norm.eps)\n"
                   "        k = (k.view(heads) * self.k_norm.weight).transpose(1, 2)\n")),
    new("keys_take_the_q_norm", "qknorm-missing-or-width", (K_NORM, ATTENTION),
        ("self.k_norm(self.k_proj(x)", "self.q_norm(self.k_proj(x)"), also=("weights-misplaced",)),
    new("q_and_k_norm_after_rope", "qknorm-order", (QK_NORM, ATTENTION), *s.NORMS_AFTER_ROPE),
    new("k_norm_after_rope", "qknorm-order", (K_NORM, ATTENTION), s.NO_K_NORM,
        ("rotate(k, cos, sin)", "self.k_norm(rotate(k, cos, sin))")),
    new("no_scale", "softmax-scale", ATTENTION, s.NO_SCALE),
    new("scale_of_hidden_size", "softmax-scale", ATTENTION,
        ("config.head_dim**-0.5",
         "(config.hidden_size // config.num_attention_heads) ** -0.5"), also=("head-dim-config",)),
    new("scaled_twice", "softmax-scale", ATTENTION, s.SCALED_TWICE),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
    new("values_tiled", "gqa-repeat", ATTENTION, s.TILED[1]),
    new("features_before_heads", "split-layout", ATTENTION, s.FEATURES_BEFORE_HEADS),
    new("merged_without_transpose", "split-layout", ATTENTION, *s.MERGED_WITHOUT_TRANSPOSE),
    new("sees_the_future", "attention-mask", ATTENTION, s.SEES_THE_FUTURE),
    new("blind_to_itself", "attention-mask", ATTENTION, s.BLIND_TO_ITSELF),
    new("masked_scores_are_zero", "attention-mask", ATTENTION, ("torch.finfo(scores.dtype).min", "0.0")),
    new("window_one_too_long", "window-off-by-one", ATTENTION,
        ("distance < self.config", "distance <= self.config"), config=SLIDING),
    new("window_one_too_short", "window-off-by-one", ATTENTION,
        ("self.config.sliding_window)\n        return",
         "self.config.sliding_window - 1)\n        return"), config=SLIDING),
    new("one_full_layer_too_many", "window-pattern", ATTENTION,
        ('"full_attention" if layer < full', '"full_attention" if layer <= full'), config=SLIDING),
    new("first_layers_slide", "window-pattern", ATTENTION,
        ('"full_attention" if layer < full', '"full_attention" if layer >= full'), config=SLIDING),
    new("window_forgotten", "window-pattern", ATTENTION,
        (" = causal & (distance < self.config.sliding_window)", " = causal"), config=SLIDING),
)  # fmt: skip

ROPE = (
    new("rope_interleaved", "rope-pairing", TURNED, *s.INTERLEAVED),
    new("rope_backwards", "rope-pairing", ATTENTION, s.BACKWARDS),
    new("rope_half_the_features", "partial-rotary", ATTENTION, *s.HALF_ROTATED),
    new("rope_position_is_the_head", "rope-axis-or-twice", ATTENTION, s.HEAD_AS_POSITION),
    new("rope_on_keys_twice", "rope-axis-or-twice", ATTENTION, s.KEYS_TWICE),
    new("keys_one_position_ahead", "position-ids", ATTENTION, s.KEYS_ONE_AHEAD),
    new("positions_wrap", "position-ids", TURNED, s.POSITIONS_RESTART),
    new("theta_default", "rope-theta-config", TURNED, (THETA, 'return settings.get("rope_theta", 10_000.0)')),
    new("theta_read_in_the_old_place_only", "rope-theta-config", TURNED,
        (THETA, 'return hf.get("rope_theta", 10_000.0)'), config=NEW_STYLE),
    new("theta_of_qwen_1", "rope-theta-config", TURNED,
        ("RotaryEmbedding(config.head_dim, config.rope_theta)", "RotaryEmbedding(config.head_dim, 10_000.0)")),
)  # fmt: skip

LAYERS = (
    new("eps_ten_times", "norm-eps", NORMS, ("self.eps = eps", "self.eps = 1e-5")),
    new("eps_outside_the_root", "norm-eps", NORMS, s.EPS_OUTSIDE_ROOT),
    new("k_norm_eps", "norm-eps", K_NORM,
        ("self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)",
         "self.k_norm = nn.RMSNorm(config.head_dim, 1e-5)")),
    new("final_eps_default", "norm-eps", FINAL_NORM,
        ("self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)", "self.norm = nn.RMSNorm(config.hidden_size)")),
    new("offset_like_gemma", "norm-offset", NORMS, ("* self.weight", "* (1 + self.weight)")),
    new("gelu_tanh", "activation", (ACTIVATION, MLP), ("nn.SiLU()", 'nn.GELU(approximate="tanh")')),
    new("relu", "activation", (ACTIVATION, MLP), ("nn.SiLU()", "nn.ReLU()")),
    new("up_is_activated", "gate-up-order", (ACTIVATION, MLP), s.GATE_UP),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (MLP, projection("gate"), projection("up")),
        *s.GATE_UP_LOADED),
    new("normed_stream_is_kept", "residual-topology", (LAYER, INPUT_NORM), s.STREAM_NORMED),
    new("parallel", "residual-topology", (LAYER, POST_ATTENTION_NORM), *s.PARALLEL),
    new("mlp_without_norm", "residual-topology", (LAYER, POST_ATTENTION_NORM, MLP), s.MLP_READS_NO_NORM),
    new("no_final_norm", "final-norm", FINAL_NORM, s.NO_FINAL_NORM),
    new("all_layers_are_one", "layer-wiring", ("model.layers.*",),
        (s.ONE_LAYER_SHARED_OLD, "nn.ModuleList([DecoderLayer(config)] * len(config.layer_types))"),
        also=("weights-misplaced", "weights-silently-missing")),
)  # fmt: skip

LOADING = (
    new("head_left_random", "tied-head", HEAD, s.HEAD_LEFT_RANDOM, consumer="return self.lm_head(self.norm(x))"),
    new("head_tied_always", "tied-head", (HEAD, EMBEDDING), s.HEAD_TIED_ALWAYS, config=UNTIED),
    new("k_norm_name_misspelt", "weights-silently-missing", K_NORM,
        s.misspelt("model.layers.{}.self_attn.k_norm.weight")),
    new("v_name_misspelt", "weights-silently-missing", projection("v"),
        s.misspelt("model.layers.{}.self_attn.v_proj.weight")),
    new("q_and_k_norm_exchanged", "weights-misplaced", (Q_NORM, K_NORM),
        *s.exchanged('"layers.{}.attention.q_norm.weight"', '"layers.{}.attention.k_norm.weight"')),
    new("norms_exchanged", "weights-misplaced", (INPUT_NORM, POST_ATTENTION_NORM),
        *s.exchanged('"layers.{}.pre_attention_norm.weight"', '"layers.{}.pre_mlp_norm.weight"')),
    new("k_bias_dropped", "bias-dropped", (projection("k"), ATTENTION),
        ('"layers.{}.attention.k_proj.bias"', "None"),
        ("self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)",
         "self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)"), config={"attention_bias": True}),
)  # fmt: skip

MUTANTS = (*ATTENTION_BUGS, *ROPE, *LAYERS, *LOADING)
