"""Bugs in fixtures/rewrites/gemma3_flat.py: no submodules, fused projections."""

from functools import partial

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
from bench.bugs.shared import exchanged

new = partial(bug, "gemma3_flat")

CAPPED = {"final_logit_softcapping": 30.0}
STRETCHED = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
# Nothing in the port is a module, so the layer around is as near as Parity can come where it says no more.
HEADS = (ATTENTION, LAYER)
TURNED = (ATTENTION, ROTARY, LAYER)
FORWARD = (MLP, ACTIVATION, LAYER)
QKV = "q, k, v = (x @ w["
SPLIT_K = "k = k.view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)"
SPLIT_V = "v = v.view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)"
MERGE = "mixed = (shares @ v).transpose(1, 2).reshape(batch, length, -1)"
REPEAT = "repeat_interleave(c.heads // c.kv_heads, dim=1)"
ROTATED = "return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)"
MASK = '    if kind == "sliding_attention":\n        visible = visible & (behind < c.window)\n'
SPLIT = (*HEADS, projection("k"), projection("v"), K_NORM)
SCALE = 'scale=hf["query_pre_attn_scalar"] ** -0.5'

ATTENTION_BUGS: tuple[Mutant, ...] = (
    new("qkv_in_another_order", "split-layout", SPLIT, (QKV, QKV.replace("q, k, v", "q, v, k"))),
    new("values_split_wrong", "split-layout", HEADS,
        (SPLIT_V, "v = v.reshape(batch, c.kv_heads, length, c.head_dim)")),
    new("keys_split_by_feature", "split-layout", SPLIT,
        (SPLIT_K, "k = k.view(batch, length, c.head_dim, c.kv_heads).permute(0, 3, 1, 2)")),
    new("merged_without_transpose", "split-layout", (*HEADS, projection("o")),
        (MERGE, "mixed = (shares @ v).reshape(batch, length, -1)")),
    new("qkv_loaded_in_another_order", "weights-misplaced", SPLIT,
        ('for part in "qkv"]', 'for part in "qvk"]'), also=("split-layout",)),
    new("kv_tiled", "gqa-repeat", HEADS, (f"k = k.{REPEAT}", "k = k.repeat(1, c.heads // c.kv_heads, 1, 1)"),
        (f"v = v.{REPEAT}", "v = v.repeat(1, c.heads // c.kv_heads, 1, 1)")),
    new("keys_tiled", "gqa-repeat", HEADS, (f"k = k.{REPEAT}", "k = k.repeat(1, c.heads // c.kv_heads, 1, 1)")),
    new("scale_of_head_dim", "softmax-scale", HEADS, (SCALE, 'scale=hf["head_dim"] ** -0.5')),
    new("no_scale", "softmax-scale", HEADS, ("scores = q @ k.mT * c.scale", "scores = q @ k.mT")),
    new("scale_in_the_q_norm_too", "softmax-scale", HEADS,
        ('q = norm(q, w["q_norm"], c.eps)', 'q = norm(q, w["q_norm"], c.eps) * c.scale')),
    new("window_one_too_long", "window-off-by-one", HEADS, ("behind < c.window", "behind <= c.window")),
    new("window_forgotten", "window-pattern", HEADS, (MASK, ""), consumer="scores = scores.masked_fill(~visible"),
    new("window_on_the_wrong_layers", "window-pattern", HEADS, (MASK, MASK.replace("==", "!="))),
    new("mask_is_one_too_wide", "attention-mask", HEADS, ("visible = behind >= 0", "visible = behind >= -1")),
    new("mask_transposed", "attention-mask", HEADS,
        ("behind = positions[:, None] - positions[None, :]", "behind = positions[None, :] - positions[:, None]")),
    new("no_q_norm", "qknorm-missing-or-width", (Q_NORM, *HEADS),
        ('    q = norm(q, w["q_norm"], c.eps)\n', ""), consumer="q = rotate(q, cos, sin)"),
    new("q_and_k_norm_after_rope", "qknorm-order", (QK_NORM, *HEADS),
        ('    q = norm(q, w["q_norm"], c.eps)\n    k = norm(k, w["k_norm"], c.eps)\n', ""),
        ("q = rotate(q, cos, sin)", 'q = norm(rotate(q, cos, sin), w["q_norm"], c.eps)'),
        ("k = rotate(k, cos, sin)", 'k = norm(rotate(k, cos, sin), w["k_norm"], c.eps)')),
)  # fmt: skip

ROPE = (
    new("rope_interleaved", "rope-pairing", TURNED,
        ("a, b = x.chunk(2, dim=-1)", "a, b = x[..., ::2], x[..., 1::2]"),
        (ROTATED, "return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)")),
    new("rope_halves_left_interleaved", "rope-pairing", TURNED,
        ("a, b = x.chunk(2, dim=-1)", "a, b = x[..., ::2], x[..., 1::2]"), also=("split-layout",)),
    new("rope_local_everywhere", "rope-layer-type", TURNED,
        ('theta = c.local_theta if kind == "sliding_attention" else c.theta', "theta = c.local_theta")),
    new("rope_bases_exchanged", "rope-layer-type", TURNED,
        ('theta = c.local_theta if kind == "sliding', 'theta = c.local_theta if kind != "sliding')),
    new("factor_on_all_layers", "rope-layer-type", TURNED,
        ('factor = 1.0 if kind == "sliding_attention" else c.factor', "factor = c.factor"), config=STRETCHED),
    new("factor_never_read", "rope-scaling-dropped", TURNED,
        ('factor=scaling.get("factor", 1.0)', "factor=1.0"), also=("rope-layer-type",), config=STRETCHED),
    new("factor_multiplies", "rope-scaling-details", TURNED, (") / factor, speeds)", ") * factor, speeds)"),
        config=STRETCHED),
    new("theta_read_from_the_wrong_field", "rope-theta-config", TURNED,
        ('theta=hf["rope_theta"]', 'theta=hf["rope_local_base_freq"]'), also=("rope-layer-type",)),
    new("rope_on_keys_twice", "rope-axis-or-twice", TURNED,
        ("k = rotate(k, cos, sin)", "k = rotate(rotate(k, cos, sin), cos, sin)")),
    new("positions_wrap", "position-ids", TURNED,
        ("torch.arange(length, dtype=torch.float32) / factor", "(torch.arange(length) % 24).float() / factor")),
)  # fmt: skip

