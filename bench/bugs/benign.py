"""Equivalent rewrites: what a correct port may do, and no check may find fault with."""

from functools import partial

from bench.bugs.benign_experts import BENIGN_EXPERTS
from bench.bugs.benign_hybrids import HYBRIDS
from bench.bugs.edits import FOLDERS, Config, Edit
from bench.bugs.mutant import Benign

# Rewrites that break decoding or padded rows, which other stages find: a mask left out, a cache not handed on, rows
# of nothing but minus infinity, whose softmax is no number.
_FULL_ONLY = (
    "sdpa_causal", "one_head_at_a_time", "queries_in_two_blocks", "mask_added", "positions_sliced", "row_by_row",
    "layers_checkpointed",
)  # fmt: skip


def same(port: str, name: str, *edits: Edit, config: Config = "") -> Benign:
    """An equivalent rewrite, written in the order in which one thinks of it."""
    return Benign(name, port, edits, config, name in _FULL_ONLY)


gemma3, llama3, qwen3, gpt2 = (partial(same, port) for port in ("gemma3", "llama3", "qwen3", "gpt2"))
gemma3_flat, llama3_flat = partial(same, "gemma3_flat"), partial(same, "llama3_flat")
qwen3_split, gpt2_split = partial(same, "qwen3_split"), partial(same, "gpt2_split")

SCORES = "        scores = q @ k.transpose(2, 3) * self.scale\n"
MASKED = "        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)\n"
SOFTMAX = "        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)\n"
CONTEXT = "        context = (weights @ v).transpose(1, 2)\n"
REPEAT = "        k = k.repeat_interleave(self.groups, dim=1)\n        v = v.repeat_interleave(self.groups, dim=1)\n"
ROTATE = "return x * cos + torch.cat((-second, first), dim=-1) * sin"
NORM = "normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)"
ANGLES = "angles = positions[..., None].float() * self.inv_freq"
GATED = "return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))"
LOGITS = "return self.lm_head(self.norm(x))"
POSITIONS = "positions = torch.arange(start, real.shape[1], device=x.device)[None]"
HEAD_TIED = "            self.lm_head.weight = self.embed_tokens.weight\n"
LOADER = '''

def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """By name, the head a copy of its own."""
    state = {}
    for name, tensor in tensors.items():
        numbers = [part for part in name.split(".") if part.isdigit()]
        template = ".".join("{}" if part.isdigit() else part for part in name.split("."))
        state[WEIGHTS[template].format(*numbers)] = tensor
    state.setdefault("lm_head.weight", state["embed_tokens.weight"])
    model.load_state_dict(state)
'''
AUTOGRAD = '''class Rotation(torch.autograd.Function):
    """Rotate forwards, and back again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`[B, heads, T, D]`."""
        ctx.save_for_backward(cos, sin)
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The rotation's transpose."""
        cos, sin = ctx.saved_tensors
        first, second = gradients[0].chunk(2, dim=-1)
        return gradients[0] * cos + torch.cat((second, -first), dim=-1) * sin, None, None


def rotate('''

