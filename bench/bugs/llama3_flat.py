"""Bugs in fixtures/rewrites/llama3_flat.py: no submodules, transposed storage, grouped heads, complex rope."""

from functools import partial

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

new = partial(bug, "llama3_flat")

UNTIED = {"tie_word_embeddings": False}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
HEADS = (ATTENTION, LAYER)
TURNED = (ATTENTION, ROTARY, LAYER)
FORWARD = (MLP, ACTIVATION, LAYER)
HALVES = "real, imaginary = x.float().chunk(2, dim=-1)"
LOADED = 'tensor = tensors[f"model.layers.{layer}.{NAMES[part]}.weight"]'
PLACED = "place.copy_(tensor.T if tensor.ndim == 2 else tensor)"
BETWEEN = "between = (1 - smooth) * found / factor + smooth * found"

ROPE: tuple[Mutant, ...] = (
    new("rope_on_neighbours", "rope-pairing", TURNED,
        ("turned = torch.complex(real, imaginary) * turn",
         "turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turn"),
        ("return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)",
         "return torch.view_as_real(turned).flatten(-2).to(x.dtype)")),
    new("rope_halves_exchanged", "rope-pairing", TURNED, (HALVES, HALVES.replace("real, imaginary", "imaginary, real")),
        ("torch.cat((turned.real, turned.imag)", "torch.cat((turned.imag, turned.real)")),
    new("queries_permuted_for_neighbours", "rope-pairing", (*TURNED, projection("q")),
        (LOADED, f'{LOADED}\n            if part == "q":\n                tensor = tensor.unflatten('
                 "0, (-1, 2, model.config.head_dim // 2)).transpose(1, 2).flatten(0, 2)"), also=("weights-misplaced",)),
    new("rope_angle_negative", "rope-pairing", TURNED,
        ("complex(real, imaginary) * turn", "complex(real, imaginary) * turn.conj()")),
    new("rope_along_the_heads", "rope-axis-or-twice", TURNED,
        ("q = rotate(q, turn)",
         "q = rotate(q, turn[: q.shape[2], 0])"), ("k = rotate(k, turn)", "k = rotate(k, turn[: k.shape[2], 0])")),
    new("rope_on_queries_twice", "rope-axis-or-twice", TURNED,
        ("q = rotate(q, turn)", "q = rotate(rotate(q, turn), turn)")),
    new("keys_one_position_behind", "position-ids", TURNED, ("k = rotate(k, turn)", "k = rotate(k, turn.roll(1, 0))")),
    new("positions_halved", "position-ids", TURNED,
        ("torch.arange(length, dtype=torch.float32)", "torch.arange(length).div(2, rounding_mode='floor').float()"),
        also=("rope-scaling-details",)),
    new("scaling_ignored", "rope-scaling-dropped", TURNED,
        ("if not c.scaling:", 'if not c.scaling or c.scaling["rope_type"] == "llama3":')),
    new("scaling_not_read", "rope-scaling-dropped", TURNED,
        ('scaling = hf.get("rope_scaling")', 'scaling = hf.get("rope_parameters")')),
    new("linear_scaling_not_read", "rope-scaling-dropped", TURNED,
        ("return found / factor\n", "return found\n"), config=LINEAR),
    new("linear_scaling_multiplies", "rope-scaling-details", TURNED,
        ("return found / factor\n", "return found * factor\n"), config=LINEAR),
    new("scaling_bands_exchanged", "rope-scaling-details", TURNED,
        (BETWEEN, BETWEEN.replace("(1 - smooth)", "smooth").replace(
        "+ smooth", "+ (1 - smooth)"))),
    new("scaling_leaves_the_middle", "rope-scaling-details", TURNED,
        ("context / high), between, found)", "context / high), found, found)")),
    new("scaling_wavelength_without_two_pi", "rope-scaling-details", TURNED,
        ("wavelength = 2 * math.pi / found", "wavelength = 1 / found")),
    new("scaling_ends_misread", "rope-scaling-details", TURNED,
        ('c.scaling["low_freq_factor"], c.scaling["high_freq_factor"]',
         'c.scaling["low_freq_factor"], c.scaling["factor"]')),
    new("theta_default", "rope-theta-config", TURNED,
        ('theta=hf["rope_theta"]', 'theta=hf.get("rope_base", 10_000.0)')),
    new("rope_on_half_of_the_features", "partial-rotary", TURNED,
        (HALVES, "x, kept = x.chunk(2, dim=-1)\n"
                 "    real, imaginary = x.float().chunk(2, dim=-1)\n    turn = turn[..., ::2]"),
        ("(turned.real, turned.imag), dim=-1).to(x.dtype)", "(turned.real, turned.imag, kept), dim=-1).to(x.dtype)")),
)  # fmt: skip

ATTENTION_BUGS = (
    new("groups_before_heads", "gqa-repeat", HEADS,
        ("q = q.unflatten(2, (c.kv_heads, -1))", "q = q.unflatten(2, (-1, c.kv_heads)).transpose(2, 3)")),
    new("merged_in_another_order", "gqa-repeat", (*HEADS, projection("o")),
        ('"bkgts,bskd->btkgd", shares, v)', '"bkgts,bskd->btgkd", shares, v)'), also=("split-layout",)),
    new("values_by_feature", "split-layout", HEADS,
        ('v = (h @ w["v"]).unflatten(-1, (c.kv_heads, c.head_dim))',
         'v = (h @ w["v"]).unflatten(-1, (c.head_dim, c.kv_heads)).mT')),
    new("scale_of_width", "softmax-scale", HEADS, ("math.sqrt(c.head_dim)", "math.sqrt(c.width)")),
    new("scale_without_root", "softmax-scale", HEADS, ("/ math.sqrt(c.head_dim)", "/ c.head_dim")),
    new("mask_hides_the_diagonal", "attention-mask", HEADS, (".triu(1)", ".triu(0)")),
    new("mask_hides_the_past", "attention-mask", HEADS, (".triu(1)", ".tril(-1)")),
    new("mask_is_one_too_wide", "attention-mask", HEADS, (".triu(1)", ".triu(2)")),
)  # fmt: skip