REST = (
    new("embedding_unscaled", "embed-scale", EMBEDDING,
        ("    x = x * torch.tensor(c.width**0.5, dtype=x.dtype)\n", ""), consumer='h = norm(x, layer["norm1"], c.eps)'),
    new("head_scaled_too", "embed-scale", (HEAD, EMBEDDING),
        ('logits = x @ w["table"].T', 'logits = x @ (w["table"] * c.width**0.5).T'), also=("scalar-multipliers",)),
    new("eps_ten_times", "norm-eps", NORMS, ('eps=hf["rms_norm_eps"]', 'eps=10 * hf["rms_norm_eps"]')),
    new("eps_outside_the_root", "norm-eps", NORMS,
        ("torch.sqrt(x32.square().mean(-1, keepdim=True) + eps)",
         "(x32.square().mean(-1, keepdim=True).sqrt() + eps)")),
    new("final_eps", "norm-eps", FINAL_NORM, ('x = norm(x, w["norm"], c.eps)', 'x = norm(x, w["norm"], 1e-5)')),
    new("no_offset", "norm-offset", NORMS, ("unit * (1.0 + weight.float())", "unit * weight.float()")),
    new("offset_folded_in_twice", "norm-offset", (INPUT_NORM, LAYER),
        ('tensors[f"{old}.input_layernorm.weight"]', '1 + tensors[f"{old}.input_layernorm.weight"]')),
    new("k_norm_offset_folded_in_twice", "norm-offset", (K_NORM, *HEADS),
        ('tensors[f"{old}.self_attn.k_norm.weight"]', '1 + tensors[f"{old}.self_attn.k_norm.weight"]')),
    new("gelu_by_erf", "activation", FORWARD, ('F.gelu(gate, approximate="tanh")', "F.gelu(gate)")),
    new("silu", "activation", FORWARD, ('F.gelu(gate, approximate="tanh")', "F.silu(gate)")),
    new("gate_and_up_exchanged", "gate-up-order", FORWARD, ("gate, up = (x", "up, gate = (x")),
    new("gate_and_up_interleaved", "gate-up-order", (*FORWARD, projection("gate"), projection("up")),
        ('gate, up = (x @ w["gate_up"]).chunk(2, dim=-1)',
         'gate, up = (x @ w["gate_up"]).unflatten(-1, (-1, 2)).unbind(-1)'),
        also=("split-layout",)),
    new("gate_and_up_loaded_crosswise", "gate-up-order", (*FORWARD, projection("gate"), projection("up")),
        ('("gate", "up")', '("up", "gate")')),
    new("normed_stream_is_kept", "residual-topology", (LAYER, INPUT_NORM),
        ('h = norm(x, layer["norm1"], c.eps)', 'x = h = norm(x, layer["norm1"], c.eps)')),
    new("mlp_reads_attention_output", "residual-topology", (LAYER, PRE_MLP_NORM),
        ('h = norm(x, layer["norm3"], c.eps)', 'h = norm(h, layer["norm3"], c.eps)')),
    new("no_post_mlp_norm", "residual-topology", (LAYER, POST_MLP_NORM),
        ('x = x + norm(h, layer["norm4"], c.eps)', "x = x + h")),
    new("norms_used_crosswise", "residual-topology", (POST_ATTENTION_NORM, PRE_MLP_NORM, LAYER),
        *exchanged('layer["norm2"]', 'layer["norm3"]'), also=("weights-misplaced",)),
    new("no_final_norm", "final-norm", FINAL_NORM, ('    x = norm(x, w["norm"], c.eps)\n', ""),
        consumer='logits = x @ w["table"].T'),
    new("cap_forgotten", "softcap", HEAD,
        ('hf.get("final_logit_softcapping")', 'hf.get("attn_logit_softcapping")'), config=CAPPED),
    new("cap_not_divided", "softcap", HEAD, ("torch.tanh(logits / c.cap)", "torch.tanh(logits)"), config=CAPPED),
    new("last_layer_left_out", "layer-wiring", (LAYER, INPUT_NORM),
        ("for index, kind in enumerate(c.kinds):", "for index, kind in enumerate(c.kinds[:-1]):"),
        consumer='x = norm(x, w["norm"], c.eps)'),
    new("down_of_the_next_layer", "weights-misplaced", projection("down"),
        ('tensors[f"{old}.mlp.down_proj.weight"]', 'tensors[f"model.layers.{max(index, 1)}.mlp.down_proj.weight"]')),
    new("norms_loaded_crosswise", "weights-misplaced", (POST_ATTENTION_NORM, POST_MLP_NORM),
        *exchanged("{old}.post_attention_layernorm", "{old}.post_feedforward_layernorm")),
    new("out_of_one_layer_not_loaded", "weights-silently-missing", projection("o"),
        ('        w[f"{index}_out"].copy_(', '        if index != 1:\n            w[f"{index}_out"].copy_(')),
)  # fmt: skip

MUTANTS = (*ATTENTION_BUGS, *ROPE, *REST)
