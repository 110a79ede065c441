"""Bugs in fixtures/rewrites/gpt2_split.py: a module per head, three projections for one, norms in two steps."""

from functools import partial

from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import (
    GPT2_ACTIVATION,
    GPT2_ATTENTION,
    GPT2_FINAL_NORM,
    GPT2_LAYER,
    GPT2_MLP,
    GPT2_NORMS,
    GPT2_POSITIONS,
)

new = partial(bug, "gpt2_split")

FIRST_NORM, SECOND_NORM = "transformer.h.*.ln_1", "transformer.h.*.ln_2"
C_ATTN, O_PROJ = "transformer.h.*.attn.c_attn", "transformer.h.*.attn.c_proj"
C_FC, DOWN = "transformer.h.*.mlp.c_fc", "transformer.h.*.mlp.c_proj"
BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}
FORWARD = (GPT2_ACTIVATION, GPT2_MLP)
HEADS = (GPT2_ATTENTION, C_ATTN)
GELU = "x = 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))"
EMBED = "x = self.tokens(input_ids) + self.positions(positions)"
ARANGE = "positions = torch.arange(input_ids.shape[1], device=input_ids.device)"
LINEAR = 'return {f"{place}.weight": tensors[f"{name}.weight"].T, f"{place}.bias": tensors[f"{name}.bias"]}'

ATTENTION: tuple[Mutant, ...] = (
    new("no_scale", "softmax-scale", GPT2_ATTENTION,
        ("scores = q @ k.transpose(-2, -1) * self.scale", "scores = q @ k.transpose(-2, -1)")),
    new("scale_of_width", "softmax-scale", GPT2_ATTENTION,
        ("self.scale = size**-0.5", "self.scale = config.width**-0.5")),
    new("scale_by_layer_from_zero", "softmax-scale", GPT2_ATTENTION,
        ("self.scale /= layer + 1", "self.scale /= max(layer, 1)"), config=BY_LAYER),
    new("scale_by_layer_not_read", "softmax-scale", GPT2_ATTENTION,
        ('hf.get("scale_attn_by_inverse_layer_idx", False)', 'hf.get("scale_by_layer", False)'), config=BY_LAYER),
    new("mask_is_one_too_wide", "attention-mask", GPT2_ATTENTION,
        ("x.shape[1], device=x.device))", "x.shape[1], device=x.device), diagonal=1)")),
    new("mask_is_zero", "attention-mask", GPT2_ATTENTION, ('float("-inf")', "0.0")),
    new("no_mask", "attention-mask", GPT2_ATTENTION,
        ('        scores = scores.masked_fill(seen == 0, float("-inf"))\n', ""),
        consumer="shares = F.softmax(scores, dim=-1)"),
    new("keys_and_queries_exchanged", "split-layout", HEADS,
        ("q, k, v = self.query(x), self.key(x), self.value(x)", "k, q, v = self.query(x), self.key(x), self.value(x)")),
    new("thirds_in_another_order", "weights-misplaced", HEADS,
        ('("query", "key", "value")', '("key", "query", "value")'),
        also=("split-layout",)),
    new("heads_before_thirds", "split-layout", HEADS,
        ('thirds = tensors[f"{name}.{kind}"].t().chunk(3)',
         'thirds = tensors[f"{name}.{kind}"].t().unflatten(0, (count, 3, -1)).transpose(0, 1).flatten(1, 2)'),
        also=("weights-misplaced",)),
    new("heads_in_reverse", "split-layout", (*HEADS, O_PROJ),
        ("for head in self.heads], dim=-1)",
         "for head in self.heads[::-1]], dim=-1)"), also=("weights-misplaced", "gqa-repeat")),
)  # fmt: skip

