"""Bugs in models/llama3.py."""

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
    LAYER,
    MLP,
    NORMS,
    POST_ATTENTION_NORM,
    ROTARY,
    projection,
)

new = partial(bug, "llama3")

UNTIED = {"tie_word_embeddings": False}
SMALL = {
    "vocab_size": 157, "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WIDE_HEADS = {**SMALL, "head_dim": 16}  # as Mistral Nemo has them: heads * head_dim is not hidden_size
SQUARE = {**SMALL, "head_dim": 8}
NEW_STYLE = {
    "rope_theta": REMOVED,
    "rope_scaling": REMOVED,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}
TURNED = (ROTARY, ATTENTION)
BLEND = "inv_freq = (1 - kept) * inv_freq / rope.scaling.factor + kept * inv_freq"
KEPT = "kept = ((turns - low) / (high - low)).clamp(0, 1)"
FINAL = "self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)"

ROPE: tuple[Mutant, ...] = (
    new("rope_interleaved", "rope-pairing", TURNED, *s.INTERLEAVED),
    new("rope_table_interleaved", "rope-pairing", TURNED, s.INTERLEAVED_TABLE),
    new("rope_backwards", "rope-pairing", ATTENTION, s.BACKWARDS),
    new("rope_half_the_features", "partial-rotary", ATTENTION, *s.HALF_ROTATED),
    new("rope_position_is_the_head", "rope-axis-or-twice", ATTENTION, s.HEAD_AS_POSITION),
    new("rope_on_keys_twice", "rope-axis-or-twice", ATTENTION, s.KEYS_TWICE),
    new("keys_one_position_ahead", "position-ids", ATTENTION, s.KEYS_ONE_AHEAD),
    new("positions_wrap", "position-ids", TURNED, s.POSITIONS_RESTART),
    new("positions_start_late", "position-ids", TURNED, s.POSITIONS_IGNORE_FIRST),
    new("scaling_never_passed_on", "rope-scaling-dropped", TURNED,
        ('hf.get("rope_theta", 10_000.0)), scaling=scaling)',
         'hf.get("rope_theta", 10_000.0)), scaling=None)'), consumer=s.UNSCALED),
    new("scaling_read_in_the_new_place_only", "rope-scaling-dropped", TURNED,
        ('hf.get("rope_scaling") or hf.get("rope_parameters") or {}', 'hf.get("rope_parameters") or {}'),
        consumer=s.UNSCALED),
    new("scaling_computed_and_not_used", "rope-scaling-dropped", TURNED,
        (BLEND, BLEND.replace("inv_freq =", "scaled =", 1)), consumer=s.UNSCALED),
    new("scaling_factor_multiplies", "rope-scaling-details", TURNED,
        (BLEND, BLEND.replace("/ rope.scaling.factor", "* rope.scaling.factor"))),
    new("scaling_ends_exchanged", "rope-scaling-details", TURNED, (BLEND, BLEND.replace("(1 - kept)", "(kept)").replace(
        "+ kept", "+ (1 - kept)"))),
    new("scaling_not_blended", "rope-scaling-details", TURNED, (KEPT, "kept = (turns > low).to(inv_freq.dtype)")),
    new("scaling_without_two_pi", "rope-scaling-details", TURNED, ("(2 * math.pi / inv_freq)", "(1 / inv_freq)")),
    new("scaling_of_the_new_context", "rope-scaling-details", TURNED,
        ('settings.get("original_max_position_embeddings") or hf["max_position_embeddings"]',
         'hf["max_position_embeddings"]')),
    new("scaling_on_all_frequencies", "rope-scaling-details", TURNED,
        (BLEND, "inv_freq = inv_freq / rope.scaling.factor")),
    new("theta_of_llama_2", "rope-theta-config", TURNED,
        ('theta=settings.get("rope_theta", hf.get("rope_theta", 10_000.0))', "theta=10_000.0")),
    new("theta_read_in_the_new_place_only", "rope-theta-config", TURNED,
        ('settings.get("rope_theta", hf.get("rope_theta", 10_000.0))', 'settings.get("rope_theta", 10_000.0)'),
        config={"rope_scaling": None}),
    new("theta_read_in_the_old_place_only", "rope-theta-config", TURNED,
        ('settings.get("rope_theta", hf.get("rope_theta", 10_000.0))', 'hf.get("rope_theta", 10_000.0)'),
        config=NEW_STYLE),
    new("theta_exponent_not_halved", "partial-rotary", TURNED, s.EXPONENT_OF_HALF, also=("rope-theta-config",)),
)  # fmt: skip

HEADS = (
    new("head_dim_from_hidden_size", "head-dim-config", TURNED,
        ("self.head_dim = config.head_dim", "self.head_dim = config.hidden_size // config.num_attention_heads"),
        ("RotaryEmbedding(config.head_dim,", "RotaryEmbedding(config.hidden_size // config.num_attention_heads,"),
        config=WIDE_HEADS),
    new("scale_of_hidden_size", "softmax-scale", ATTENTION, ("config.head_dim**-0.5", "config.hidden_size**-0.5")),
    new("scale_of_mean_head_dim", "softmax-scale", ATTENTION,
        ("config.head_dim**-0.5", "(config.hidden_size // config.num_attention_heads) ** -0.5"),
        also=("head-dim-config",), config=WIDE_HEADS),
    new("no_scale", "softmax-scale", ATTENTION, s.NO_SCALE),
    new("divided_by_scale", "softmax-scale", ATTENTION, s.DIVIDED_BY_SCALE),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
    new("keys_tiled", "gqa-repeat", ATTENTION, s.TILED[0]),
    new("kv_heads_rolled", "gqa-repeat", ATTENTION,
        ("k = k.repeat_interleave(self.groups, dim=1)",
         "k = k[:, torch.arange(k.shape[1] * self.groups) % k.shape[1]]"),
        ("v = v.repeat_interleave(self.groups, dim=1)",
         "v = v[:, torch.arange(v.shape[1] * self.groups) % v.shape[1]]")),
    new("values_split_wrong", "split-layout", ATTENTION, s.VALUES_SPLIT_WRONG),
    new("merged_without_transpose", "split-layout", ATTENTION, *s.MERGED_WITHOUT_TRANSPOSE),
    new("sees_the_future", "attention-mask", ATTENTION, s.SEES_THE_FUTURE),
    new("mask_transposed", "attention-mask", ATTENTION, s.MASK_TRANSPOSED),
    new("blind_to_itself", "attention-mask", ATTENTION, s.BLIND_TO_ITSELF),
    new("no_mask", "attention-mask", ATTENTION,
        ("return (distance >= 0) & real[:, None, None]",
         "return real[:, None, None].expand(-1, -1, len(distance), -1)")),
    new("mask_is_added_as_one", "attention-mask", ATTENTION,
        ("scores.masked_fill(~visible, torch.finfo(scores.dtype).min)", "scores + visible")),
)  # fmt: skip

LAYERS = (
    new("eps_of_llama_2", "norm-eps", NORMS, ("self.eps = eps", "self.eps = 1e-6")),
    new("eps_outside_the_root", "norm-eps", NORMS, s.EPS_OUTSIDE_ROOT),
    new("no_eps", "norm-eps", NORMS, s.NO_EPS),
    new("eps_default", "norm-eps", FINAL_NORM, (FINAL, "self.norm = nn.RMSNorm(config.hidden_size)")),
    new("eps_of_mlp_norm", "norm-eps", POST_ATTENTION_NORM,
        ("self.pre_mlp_norm = RMSNorm(size, eps)", "self.pre_mlp_norm = RMSNorm(size, 1e-6)")),
    new("offset_like_gemma", "norm-offset", NORMS, ("* self.weight", "* (1 + self.weight)")),
    new("gelu", "activation", (ACTIVATION, MLP), ("nn.SiLU()", "nn.GELU()")),
    new("gelu_tanh", "activation", (ACTIVATION, MLP), ("nn.SiLU()", 'nn.GELU(approximate="tanh")')),
    new("sigmoid", "activation", (ACTIVATION, MLP), ("nn.SiLU()", "nn.Sigmoid()")),
    new("no_activation", "activation", (ACTIVATION, MLP), ("self.activation(self.gate_proj(x))", "self.gate_proj(x)")),
    new("up_is_activated", "gate-up-order", (ACTIVATION, MLP), s.GATE_UP),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (MLP, projection("gate"), projection("up")),
        *s.GATE_UP_LOADED),
    new("normed_stream_is_kept", "residual-topology", (LAYER, INPUT_NORM), s.STREAM_NORMED),
    new("parallel", "residual-topology", (LAYER, POST_ATTENTION_NORM), *s.PARALLEL),
    new("mlp_reads_the_first_norm", "residual-topology", (LAYER, INPUT_NORM, POST_ATTENTION_NORM, MLP),
        s.MLP_READS_FIRST_NORM),
    new("mlp_without_residual", "residual-topology", LAYER, s.MLP_NOT_ADDED),
    new("norms_after_the_sums", "residual-topology", (LAYER, INPUT_NORM, POST_ATTENTION_NORM), *s.NORMS_AFTER),
    new("no_final_norm", "final-norm", FINAL_NORM, s.NO_FINAL_NORM),
    new("last_layer_left_out", "layer-wiring",
        (LAYER, INPUT_NORM), ("enumerate(self.layers)", "enumerate(self.layers[:-1])"), consumer=s.HEAD_CALLED),
    new("all_layers_are_one", "layer-wiring", ("model.layers.*",),
        ("nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))",
         "nn.ModuleList([DecoderLayer(config)] * config.num_hidden_layers)"),
        also=("weights-misplaced", "weights-silently-missing")),
    new("embedding_scaled_like_gemma", "embed-scale", EMBEDDING,
        ("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids) * self.config.hidden_size**0.5")),
)  # fmt: skip

