"""Bugs in fixtures/rewrites/qwen3_split.py: a module for every step, one projection per head, YaRN."""

from functools import partial

from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import (
    ACTIVATION,
    ATTENTION,
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

new = partial(bug, "qwen3_split")

UNTIED = {"tie_word_embeddings": False}
BIASED = {"attention_bias": True}
# A context that puts both ends of the ramp inside the small head_dim.
YARN = {
    "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32, "beta_slow": 1,
    }
}  # fmt: skip
TURNED = (ROTARY, ATTENTION)
FORWARD = (MLP, ACTIVATION)
PAIRS = "left, right = x.chunk(2, dim=-1)"
KEYS = "keys = [self.rotate(self.k_norm(key(x)), cos, sin) for key in self.keys]"
QUERY = "q = self.rotate(self.q_norm(query(x)), cos, sin)"
GAIN = "0.1 * math.log(config.yarn.factor) + 1.0"
STRETCH = "return plain / yarn.factor * slow + plain * (1 - slow)"
BLOCK = "        h = self.norm1(x)\n        x = self.add1(x, self.attention(h, cos, sin))\n"

ROPE: tuple[Mutant, ...] = (
    new("rope_interleaved", "rope-pairing", TURNED, (PAIRS, "left, right = x[..., ::2], x[..., 1::2]"),
        ("torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)",
         "torch.stack((left * cos - right * sin, right * cos + left * sin), dim=-1).flatten(-2)")),
    new("rope_sign", "rope-pairing", ATTENTION,
        ("left * cos - right * sin, right * cos + left * sin", "left * cos + right * sin, right * cos - left * sin")),
    new("yarn_forgotten", "rope-scaling-dropped", TURNED, ("yarn = Yarn(scaling", "Yarn(scaling"), config=YARN),
    new("yarn_frequencies_only", "rope-scaling-details", TURNED,
        ("self.gain = " + GAIN + " if config.yarn is not None else 1.0", "self.gain = 1.0"), config=YARN),
    new("yarn_gain_squared", "rope-scaling-details", TURNED, (GAIN, f"({GAIN}) ** 2"), config=YARN),
    new("yarn_gain_only", "rope-scaling-details", TURNED, (STRETCH, "return plain"),
        also=("rope-scaling-dropped",), config=YARN),
    new("yarn_ramp_reversed", "rope-scaling-details", TURNED,
        (STRETCH, "return plain / yarn.factor * (1 - slow) + plain * slow"), config=YARN),
    new("yarn_range_not_rounded", "rope-scaling-details", TURNED,
        ("math.floor(self.turning(config, yarn, yarn.fast))", "self.turning(config, yarn, yarn.fast)"),
        ("math.ceil(self.turning(config, yarn, yarn.slow))", "self.turning(config, yarn, yarn.slow)"), config=YARN),
    new("yarn_of_the_new_context", "rope-scaling-details", TURNED,
        ('context = scaling["original_max_position_embeddings"]', 'context = hf["max_position_embeddings"]'),
        config={"rope_scaling": {**YARN["rope_scaling"], "original_max_position_embeddings": 8192}}),
    new("theta_of_qwen_1", "rope-theta-config", TURNED, ('theta=hf["rope_theta"]', "theta=10_000.0")),
    new("rope_on_keys_twice", "rope-axis-or-twice", ATTENTION,
        (KEYS, "keys = [self.rotate(self.k_norm(key(x)), cos, sin) for key in self.keys]\n"
               "        keys = [self.rotate(key, cos, sin) for key in keys]")),
    new("positions_restart", "position-ids", TURNED,
        ("angles = self.frequencies(positions)", "angles = self.frequencies(positions % 32)")),
    new("keys_one_position_ahead", "position-ids", ATTENTION,
        (KEYS, KEYS.replace("cos, sin)", "cos.roll(-1, 0), sin.roll(-1, 0))"))),
    new("rope_half_the_features", "partial-rotary", ATTENTION,
        (PAIRS, "x, kept = x.chunk(2, dim=-1)\n        left, right = x.chunk(2, dim=-1)\n"
                "        cos, sin = cos[..., ::2], sin[..., ::2]"),
        ("right * cos + left * sin), dim=-1)", "right * cos + left * sin, kept), dim=-1)")),
)  # fmt: skip

ATTENTION_BUGS = (
    new("heads_dealt_out", "gqa-repeat", ATTENTION, ("shared = head // self.group", "shared = head % len(self.keys)")),
    new("values_dealt_out", "gqa-repeat", ATTENTION, ("@ values[shared])", "@ values[head % len(values)])")),
    new("no_q_norm", "qknorm-missing-or-width", (Q_NORM, ATTENTION), (QUERY, "q = self.rotate(query(x), cos, sin)")),
    new("no_k_norm", "qknorm-missing-or-width",
        (K_NORM, ATTENTION), (KEYS, KEYS.replace("self.k_norm(key(x))", "key(x)"))),
    new("q_and_k_norm_after_rope", "qknorm-order", (QK_NORM, ATTENTION),
        (QUERY, "q = self.q_norm(self.rotate(query(x), cos, sin))"),
        (KEYS, "keys = [self.k_norm(self.rotate(key(x), cos, sin)) for key in self.keys]")),
    new("unweighted_q_norm", "qknorm-missing-or-width", (Q_NORM, ATTENTION),
        ("self.q_norm(query(x))", "self.q_norm[0](query(x))")),
    new("no_scale", "softmax-scale", ATTENTION, ("scores = q @ k.mT * self.scale", "scores = q @ k.mT")),
    new("scale_of_two_heads", "softmax-scale", ATTENTION,
        ("self.scale = head_dim**-0.5", "self.scale = (2 * head_dim) ** -0.5")),
    new("no_mask", "attention-mask", ATTENTION, ("        scores = self.mask(scores)\n", ""),
        consumer="return self.softmax(scores)"),
    new("mask_hides_the_past", "attention-mask", ATTENTION, (".triu(1)", ".tril(-1)")),
    new("mask_is_one_too_wide", "attention-mask", ATTENTION, (".triu(1)", ".triu(2)")),
)  # fmt: skip