ATTENTION: tuple[Benign, ...] = (
    llama3("sdpa_grouped", (REPEAT, ""), (SCORES, ""), (MASKED, ""), (SOFTMAX, ""),
        (CONTEXT, "        context = nn.functional.scaled_dot_product_attention("
                  "q, k, v, visible, enable_gqa=True).transpose(1, 2)\n")),
    qwen3("sdpa_causal", (SCORES, ""), (SOFTMAX, ""),
        ("        scores = scores.masked_fill(~visible[..., -k.shape[2] :], torch.finfo(scores.dtype).min)\n", ""),
        (CONTEXT, "        context = nn.functional.scaled_dot_product_attention("
                  "q, k, v, is_causal=True).transpose(1, 2)\n")),
    llama3("heads_grouped",
        (REPEAT, "        q = q.unflatten(1, (-1, self.groups))\n        k, v = k[:, :, None], v[:, :, None]\n"),
        (SCORES, "        scores = q @ k.mT * self.scale\n"), ("masked_fill(~visible,",
         "masked_fill(~visible[:, :, None],"),
        (CONTEXT, "        context = (weights @ v).flatten(1, 2).transpose(1, 2)\n")),
    llama3("one_head_at_a_time", (SCORES, ""), (MASKED, ""), (SOFTMAX, ""), (CONTEXT,
        "        heads = []\n"
        "        for head in range(q.shape[1]):\n"
        "            scores = q[:, head] @ k[:, head].mT * self.scale\n"
        "            scores = scores.masked_fill(~visible[:, 0], float(\"-inf\"))\n"
        "            heads.append(scores.softmax(-1) @ v[:, head])\n"
        "        context = torch.stack(heads, dim=2)\n")),
    llama3("einsum", (SCORES, '        scores = torch.einsum("bhtd,bhsd->bhts", q, k) * self.scale\n'),
        (CONTEXT, '        context = torch.einsum("bhts,bhsd->bthd", weights, v)\n')),
    llama3("baddbmm", (SCORES,
        "        bias = torch.zeros((), dtype=q.dtype).expand(1, q.shape[2], k.shape[2])\n"
        "        scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=self.scale)\n"
        "        scores = scores.view(*q.shape[:3], -1)\n")),
    llama3("queries_in_two_blocks", (SCORES, ""), (MASKED, ""), (SOFTMAX, ""), (CONTEXT,
        "        blocks = []\n"
        "        for some, seen in zip(q.split(16, dim=2), visible.split(16, dim=2), strict=True):\n"
        "            scores = (some @ k.mT * self.scale).masked_fill(~seen, float(\"-inf\"))\n"
        "            blocks.append(scores.softmax(-1) @ v)\n"
        "        context = torch.cat(blocks, dim=2).transpose(1, 2)\n")),
    gemma3("scale_folded_into_queries", (SCORES, "        scores = (q * self.scale) @ k.transpose(2, 3)\n")),
    llama3("scale_split_over_both", (SCORES, "        scores = (q * self.scale**0.5) @ (k * self.scale**0.5).mT\n")),
    gpt2("scale_divides", (SCORES, "        scores = q @ k.transpose(2, 3) / (1 / self.scale)\n")),
    gemma3("mask_of_minus_ten_thousand", ("torch.finfo(scores.dtype).min", "-1e4")),
    gpt2("mask_added", (MASKED,
        "        scores = scores + torch.zeros_like(scores).masked_fill(~visible, float(\"-inf\"))\n")),
    qwen3("mask_by_where", ("scores.masked_fill(~visible[..., -k.shape[2] :], torch.finfo(scores.dtype).min)",
        "torch.where(visible[..., -k.shape[2] :], scores, torch.finfo(scores.dtype).min)")),
    llama3("softmax_in_model_dtype",
        ("torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)", "scores.softmax(-1)")),
    gpt2("softmax_in_model_dtype",
        ("torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)", "scores.softmax(-1)")),
    llama3("softmax_by_hand", (SOFTMAX,
        "        powers = (scores.float() - scores.float().amax(-1, keepdim=True)).exp()\n"
        "        weights = (powers / powers.sum(-1, keepdim=True)).to(q.dtype)\n")),
    qwen3("normalised_after_the_values",
        (SOFTMAX, "        weights = (scores - scores.amax(-1, keepdim=True)).exp()\n"),
        (CONTEXT, "        context = (weights @ v / weights.sum(-1, keepdim=True)).transpose(1, 2)\n")),
    gemma3("operations_in_place", ("        scores = scores.masked_fill(", "        scores.masked_fill_("),
        (SCORES, "        scores = q @ k.transpose(2, 3)\n        scores *= self.scale\n"),
        ("x = x + self.post_attention_norm(attended)", "attended = self.post_attention_norm(attended)\n"
         "        x = attended.add_(x)")),
    llama3("qkv_fused_while_running", ("        q = self.q_proj(x).view",
        "        every = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))\n"
        "        sizes = [len(self.q_proj.weight), len(self.k_proj.weight), len(self.v_proj.weight)]\n"
        "        q, k, v = nn.functional.linear(x, every).split(sizes, dim=-1)\n        q = q.view"),
        ("k = self.k_proj(x).view", "k = k.view"), ("v = self.v_proj(x).view", "v = v.view")),
)  # fmt: skip

