"""Bugs in models/gemma4.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import (
    ACTIVATION,
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LAYER,
    MLP,
    NORMS,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    QK_NORM,
    ROTARY,
)

new = partial(bug, "gemma4")

SMALL = "gemma-4-e2b.json"  # embeddings per layer, keys and values shared between layers
SPARSE = "gemma-4-26b-a4b.json"  # experts beside the MLP
TURNED = (ROTARY, ATTENTION)
V_NORM = ("model.layers.*.self_attn.v_norm", ATTENTION)
PER_LAYER = (
    "model.per_layer*",
    "model.embed_tokens_per_layer",
    "model.layers.*.per_layer*",
    "model.layers.*.post_per_layer_input_norm",
    "model.layers.*.act_fn",
    LAYER,
)
EXPERTS = ("model.layers.*.experts", "model.layers.*.experts.act_fn")
ROUTER = ("model.layers.*.router", "model.layers.*.router.*")

KEYS = "k = self.k_proj(x).view(heads).transpose(1, 2)"
VALUES = "v = k if self.v_proj is None else self.v_proj(x).view(heads).transpose(1, 2)"
BOTH = "return rotate(self.k_norm(k), cos, sin), self.v_norm(v)"
SCORES = "scores = q @ k.transpose(2, 3)  # unscaled: the norms' weights have learnt the scale"
OWN = "self.embed_tokens = ScaledEmbedding(config.vocab_size_per_layer_input, layers * size, size**0.5)"
PROJECTED = "(self.projection(x) * x.shape[-1] ** -0.5)"
COMBINED = "return (self.norm(projected) + own) * 2.0**-0.5"
CAP_LINE = "return logits if cap is None else torch.tanh(logits / cap) * cap"
PUT = "            shared[self.kind] = (k, v) if cache is None else cache.append(k, v)\n"
RATIO = "inv_freq[int(rope.share * head_dim // 2) :] = 0.0"
MIXED = "mixed = self.post_dense_norm(mixed) + self.post_experts_norm(self._mix_experts(x))"
TOKENS = "tokens = self.norm(tokens) * self.scale * tokens.shape[-1] ** -0.5"
SHARES = "return shares / shares.sum(-1, keepdim=True) * self.expert_scale[chosen], chosen"

VALUE_BUGS: tuple[Mutant, ...] = (
    new("values_take_normed_keys", "layer-wiring", V_NORM,
        (KEYS, "k = self.k_norm(self.k_proj(x).view(heads).transpose(1, 2))"),
        (BOTH, "return rotate(k, cos, sin), self.v_norm(v)"), also=("qknorm-order", "residual-topology")),
    new("values_take_rotated_keys", "layer-wiring", V_NORM,
        (VALUES, "k = rotate(self.k_norm(k), cos, sin)\n        "
                 "v = k if self.v_proj is None else self.v_proj(x).view(heads).transpose(1, 2)"),
        (BOTH, "return k, self.v_norm(v)"),
        also=("qknorm-order", "residual-topology", "rope-axis-or-twice", "nope-and-temperature")),
    new("no_v_norm", "qknorm-missing-or-width", V_NORM, (BOTH, "return rotate(self.k_norm(k), cos, sin), v"),
        also=("residual-topology", "layer-wiring")),
    new("v_norm_over_all_heads", "qknorm-missing-or-width", V_NORM,
        (BOTH, "return rotate(self.k_norm(k), cos, sin), self.v_norm(v.transpose(1, 2).flatten(2)).view(heads)"
               ".transpose(1, 2)"), also=("residual-topology", "layer-wiring")),
    new("no_k_norm", "qknorm-missing-or-width", (QK_NORM, ATTENTION), (BOTH, "return rotate(k, cos, sin), "
        "self.v_norm(v)")),
    new("k_norm_after_rope", "qknorm-order", (QK_NORM, ATTENTION), (BOTH, "return self.k_norm(rotate(k, cos, sin)), "
        "self.v_norm(v)")),
    new("scaled_by_head_dim", "softmax-scale", ATTENTION, (SCORES, "scores = q @ k.transpose(2, 3) * "
        "self.head_dim**-0.5")),
    new("scaled_like_gemma_3", "softmax-scale", ATTENTION, (SCORES, "scores = q @ k.transpose(2, 3) / 16.0")),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
    new("window_one_too_long", "window-off-by-one", ATTENTION,
        ("distance < self.config.sliding_window", "distance <= self.config.sliding_window")),
)  # fmt: skip

ROPE = (
    new("rope_on_all_of_the_head", "partial-rotary", TURNED, (f"        {RATIO}\n", ""),
        consumer="self.inv_freq = nn.Buffer(inv_freq, persistent=False)"),
    new("rope_share_as_a_narrower_head", "partial-rotary", TURNED,
        ("exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim",
         "exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / (rope.share * head_dim)"),
        also=("rope-theta-config", "rope-scaling-details")),
    new("rope_share_counts_features", "partial-rotary", TURNED,
        (RATIO, "inv_freq[int(rope.share * head_dim) :] = 0.0"), also=("rope-scaling-details",)),
    new("rope_turns_a_part_of_all_layers", "partial-rotary", TURNED,
        ("share=settings.get(\"partial_rotary_factor\", 1.0) if partial else 1.0", "share=0.25"),
        also=("rope-layer-type",)),
    new("rope_of_the_other_kind", "rope-layer-type", TURNED,
        ("settings = (hf.get(\"rope_parameters\") or released)[kind]",
         "settings = (hf.get(\"rope_parameters\") or released)[kind] | {\"rope_theta\": 10_000.0}"),
        also=("rope-theta-config",)),
    new("theta_exchanged", "rope-layer-type", TURNED,
        ("theta=settings[\"rope_theta\"]",
         "theta={10_000.0: 1_000_000.0, 1_000_000.0: 10_000.0}[settings[\"rope_theta\"]]"),
        also=("rope-theta-config",)),
    new("rope_interleaved", "rope-pairing", TURNED, *s.INTERLEAVED),
)  # fmt: skip

LAYERS = (
    new("scalar_forgotten", "scalar-multipliers", LAYER, ("return x * self.scalar", "return x")),
    new("scalar_twice", "scalar-multipliers", LAYER,
        ("return x * self.scalar", "return x * self.scalar * self.scalar")),
    new("scalar_divides", "scalar-multipliers", LAYER, ("return x * self.scalar", "return x / self.scalar")),
    new("scalar_of_the_last_part_only", "scalar-multipliers", LAYER,
        ("x = x + self.post_mlp_norm(mixed)", "x = x + self.post_mlp_norm(mixed) * self.scalar"),
        ("return x * self.scalar", "return x"), also=("residual-topology",)),
    new("scalar_not_loaded", "weights-silently-missing", LAYER,
        ('"model.layers.{}.layer_scalar": "layers.{}.scalar"', '"model.layers.{}.layer_scalar": None'),
        also=("scalar-multipliers",)),
    new("norms_like_gemma_3", "norm-offset", (*NORMS, "model.layers.*.v_norm"),
        ("normed * self.weight.float()", "normed * (1.0 + self.weight.float())")),
    new("post_attention_norm_forgotten", "residual-topology", (LAYER, POST_ATTENTION_NORM),
        ("x = x + self.post_attention_norm(attended)", "x = x + attended")),
    new("post_mlp_norm_of_the_sum", "residual-topology", (LAYER, POST_MLP_NORM),
        ("x = x + self.post_mlp_norm(mixed)", "x = self.post_mlp_norm(x + mixed)")),
    new("gelu_by_erf", "activation", (ACTIVATION, MLP),
        ("        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)\n"
         "        self.activation = nn.GELU(approximate=\"tanh\")",
         "        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)\n"
         "        self.activation = nn.GELU()")),
    new("embedding_unscaled", "embed-scale", EMBEDDING,
        ("config.hidden_size, config.hidden_size**0.5)", "config.hidden_size, 1.0)")),
    new("logits_uncapped", "softcap", HEAD, (CAP_LINE, "return logits")),
    new("cap_not_multiplied_back", "softcap", HEAD, (CAP_LINE, CAP_LINE.replace(" / cap) * cap", " / cap)"))),
    new("no_final_norm", "final-norm", FINAL_NORM, s.NO_FINAL_NORM),
)  # fmt: skip

SHARED = (
    new("keys_of_the_first_layer_shared", "layer-wiring", ATTENTION,
        (PUT, "            k, v = (k, v) if cache is None else cache.append(k, v)\n"
              "            shared.setdefault(self.kind, (k, v))\n            own = k, v\n"),
        ("k, v = shared[self.kind]", "k, v = shared[self.kind] if self.shares else own"), config=SMALL),
    new("keys_shared_by_every_layer", "layer-wiring", ATTENTION,
        (PUT, "            own = (k, v) if cache is None else cache.append(k, v)\n"
              "            shared.setdefault(self.kind, own)\n"), config=SMALL),
    new("last_layers_share_values_only", "layer-wiring", ATTENTION,
        ("        k, v = shared[self.kind]\n",
         "        k, v = shared[self.kind]\n"
         "        if self.shares:\n            k = v\n"), config=SMALL),
    new("double_wide_mlp_halved", "weights-misplaced", (MLP, "model.layers.*.mlp.*"),
        ("return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))",
         "inner = self.activation(self.gate_proj(x)) * self.up_proj(x)\n"
         "        inner[..., 88:] = 0\n        return self.down_proj(inner)"),
        also=("activation", "gate-up-order", "layer-wiring"), config=SMALL),
    new("own_embedding_unscaled", "embed-scale", PER_LAYER, (OWN, OWN.replace("size**0.5", "1.0")), config=SMALL),
    new("own_embedding_scaled_by_the_width", "embed-scale", PER_LAYER,
        (OWN, OWN.replace("size**0.5", "config.hidden_size**0.5")), config=SMALL),
    new("per_layer_projection_unscaled", "embed-scale", PER_LAYER, (PROJECTED, "self.projection(x)"),
        also=("scalar-multipliers", "norm-eps"), config=SMALL),
    new("per_layer_sum_unscaled", "scalar-multipliers", PER_LAYER, (COMBINED, "return self.norm(projected) + own"),
        also=("embed-scale",), config=SMALL),
    new("per_layer_projection_forgotten", "layer-wiring", PER_LAYER, (COMBINED, "return own"),
        also=("residual-topology", "embed-scale"), config=SMALL),
    new("per_layer_not_normed", "residual-topology", PER_LAYER,
        (COMBINED, "return (projected + own) * 2.0**-0.5"), also=("layer-wiring",), config=SMALL),
    new("per_layer_of_the_next_layer", "layer-wiring", PER_LAYER,
        ("per_layer[:, :, index]", "per_layer[:, :, index - 1]"), also=("split-layout",), config=SMALL),
    new("per_layer_split_by_features", "split-layout", PER_LAYER,
        ("own = self.embed_tokens(input_ids).unflatten(-1, self.shape)",
         "own = self.embed_tokens(input_ids).unflatten(-1, self.shape[::-1]).transpose(-1, -2)"), config=SMALL),
    new("per_layer_without_activation", "activation", PER_LAYER,
        ("self.activation(self.gate(x)) * own", "self.gate(x) * own"), config=SMALL),
    new("per_layer_input_normed_twice", "residual-topology", PER_LAYER,
        ("x = x + self.per_layer(x, own)", "x = x + self.per_layer(self.post_mlp_norm(x), own)"), config=SMALL),
)  # fmt: skip

SPARSES = (
    new("experts_read_what_the_mlp_reads", "residual-topology", (LAYER, *EXPERTS, *ROUTER,
        "model.layers.*.pre_feedforward_layernorm*"),
        ("self.experts(self.pre_experts_norm(tokens), shares", "self.experts(self.pre_mlp_norm(tokens), shares"),
        also=("weights-misplaced",), config=SPARSE),
    new("router_reads_the_normed_stream", "residual-topology", (LAYER, *ROUTER),
        ("shares, chosen = self.router(tokens)", "shares, chosen = self.router(self.pre_experts_norm(tokens))"),
        config=SPARSE),
    new("router_unscaled", "router-selection", ROUTER, (TOKENS, "tokens = self.norm(tokens) * self.scale"),
        also=("moe-combine", "router-norm-topk"), config=SPARSE),
    new("expert_scale_forgotten", "moe-combine", (*ROUTER, *EXPERTS),
        (SHARES, "return shares / shares.sum(-1, keepdim=True), chosen"), also=("router-norm-topk",), config=SPARSE),
    new("shares_not_renormalised", "router-norm-topk", ROUTER,
        (SHARES, "return shares * self.expert_scale[chosen], chosen"), config=SPARSE),
    new("experts_in_place_of_the_mlp", "moe-combine", (LAYER, *EXPERTS, "model.layers.*.post_feedforward_layernorm*"),
        (MIXED, "mixed = self.post_experts_norm(self._mix_experts(x))"), also=("residual-topology",),
        config=SPARSE),
    new("gate_and_up_of_experts_exchanged", "gate-up-order", EXPERTS,
        ("gate, up = (tokens[rows] @ gate_up.T).chunk(2, dim=-1)",
         "up, gate = (tokens[rows] @ gate_up.T).chunk(2, dim=-1)"), config=SPARSE),
)  # fmt: skip

MUTANTS = (*VALUE_BUGS, *ROPE, *LAYERS, *SHARED, *SPARSES)