REST = (
    new("gelu_by_erf", "activation", FORWARD, (GELU, "x = F.gelu(x)")),
    new("gelu_without_cube", "activation", FORWARD, ("0.044715 * x**3", "0.044715 * x**2")),
    new("quick_gelu", "activation", FORWARD, (GELU, "x = x * torch.sigmoid(1.702 * x)")),
    new("eps_ten_times_smaller", "norm-eps", GPT2_NORMS, ('eps=hf["layer_norm_epsilon"]', "eps=1e-6")),
    new("eps_outside_the_root", "norm-eps", GPT2_NORMS,
        ("torch.sqrt(variance + self.eps)", "(torch.sqrt(variance) + self.eps)")),
    new("norm_shift_forgotten", "bias-dropped", GPT2_NORMS,
        ("return x * self.scale + self.shift", "return x * self.scale")),
    new("narrow_without_bias", "bias-dropped",
        (DOWN, GPT2_MLP), ("return self.narrow(x)", "return x @ self.narrow.weight.T")),
    new("value_without_bias", "bias-dropped", HEADS,
        ("self.key(x), self.value(x)", "self.key(x), F.linear(x, self.value.weight)")),
    new("biases_not_loaded", "bias-dropped", (O_PROJ, C_FC, DOWN),
        (LINEAR, 'return {f"{place}.weight": tensors[f"{name}.weight"].T}'),
        ("model.load_state_dict(state)",
         "model.load_state_dict(state, strict=False)"), also=("weights-silently-missing",)),
    new("positions_from_one", "position-ids", GPT2_POSITIONS,
        (ARANGE, ARANGE.replace("(input_ids.shape[1],", "(1, input_ids.shape[1] + 1,"))),
    new("no_positions", "position-ids", GPT2_POSITIONS, (EMBED, "x = self.tokens(input_ids)")),
    new("position_zero_for_all", "position-ids", GPT2_POSITIONS,
        (EMBED, EMBED.replace("(positions)", "(torch.zeros_like(input_ids))"))),
    new("parallel", "residual-topology", (GPT2_LAYER, SECOND_NORM),
        ("x = x + self.attention(self.norm1(x))\n", "attended = self.attention(self.norm1(x))\n"),
        ("return x + self.mlp(self.norm2(x))", "return x + attended + self.mlp(self.norm2(x))")),
    new("normed_stream_is_kept", "residual-topology", (GPT2_LAYER, SECOND_NORM),
        ("return x + self.mlp(self.norm2(x))", "x = self.norm2(x)\n        return x + self.mlp(x)")),
    new("mlp_reads_the_first_norm", "residual-topology", (GPT2_LAYER, SECOND_NORM, FIRST_NORM, GPT2_MLP),
        ("self.mlp(self.norm2(x))", "self.mlp(self.norm1(x))")),
    new("no_final_norm", "final-norm", GPT2_FINAL_NORM,
        ("        x = self.norm(x)\n", ""), consumer="return x @ self.tokens"),
    new("final_norm_standardises_only", "final-norm", GPT2_FINAL_NORM, ("x = self.norm(x)", "x = self.norm[0](x)"),
        also=("norm-offset", "bias-dropped", "weights-silently-missing")),
    new("projection_not_transposed", "weight-transposed", (O_PROJ, GPT2_ATTENTION),
        ('linear(f"{new}.attention.projection", tensors, f"{old}.attn.c_proj")',
         'linear(f"{new}.attention.projection", tensors, f"{old}.attn.c_proj")\n'
         '        state[f"{new}.attention.projection.weight"] = tensors[f"{old}.attn.c_proj.weight"]')),
    new("mlps_of_the_next_layer", "weights-misplaced", (C_FC, DOWN, GPT2_MLP),
        ('tensors, f"{old}.mlp.c_proj")', 'tensors, f"transformer.h.{max(layer, 1)}.mlp.c_proj")')),
    new("norms_exchanged", "weights-misplaced", (FIRST_NORM, SECOND_NORM),
        ('affine(f"{new}.norm1", tensors, f"{old}.ln_1")', 'affine(f"{new}.norm1", tensors, f"{old}.ln_2")'),
        ('affine(f"{new}.norm2", tensors, f"{old}.ln_2")', 'affine(f"{new}.norm2", tensors, f"{old}.ln_1")')),
    new("positions_not_loaded", "weights-silently-missing", GPT2_POSITIONS,
        ('"positions.weight": tensors', '"position.weight": tensors'),
        ("model.load_state_dict(state)", "model.load_state_dict(state, strict=False)")),
)  # fmt: skip

MUTANTS = (*ATTENTION, *REST)