LOADING = (
    new("head_left_random", "tied-head", HEAD, s.HEAD_LEFT_RANDOM, consumer="return self.lm_head(self.norm(x))"),
    new("head_copied_too_early", "tied-head", HEAD, s.HEAD_COPIED_TOO_EARLY),
    new("head_tied_always", "tied-head", (HEAD, EMBEDDING), s.HEAD_TIED_ALWAYS, config=UNTIED),
    new("head_name_misspelt", "tied-head", HEAD, ('"lm_head.weight":', '"output.weight":'),
        also=("weights-silently-missing",), config=UNTIED),
    new("o_name_misspelt", "weights-silently-missing", projection("o"),
        s.misspelt("model.layers.{}.self_attn.o_proj.weight")),
    new("norm_name_misspelt", "weights-silently-missing", INPUT_NORM,
        s.misspelt("model.layers.{}.input_layernorm.weight")),
    new("up_name_misspelt", "weights-silently-missing", projection("up"),
        s.misspelt("model.layers.{}.mlp.up_proj.weight")),
    new("norms_exchanged", "weights-misplaced", (INPUT_NORM, POST_ATTENTION_NORM),
        *s.exchanged('"layers.{}.pre_attention_norm.weight"', '"layers.{}.pre_mlp_norm.weight"')),
    new("keys_and_values_exchanged", "weights-misplaced", (projection("k"), projection("v"), ATTENTION),
        *s.exchanged('"layers.{}.attention.k_proj.weight"', '"layers.{}.attention.v_proj.weight"')),
    new("o_multiplied_untransposed", "weight-transposed", (projection("o"), ATTENTION),
        ("self.o_proj(context.flatten(2))", "context.flatten(2) @ self.o_proj.weight"), config=SQUARE),
    new("q_multiplied_untransposed", "weight-transposed", (projection("q"), ATTENTION),
        ("q = self.q_proj(x).view", "q = (x @ self.q_proj.weight).view"), config=SQUARE),
    new("v_bias_dropped", "bias-dropped", (projection("v"), ATTENTION),
        ('"layers.{}.attention.v_proj.bias"', "None"),
        ("self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)",
         "self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)"), config={"attention_bias": True}),
    new("gate_bias_not_loaded", "bias-dropped", (projection("gate"), MLP),
        s.misspelt("model.layers.{}.mlp.gate_proj.bias"),
        also=("weights-silently-missing",), config={"mlp_bias": True}),
)  # fmt: skip

MUTANTS = (*ROPE, *HEADS, *LAYERS, *LOADING)