REST = (
    new("eps_ten_times", "norm-eps", NORMS, ('eps=hf["rms_norm_eps"]', "eps=1e-5")),
    new("no_eps", "norm-eps", NORMS, (".mean(-1, keepdim=True) + self.eps)", ".mean(-1, keepdim=True))")),
    new("final_eps", "norm-eps", FINAL_NORM,
        ("self.norm = rms_norm(config.width, config.eps)", "self.norm = rms_norm(config.width, 1e-5)")),
    new("offset_like_gemma", "norm-offset", NORMS, ("return self.weight * x", "return (1 + self.weight) * x")),
    new("gelu", "activation", FORWARD, ("self.act = nn.SiLU()", "self.act = nn.GELU()")),
    new("mish", "activation", FORWARD, ("self.act = nn.SiLU()", "self.act = nn.Mish()")),
    new("up_is_activated", "gate-up-order", FORWARD,
        ("gate = self.act(self.gate(x))", "gate = self.gate(x)"), ("up = self.up(x)", "up = self.act(self.up(x))")),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (MLP, projection("gate"), projection("up")),
        ('state[f"{new}.mlp.{part}.weight"] =',
         'state[f"{new}.mlp.{dict(gate=\'up\', up=\'gate\').get(part, part)}.weight"] =')),
    new("normed_stream_is_kept", "residual-topology", (LAYER, INPUT_NORM),
        (BLOCK, BLOCK.replace("h = self.norm1(x)", "x = h = self.norm1(x)"))),
    new("mlp_reads_attention_input", "residual-topology", (LAYER, POST_ATTENTION_NORM, MLP),
        ("        h = self.norm2(x)\n", ""), consumer="return self.add2(x, self.mlp(h))"),
    new("second_sum_forgotten", "residual-topology", LAYER, ("return self.add2(x, self.mlp(h))", "return self.mlp(h)")),
    new("updates_doubled", "residual-topology", LAYER, ("return stream + update", "return stream + 2 * update"),
        also=("scalar-multipliers",)),
    new("no_final_norm", "final-norm", FINAL_NORM, ("        x = self.norm(x)\n        return", "        return"),
        consumer="return self.head(x)"),
    new("last_layer_left_out", "layer-wiring", (LAYER, INPUT_NORM), ("in self.blocks:", "in self.blocks[:-1]:"),
        consumer="x = self.norm(x)"),
    new("head_is_the_embedding", "tied-head", HEAD,
        ('state["tokens.weight"] if config.tied else tensors["lm_head.weight"]', 'state["tokens.weight"]'),
        config=UNTIED),
    new("head_untied_and_random", "tied-head", HEAD,
        ("        if config.tied:\n            self.head.weight = self.tokens.weight\n", ""),
        ('state["head.weight"] = state["tokens.weight"] if config.tied else tensors["lm_head.weight"]',
         'state["head.weight"] = model.head.weight if config.tied else tensors["lm_head.weight"]')),
    new("norms_exchanged", "weights-misplaced", (INPUT_NORM, POST_ATTENTION_NORM),
        ("{new}.norm1.1.weight", "{new}.(norm)"), ("{new}.norm2.1.weight", "{new}.norm1.1.weight"),
        ("{new}.(norm)", "{new}.norm2.1.weight")),
    new("key_heads_exchanged", "weights-misplaced", (projection("k"), ATTENTION),
        ("enumerate(rows.split(config.head_dim)):",
         'enumerate(rows.split(config.head_dim)[:: -1 if theirs == "k" else 1]):'),
        also=("gqa-repeat", "split-layout")),
    new("last_head_not_loaded", "weights-silently-missing", (projection("q"), ATTENTION),
        ("in enumerate(rows.split(config.head_dim)):",
         "in enumerate(rows.split(config.head_dim)[: config.heads - 1]):"),
        ("model.load_state_dict(state)", "model.load_state_dict(state, strict=False)")),
    new("norm_names_wrong_and_not_strict", "weights-silently-missing", QK_NORM,
        ("attention.q_norm.1.weight",
         "attention.q_norm.weight"), ("attention.k_norm.1.weight", "attention.k_norm.weight"),
        ("model.load_state_dict(state)", "model.load_state_dict(state, strict=False)")),
    new("biases_not_loaded", "bias-dropped", ("model.layers.*.self_attn.[qkvo]_proj", ATTENTION),
        ('for kind in ("weight", "bias") if config.bias else ("weight",):', 'for kind in ("weight",):'),
        ("model.load_state_dict(state)", "model.load_state_dict(state, strict=False)"),
        also=("weights-silently-missing",), config=BIASED),
    new("value_bias_missing", "bias-dropped", (projection("v"), ATTENTION),
        ("self.values = nn.ModuleList(nn.Linear(config.width, size, bias=config.bias)",
         "self.values = nn.ModuleList(nn.Linear(config.width, size, bias=False)"),
        ("model.load_state_dict(state)", "model.load_state_dict(state, strict=False)"), config=BIASED),
)  # fmt: skip

MUTANTS = (*ROPE, *ATTENTION_BUGS, *REST)