ROPE = (
    llama3("tables_from_float64",
        ("torch.arange(0, head_dim, 2, dtype=torch.float32)", "torch.arange(0, head_dim, 2).double()"),
        (ANGLES, "angles = positions[..., None].double() * self.inv_freq.double()")),
    qwen3("tables_from_numpy", ("import torch\nfrom torch", "import numpy\nimport torch\nfrom torch"),
        ("exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim",
         "exponents = numpy.arange(0, head_dim, 2) / head_dim"),
        ("nn.Buffer(1.0 / (theta**exponents), persistent=False)",
         "nn.Buffer(torch.from_numpy(1.0 / theta**exponents), persistent=False)"),
        (ANGLES, "angles = positions[..., None].double() * self.inv_freq.double()")),
    llama3("rope_applied_in_float32",
        ("return angles.cos().to(x.dtype), angles.sin().to(x.dtype)", "return angles.cos(), angles.sin()"),
        ("first, second = x.chunk(2, dim=-1)", "dtype, x = x.dtype, x.float()\n    first, second = x.chunk(2, dim=-1)"),
        (ROTATE, "return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(dtype)")),
    qwen3("rope_by_halves", ("first, second = x.chunk(2, dim=-1)", "first, second = x.chunk(2, dim=-1)\n"
        "    cos, sin = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[0]"),
        (ROTATE, "return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)")),
    qwen3("rope_by_roll", ("    first, second = x.chunk(2, dim=-1)\n", ""),
        (ROTATE, "half = x.shape[-1] // 2\n    sign = torch.ones_like(sin)\n    sign[..., :half] = -1\n"
                 "    return x * cos + x.roll(half, dims=-1) * sin * sign")),
    llama3("positions_shifted", (POSITIONS, f"{POSITIONS} + 100")),
    llama3("rope_as_an_autograd_function", ("def rotate(", AUTOGRAD),
        ("    first, second = x.chunk(2, dim=-1)\n"
         "    return x * cos + torch.cat((-second, first), dim=-1) * sin\n\n\nclass LayerCache",
         "    return Rotation.apply(x, cos, sin)\n\n\nclass LayerCache")),
    gemma3("rope_compiled", ("def rotate(", "@torch.compile\ndef rotate(")),
    qwen3("rope_before_the_transpose",
        ("q = self.q_norm(self.q_proj(x).view(heads).transpose(1, 2))", "q = self.q_norm(self.q_proj(x).view(heads))"),
        ("k = self.k_norm(self.k_proj(x).view(heads).transpose(1, 2))", "k = self.k_norm(self.k_proj(x).view(heads))"),
        ("q, k = rotate(q, cos, sin), rotate(k, cos, sin)",
         "q, k = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2)"),
        ("cos, sin = cos[:, None], sin[:, None]", "cos, sin = cos[:, :, None], sin[:, :, None]")),
)  # fmt: skip

NORMS = (
    gemma3("norm_divides_by_root", (NORM, "normed = x32 / torch.sqrt(x32.square().mean(-1, keepdim=True) + self.eps)")),
    llama3("norm_weight_in_float32",
        ("normed.to(x.dtype) * self.weight", "(normed * self.weight.float()).to(x.dtype)")),
    llama3("norm_in_model_dtype", ("x32 = x.float()", "x32 = x")),
    qwen3("norm_by_torch", (f"        {NORM}\n", ""), ("        x32 = x.float()\n", ""),
        ("normed.to(x.dtype) * self.weight", "nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)")),
    llama3("norm_by_vector_length", (NORM, "length = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)\n"
        "        normed = x32 / (length**2 / x32.shape[-1] + self.eps).sqrt()")),
    gpt2("norm_by_hand",
        ("class Projection(nn.Module):", 'class LayerNorm(nn.LayerNorm):\n    """Step by step."""\n\n'
         '    def forward(self, x: Tensor) -> Tensor:\n        """`[..., C]` -> `[..., C]`."""\n'
         "        variance, mean = torch.var_mean(x.float(), dim=-1, keepdim=True, unbiased=False)\n"
         "        unit = (x.float() - mean) * torch.rsqrt(variance + self.eps)\n"
         "        return (unit * self.weight + self.bias).to(x.dtype)\n\n\nclass Projection(nn.Module):"),
        ("self.pre_attention_norm = nn.LayerNorm", "self.pre_attention_norm = LayerNorm"),
        ("self.pre_mlp_norm = nn.LayerNorm",
         "self.pre_mlp_norm = LayerNorm"), ("self.norm = nn.LayerNorm", "self.norm = LayerNorm")),
)  # fmt: skip

