"""Bugs in models/gpt2.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import (
    GPT2_ACTIVATION,
    GPT2_ATTENTION,
    GPT2_FINAL_NORM,
    GPT2_LAYER,
    GPT2_MLP,
    GPT2_NORMS,
    GPT2_POSITIONS,
    GPT2_TOKENS,
    HEAD,
)

new = partial(bug, "gpt2")

FIRST_NORM, SECOND_NORM = "transformer.h.*.ln_1", "transformer.h.*.ln_2"
C_ATTN, O_PROJ = "transformer.h.*.attn.c_attn", "transformer.h.*.attn.c_proj"
C_FC, DOWN = "transformer.h.*.mlp.c_fc", "transformer.h.*.mlp.c_proj"
BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}
QKV = "q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv_proj(x).chunk(3, dim=-1))"
ATTEND = "        x = x + self.attention(self.pre_attention_norm(x), visible, cache)\n"
POSITIONS = "positions = (real.cumsum(dim=1) - 1).clamp(min=0)[:, start:]"
EMBED = "x = self.embed_tokens(input_ids) + self.embed_positions(positions)"
ACTIVATE = (GPT2_ACTIVATION, GPT2_MLP)
TANH = 'nn.GELU(approximate="tanh")'

ATTENTION: tuple[Mutant, ...] = (
    new("qkv_in_another_order", "split-layout", GPT2_ATTENTION, (QKV, QKV.replace("q, k, v =", "k, q, v ="))),
    new("values_first", "split-layout", GPT2_ATTENTION, (QKV, QKV.replace("q, k, v =", "v, q, k ="))),
    new("qkv_split_per_head", "split-layout", GPT2_ATTENTION,
        (QKV, "q, k, v = self.qkv_proj(x).view(*x.shape[:2], -1, 3 * self.head_dim).transpose(1, 2).chunk(3, dim=-1)")),
    new("qkv_split_without_transpose", "split-layout", GPT2_ATTENTION,
        (QKV, QKV.replace("part.view(heads).transpose(1, 2)",
                          "part.reshape(len(x), -1, x.shape[1], self.head_dim)"))),
    new("merged_without_transpose", "split-layout", GPT2_ATTENTION, *s.MERGED_WITHOUT_TRANSPOSE),
    new("no_scale", "softmax-scale", GPT2_ATTENTION, s.NO_SCALE),
    new("scale_of_hidden_size", "softmax-scale", GPT2_ATTENTION,
        ("self.scale = self.head_dim**-0.5", "self.scale = config.hidden_size**-0.5")),
    new("scale_by_layer_forgotten", "softmax-scale", GPT2_ATTENTION,
        ("        if config.scale_attn_by_inverse_layer_idx:\n            self.scale /= index + 1\n", ""),
        consumer="scores = q @ k.transpose(2, 3) * self.scale", config=BY_LAYER),
    new("scale_by_layer_from_zero", "softmax-scale", GPT2_ATTENTION,
        ("self.scale /= index + 1", "self.scale /= max(index, 1)"), config=BY_LAYER),
    new("scaled_although_turned_off", "softmax-scale", GPT2_ATTENTION,
        (" if config.scale_attn_weights else 1.0", ""), config={"scale_attn_weights": False}),
    new("sees_the_future", "attention-mask", GPT2_ATTENTION, s.SEES_THE_FUTURE),
    new("mask_transposed", "attention-mask", GPT2_ATTENTION, s.MASK_TRANSPOSED),
    new("blind_to_itself", "attention-mask", GPT2_ATTENTION, s.BLIND_TO_ITSELF),
    new("masked_scores_are_zero", "attention-mask", GPT2_ATTENTION, ("torch.finfo(scores.dtype).min", "0.0")),
)  # fmt: skip

EMBEDDINGS = (
    new("positions_from_one", "position-ids", GPT2_POSITIONS,
        (POSITIONS, "positions = real.cumsum(dim=1)[:, start:]")),
    new("positions_from_two", "position-ids", GPT2_POSITIONS,
        (POSITIONS, "positions = (real.cumsum(dim=1) + 1)[:, start:]")),
    new("positions_backwards", "position-ids", GPT2_POSITIONS,
        (POSITIONS, "positions = real.shape[1] - real.cumsum(dim=1)[:, start:]")),
    new("no_positions", "position-ids", GPT2_POSITIONS, (EMBED, "x = self.embed_tokens(input_ids)")),
    new("embedding_scaled", "embed-scale", GPT2_TOKENS,
        (EMBED, EMBED.replace("(input_ids)", "(input_ids) * self.config.hidden_size**0.5"))),
)  # fmt: skip

LAYERS = (
    new("gelu_by_erf", "activation", ACTIVATE, (TANH, "nn.GELU()")),
    new("relu", "activation", ACTIVATE, (TANH, "nn.ReLU()")),
    new("silu", "activation", ACTIVATE, (TANH, "nn.SiLU()")),
    new("quick_gelu", "activation", ACTIVATE,
        ("return self.down_proj(self.activation(self.up_proj(x)))",
         "x = self.up_proj(x)\n        return self.down_proj(x * torch.sigmoid(1.702 * x))")),
    new("eps_of_bert", "norm-eps", GPT2_NORMS,
        ("size, eps = config.hidden_size, config.layer_norm_epsilon", "size, eps = config.hidden_size, 1e-12")),
    new("final_eps", "norm-eps", GPT2_FINAL_NORM,
        ("self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)",
         "self.norm = nn.LayerNorm(config.hidden_size, 1e-6)")),
    new("mlp_norm_eps", "norm-eps", SECOND_NORM,
        ("self.pre_mlp_norm = nn.LayerNorm(size, eps)", "self.pre_mlp_norm = nn.LayerNorm(size, 1e-6)")),
    new("normed_stream_is_kept", "residual-topology", (GPT2_LAYER, FIRST_NORM),
        (ATTEND, "        x = self.pre_attention_norm(x)\n        x = x + self.attention(x, visible, cache)\n")),
    new("parallel", "residual-topology", (GPT2_LAYER, SECOND_NORM),
        (ATTEND, "        attended = self.attention(self.pre_attention_norm(x), visible, cache)\n"),
        ("return x + self.mlp(", "return x + attended + self.mlp(")),
    new("norms_after_as_in_gpt_1", "residual-topology", (GPT2_LAYER, FIRST_NORM, SECOND_NORM, GPT2_ATTENTION),
        (ATTEND, "        x = self.pre_attention_norm(x + self.attention(x, visible, cache))\n"),
        ("return x + self.mlp(self.pre_mlp_norm(x))", "return self.pre_mlp_norm(x + self.mlp(x))")),
    new("mlp_reads_the_first_norm", "residual-topology", (GPT2_LAYER, FIRST_NORM, SECOND_NORM, GPT2_MLP),
        s.MLP_READS_FIRST_NORM),
    new("attention_without_residual", "residual-topology", GPT2_LAYER, (ATTEND, ATTEND.replace("x = x + ", "x = "))),
    new("no_final_norm", "final-norm", GPT2_FINAL_NORM, s.NO_FINAL_NORM),
    new("last_layer_left_out", "layer-wiring", (GPT2_LAYER, FIRST_NORM),
        ("enumerate(self.layers)", "enumerate(self.layers[:-1])"), consumer=s.HEAD_CALLED),
    new("all_layers_are_one", "layer-wiring", ("transformer.h.*",),
        ("nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))",
         "nn.ModuleList([DecoderLayer(config, 0)] * config.num_hidden_layers)"),
        also=("weights-misplaced", "weights-silently-missing")),
)  # fmt: skip

LOADING = (
    new("o_proj_transposed", "weight-transposed", (O_PROJ, GPT2_ATTENTION),
        ("self.o_proj(context.flatten(2))", "context.flatten(2) @ self.o_proj.weight.T + self.o_proj.bias")),
    new("o_proj_is_a_linear", "weight-transposed", (O_PROJ, GPT2_ATTENTION),
        ("self.o_proj = Projection(", "self.o_proj = nn.Linear(")),
    new("bias_never_added", "bias-dropped",
        (C_ATTN, O_PROJ, C_FC, DOWN), ("linear(x, self.weight.T, self.bias)", "linear(x, self.weight.T)")),
    new("o_bias_never_added", "bias-dropped", (O_PROJ, GPT2_ATTENTION),
        ("self.o_proj(context.flatten(2))", "context.flatten(2) @ self.o_proj.weight")),
    new("qkv_bias_not_loaded", "bias-dropped", C_ATTN, ('"h.{}.attn.c_attn.bias"', '"h.{}.attn.qkv.bias"'),
        also=("weights-silently-missing",)),
    new("norm_bias_not_loaded", "bias-dropped", SECOND_NORM, ('"h.{}.ln_2.bias"', '"h.{}.ln_2.beta"'),
        also=("weights-silently-missing",)),
    new("final_norm_bias_not_loaded", "bias-dropped", GPT2_FINAL_NORM, ('"ln_f.bias"', '"ln_f.beta"'),
        also=("weights-silently-missing",)),
    new("positions_not_loaded", "weights-silently-missing", GPT2_POSITIONS, ('"wpe.weight"', '"wpe.weights"')),
    new("up_not_loaded", "weights-silently-missing", C_FC, ('"h.{}.mlp.c_fc.weight"', '"h.{}.mlp.fc.weight"')),
    new("norms_exchanged", "weights-misplaced", (FIRST_NORM, SECOND_NORM),
        *s.exchanged('"layers.{}.pre_attention_norm.weight"', '"layers.{}.pre_mlp_norm.weight"')),
    new("norm_biases_exchanged", "weights-misplaced", (FIRST_NORM, SECOND_NORM),
        *s.exchanged('"layers.{}.pre_attention_norm.bias"', '"layers.{}.pre_mlp_norm.bias"')),
    new("final_norm_gets_another_bias", "weights-misplaced", (FIRST_NORM, SECOND_NORM, GPT2_FINAL_NORM),
        ('"h.{}.ln_2.bias": "layers.{}.pre_mlp_norm.bias"', '"h.{}.ln_2.bias": "norm.bias"'),
        ('"ln_f.bias": "norm.bias"', '"ln_f.bias": "layers.0.pre_mlp_norm.bias"'),
        also=("weights-silently-missing", "bias-dropped")),
    new("head_left_random", "tied-head", HEAD, s.HEAD_LEFT_RANDOM, consumer="return self.lm_head(self.norm(x))"),
    new("head_tied_although_not", "tied-head",
        (HEAD, GPT2_TOKENS), s.HEAD_TIED_ALWAYS, config={"tie_word_embeddings": False}),
)  # fmt: skip

MUTANTS = (*ATTENTION, *EMBEDDINGS, *LAYERS, *LOADING)