REST = (
    new("eps_of_llama_2", "norm-eps", NORMS, ('eps=hf["rms_norm_eps"]', "eps=1e-6")),
    new("eps_after_the_root", "norm-eps", NORMS, ("(square + eps).rsqrt()", "(1 / (square.sqrt() + eps))")),
    new("mlp_norm_without_eps", "norm-eps", (POST_ATTENTION_NORM, LAYER),
        ('h = norm(x, w["norm2"], c.eps)', 'h = norm(x, w["norm2"], 0.0)')),
    new("offset_like_gemma", "norm-offset", NORMS, ("return weight * ", "return (1 + weight) * ")),
    new("gelu", "activation", FORWARD, ('F.silu(h @ w["gate"])', 'F.gelu(h @ w["gate"])')),
    new("quick_gelu", "activation", FORWARD,
        ('gate = F.silu(h @ w["gate"])', 'gate = h @ w["gate"]\n    gate = gate * torch.sigmoid(1.702 * gate)')),
    new("up_is_activated", "gate-up-order", FORWARD,
        ('gate = F.silu(h @ w["gate"])', 'gate = h @ w["gate"]'), ('up = h @ w["up"]', 'up = F.silu(h @ w["up"])')),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (*FORWARD, projection("gate"), projection("up")),
        ('"gate": "mlp.gate_proj"', '"gate": "mlp.up_proj"'), ('"up": "mlp.up_proj"', '"up": "mlp.gate_proj"')),
    new("parallel", "residual-topology", (LAYER, POST_ATTENTION_NORM),
        ("x = x + attend(c, q, k, v)",
         "attended = attend(c, q, k, v)"), ("return x + (gate", "return x + attended + (gate")),
    new("normed_stream_is_kept", "residual-topology", (LAYER, INPUT_NORM),
        ('h = norm(x, w["norm1"], c.eps)', 'x = h = norm(x, w["norm1"], c.eps)')),
    new("mlp_reads_the_first_norm", "residual-topology", (LAYER, POST_ATTENTION_NORM, INPUT_NORM, MLP),
        ('h = norm(x, w["norm2"], c.eps)', 'h = norm(x, w["norm1"], c.eps)'), also=("weights-misplaced",)),
    new("no_final_norm", "final-norm", FINAL_NORM, ("        x = norm(x, self.norm, c.eps)\n", ""),
        consumer="return F.linear(x, self.head)"),
    new("final_norm_in_every_layer", "final-norm", (FINAL_NORM, LAYER, INPUT_NORM),
        ("            x = block(c, w, x, turn)\n        x = norm",
         "            x = block(c, w, x, turn)\n            x = norm"),
        also=("residual-topology",)),
    new("first_layer_left_out", "layer-wiring",
        (LAYER, INPUT_NORM), ("for layer in range(c.layers):", "for layer in range(1, c.layers):")),
    new("layer_offset_wrong", "layer-wiring", ("model.layers.*",),
        ("start = layer * len(PARTS)",
         "start = min(layer, 1) * len(PARTS)"), also=("weights-misplaced", "weights-silently-missing")),
    new("head_left_random", "tied-head", HEAD,
        ("if not model.config.tied:", "if model.config.tied:"), config=UNTIED),
    new("head_is_the_embedding", "tied-head", HEAD,
        ('tensors["lm_head.weight"]', 'tensors["model.embed_tokens.weight"]'), config=UNTIED),
    new("embedding_from_the_head", "tied-head", (EMBEDDING, HEAD),
        ('model.embed.copy_(tensors["model.embed_tokens.weight"])', 'model.embed.copy_(tensors["lm_head.weight"])'),
        also=("weights-misplaced",), config=UNTIED),
    new("o_not_transposed", "weight-transposed", (projection("o"), *HEADS),
        ("tensor.T if tensor.ndim == 2 else tensor", 'tensor.T if tensor.ndim == 2 and part != "o" else tensor')),
    new("q_not_transposed", "weight-transposed", (projection("q"), *HEADS),
        ("tensor.T if tensor.ndim == 2 else tensor", 'tensor.T if tensor.ndim == 2 and part != "q" else tensor')),
    new("last_layer_not_loaded", "weights-silently-missing", "model.layers.*",
        ("for layer in range(model.config.layers):", "for layer in range(model.config.layers - 1):")),
    new("norm_of_one_layer_not_loaded", "weights-silently-missing", POST_ATTENTION_NORM,
        (PLACED, f'if (layer, part) != (1, "norm2"):\n                {PLACED}')),
    new("layers_loaded_in_another_order", "weights-misplaced", "model.layers.*",
        (LOADED, LOADED.replace("{layer}", "{(layer + 1) % model.config.layers}"))),
    new("values_of_the_next_layer", "weights-misplaced", projection("v"),
        (LOADED, LOADED.replace("{layer}", "{max(layer, int(part == 'v'))}"))),
)  # fmt: skip

MUTANTS = (*ROPE, *ATTENTION_BUGS, *REST)