MLPS = (
    gemma3("gelu_factored", (GATED, "gate, up = self.gate_proj(x), self.up_proj(x)\n"
        "        inner = gate * (1 + 0.044715 * gate * gate)\n"
        "        gate = gate * torch.sigmoid(2 * 0.7978845608028654 * inner)\n"
        "        return self.down_proj(gate * up)")),
    llama3("silu_by_sigmoid", (GATED, "gate = self.gate_proj(x)\n"
        "        return self.down_proj(gate * gate.sigmoid() * self.up_proj(x))")),
    llama3("activation_in_float32",
        (GATED, "gated = self.activation(self.gate_proj(x).float()) * self.up_proj(x).float()\n"
        "        return self.down_proj(gated.to(x.dtype))")),
    qwen3("mlp_in_two_halves", (GATED, "gate, up = self.activation(self.gate_proj(x)), self.up_proj(x)\n"
        "        parts = zip((gate * up).chunk(2, dim=-1), self.down_proj.weight.chunk(2, dim=1), strict=True)\n"
        "        return sum(part @ weight.T for part, weight in parts)")),
    qwen3("gate_and_up_fused_while_running", (GATED,
        "both = nn.functional.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight)))\n"
        "        gate, up = both.chunk(2, dim=-1)\n        return self.down_proj(self.activation(gate) * up)")),
    gpt2("gelu_by_formula", ("self.down_proj(self.activation(self.up_proj(x)))",
        "self.down_proj(0.5 * (x := self.up_proj(x)) * "
        "(1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))))")),
    gpt2("projections_by_addmm", ("nn.functional.linear(x, self.weight.T, self.bias)",
        "torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)")),
)  # fmt: skip

OUTSIDE = (
    llama3("head_in_float32",
        (LOGITS, "return nn.functional.linear(self.norm(x).float(), self.lm_head.weight.float())")),
    llama3("residual_stream_in_float32",
        ("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids).float()"),
        ("self.attention(self.pre_attention_norm(x), cos",
         "self.attention(self.pre_attention_norm(x).to(self.dtype), cos"),
        ("self.mlp(self.pre_mlp_norm(x))", "self.mlp(self.pre_mlp_norm(x).to(self.dtype))"),
        ("        self.mlp = MLP(config)\n", "        self.mlp = MLP(config)\n\n    @property\n"
         "    def dtype(self) -> torch.dtype:\n        return self.mlp.down_proj.weight.dtype\n"),
        ("self.rotary(x, positions)", "self.rotary(x.to(self.lm_head.weight.dtype), positions)"),
        (LOGITS, "return self.lm_head(self.norm(x).to(self.lm_head.weight.dtype))")),
    qwen3("last_position_only", (LOGITS, "return self.lm_head(self.norm(x[:, -1:]))")),
    llama3("tuple_of_logits", (LOGITS, "return self.lm_head(self.norm(x)), cache")),
    gpt2("dictionary_of_logits", (LOGITS, 'return {"logits": self.lm_head(self.norm(x)), "cache": cache}')),
    llama3("head_in_slices", (LOGITS,
        "x = self.norm(x)\n        return torch.cat([x @ some.T for some in self.lm_head.weight.split(50)], dim=-1)")),
    qwen3("head_copied", (f"        if config.tie_word_embeddings:\n{HEAD_TIED}", ""),
        ("\n\n@dataclass(frozen=True)\nclass Config", f"{LOADER}\n\n@dataclass(frozen=True)\nclass Config")),
    llama3("embedding_by_one_hot", ("x = self.embed_tokens(input_ids)",
        "hot = nn.functional.one_hot(input_ids, self.config.vocab_size)\n"
        "        x = hot.to(self.embed_tokens.weight.dtype) @ self.embed_tokens.weight")),
    gpt2("positions_sliced", ("self.embed_positions(positions)", "self.embed_positions.weight[: positions.shape[1]]")),
    gpt2("dropout_in_eval", ("return self.o_proj(context.flatten(2))",
        "return nn.functional.dropout(self.o_proj(context.flatten(2)), 0.1, self.training)")),
    qwen3("time_first",
        ("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids).transpose(0, 1).contiguous()"),
        ("x + self.attention(self.pre_attention_norm(x), cos, sin, visible, cache)",
         "x + self.attention(self.pre_attention_norm(x).transpose(0, 1), cos, sin, visible, cache).transpose(0, 1)"),
        ("cos, sin = self.rotary(x, positions)", "cos, sin = self.rotary(x.transpose(0, 1), positions)"),
        (LOGITS, "return self.lm_head(self.norm(x).transpose(0, 1))")),
    llama3("row_by_row", ("x = layer(x, cos, sin, visible, None if cache is None else cache.layers[index])",
        "rows = zip(x.split(1), visible.split(1), strict=True)\n"
        "            x = torch.cat([layer(row, cos, sin, seen) for row, seen in rows])")),
    gemma3("layers_checkpointed",
        ("x = layer(x, *rotations[kind], visible[kind], None if cache is None else cache.layers[index])",
        "x = torch.utils.checkpoint.checkpoint(layer, x, *rotations[kind], visible[kind], use_reentrant=False)"),
        ("import torch\nfrom torch", "import torch\nimport torch.utils.checkpoint\nfrom torch")),
    gemma3("cap_by_module", ("return logits if cap is None else torch.tanh(logits / cap) * cap",
        "return logits if cap is None else nn.Tanh()(logits.div(cap)).mul(cap)"),
        config={"final_logit_softcapping": 30.0}),
)  # fmt: skip

REWRITES = (
    gemma3_flat("vocabulary_padded", ('"table": (c.vocab, c.width)', '"table": (c.vocab + 3, c.width)'),
        ('w["table"].copy_(tensors', 'w["table"][: model.config.vocab].copy_(tensors'),
        ('logits = x @ w["table"].T', 'logits = (x @ w["table"].T)[..., : c.vocab]')),
    gemma3_flat("offset_folded_for_one_norm", ('x = norm(x, w["norm"], c.eps)', 'x = norm(x, w["norm"] - 1, c.eps)'),
        ('w["norm"].copy_(tensors["model.norm.weight"])', 'w["norm"].copy_(1 + tensors["model.norm.weight"])')),
    gemma3_flat("scale_in_the_q_norm", ('q = norm(q, w["q_norm"], c.eps)', 'q = norm(q, w["q_norm"], c.eps) * c.scale'),
        ("scores = q @ k.mT * c.scale", "scores = q @ k.mT")),
    llama3_flat("up_before_gate",
        ('gate = F.silu(h @ w["gate"])\n    up = h @ w["up"]', 'up = h @ w["up"]\n    gate = F.silu(h @ w["gate"])')),
    llama3_flat("scale_in_the_weights", (" / math.sqrt(c.head_dim)", ""),
        ("place.copy_(tensor.T if tensor.ndim == 2 else tensor)",
         'factor = model.config.head_dim**-0.5 if part == "q" else 1\n'
         "            place.copy_((tensor.T if tensor.ndim == 2 else tensor) * factor)")),
    qwen3_split("heads_in_another_order",
        ("for head, query in enumerate(self.queries):", "for head, query in reversed(list(enumerate(self.queries))):"),
        ("return self.out(torch.cat(mixed, dim=-1))", "return self.out(torch.cat(mixed[::-1], dim=-1))")),
    qwen3_split("yarn", config={"rope_scaling":
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}),
    gpt2_split("one_table_for_all_heads",
        ("self.blocks = nn.Sequential(*(Block(config, layer) for layer in range(config.layers)))",
        "self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))"),
        ("        x = self.blocks(x)\n", "        for block in self.blocks:\n            x = block(x)\n")),
)  # fmt: skip

FIXTURES = tuple(Benign("as_it_is", path.stem) for path in sorted(FOLDERS[2].glob("[a-z]*.py")))
PORTS = tuple(Benign("as_it_is", path.stem) for folder in FOLDERS[:2] for path in sorted(folder.glob("[a-z]*.py")))

BENIGN: tuple[Benign, ...] = (
    *PORTS,
    *FIXTURES,
    *ATTENTION,
    *ROPE,
    *NORMS,
    *MLPS,
    *OUTSIDE,
    *REWRITES,
    *BENIGN_EXPERTS,
    *HYBRIDS,
)
