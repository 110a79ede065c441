"""Equivalent rewrites of ports that keep a state, make values of keys, embed per layer, or leave rope out of layers."""

from functools import partial

from bench.bugs.edits import Config, Edit, source
from bench.bugs.mutant import Benign


def same(port: str, name: str, *edits: Edit, config: Config = "", full_only: bool = False) -> Benign:
    """An equivalent rewrite, written in the order in which one thinks of it."""
    return Benign(name, port, edits, config, full_only)


def passage(port: str, first: str, last: str) -> str:
    """The text of a port from one line to another, both whole."""
    text = source(port).read_text(encoding="utf-8")
    start = text.index(first)
    end = text.index(last, start)
    return text[start : text.index("\n", end) + 1]


def loader(renamed: str) -> Edit:
    """A loader of the port's own: by name, but for tensors that `renamed` puts in other places."""
    return "\n\n@dataclass(frozen=True)\nclass Config:", LOADER.replace("        (renamed)\n", renamed) + (
        "\n\n@dataclass(frozen=True)\nclass Config:"
    )


LOADER = '''

def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """By name, but for what lies in another place here."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        numbers = [part for part in name.split(".") if part.isdigit()]
        place = WEIGHTS[".".join("{}" if part.isdigit() else part for part in name.split("."))]
        if place is None:
            continue
        place = place.format(*numbers)
        (renamed)
        state[place] = tensor
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["embed_tokens.weight"]
    model.load_state_dict(state)
'''
qwen3_5, nemotron_h, gemma4 = partial(same, "qwen3_5"), partial(same, "nemotron_h"), partial(same, "gemma4")
olmo3, smollm3 = partial(same, "olmo3"), partial(same, "smollm3")

EXPERTS = "qwen3.5-35b-a3b.json"
SUPER = "nemotron-3-super-120b-a12b.json"
SMALL = "gemma-4-e2b.json"
SPARSE = "gemma-4-26b-a4b.json"

RULE = passage("qwen3_5", "    tokens = q.shape[2]\n", "return torch.cat(read, dim=2)")
RULE_BY_TOKEN = """    read = []
    for token in range(q.shape[2]):
        state = state * decay[:, :, token, None, None].exp()
        recalled = (state * k[:, :, token, :, None]).sum(-2)
        written = (v[:, :, token] - recalled) * beta[:, :, token, None]
        state = state + k[:, :, token, :, None] * written[:, :, None]
        read.append((state * q[:, :, token, :, None]).sum(-2))
    return torch.stack(read, dim=2), state
"""
SOLVED = passage("qwen3_5", "    written = torch.linalg.solve_triangular", "    recalled = torch.linalg")
SOLVED_BY_ROW = """    inverse = -system.tril(-1)
    for row in range(1, size):
        inverse[..., row, :row] += (inverse[..., row, :row, None] * inverse[..., :row, :row].clone()).sum(-2)
    inverse = inverse + torch.eye(size, dtype=system.dtype, device=system.device)
    written, recalled = inverse @ (v * beta[..., None]), inverse @ (writing * decayed)
"""
SCAN = passage("nemotron_h", "    tokens = x.shape[2]\n", "return torch.cat(found, dim=2)")
SCAN_BY_TOKEN = """    found = []
    for token in range(x.shape[2]):
        state = torch.exp(decay[:, :, token])[..., None, None] * state
        state = state + write[:, :, token, :, None] * x[:, :, token, None]
        found.append(torch.einsum("bmqp,bmq->bmp", state, read[:, :, token]))
    return torch.stack(found, dim=2), state
"""
SEGMENTS = passage("nemotron_h", "    future = torch.ones(size, size", "    between = ")
SEGMENTS_SUMMED = """    steps = functional.pad(decay, (0, -tokens % size)).unflatten(2, (-1, size))
    below = torch.ones(size, size, dtype=torch.bool, device=x.device).tril(-1)
    sums = steps[..., None].expand(*steps.shape, size).masked_fill(~below, 0.0).cumsum(-2)
    between = sums.masked_fill(~below.tril(0) & ~torch.eye(size, dtype=torch.bool), -torch.inf).exp()
"""
EACH = passage(
    "nemotron_h",
    "        mixed = torch.zeros_like(tokens, dtype=shares.dtype)\n",
    "            mixed = mixed.index_add",
)
EACH_AT_ONCE = """        weights = torch.zeros(len(tokens), len(self.experts), dtype=shares.dtype, device=x.device)
        weights = weights.scatter(1, chosen, shares)
        said = torch.stack([expert(tokens) for expert in self.experts], dim=1)
        mixed = (said * weights[..., None]).sum(1)
"""
MIXING = passage("qwen3_5", "        mixed = torch.zeros_like(tokens)\n", "            mixed = mixed.index_add")
MIXING_AT_ONCE = """        weights = shares.new_zeros(len(tokens), len(self.experts)).scatter(1, chosen, shares)
        mixed = torch.stack([expert(tokens) for expert in self.experts], dim=1)
        mixed = (weights[:, None] @ mixed)[:, 0]
"""
CONVOLVED = "functional.silu(self.conv(cache.append(self.qkv_proj(x).transpose(1, 2)))).transpose(1, 2)"
SUMMED = (
    "cache.append(self.qkv_proj(x).transpose(1, 2)).unfold(2, self.kernel, 1)\n"
    "        qkv = functional.silu((qkv * self.conv.weight[:, 0, None]).sum(-1)).transpose(1, 2)"
)
QKV = "        self.qkv_proj = nn.Linear(config.hidden_size, channels, bias=False)\n"
ATTEND = passage("gemma4", "        k = k.repeat_interleave(self.groups, dim=1)\n", "        context = (weights @ v)")
ROTATED = "return x * cos + torch.cat((-second, first), dim=-1) * sin"

RECURRENT: tuple[Benign, ...] = (
    qwen3_5("delta_rule_by_token", (RULE, RULE_BY_TOKEN)),
    qwen3_5("delta_rule_in_short_chunks", ("CHUNK = 64", "CHUNK = 16")),
    qwen3_5("system_solved_by_row", (SOLVED, SOLVED_BY_ROW)),
    qwen3_5("convolution_summed", (CONVOLVED, SUMMED)),
    qwen3_5("convolution_by_function",
        ("self.conv(cache", "functional.conv1d(cache"),
        ("self.qkv_proj(x).transpose(1, 2))))", "self.qkv_proj(x).transpose(1, 2)), self.conv.weight,"
         " groups=self.conv.groups))")),
    qwen3_5("scaled_when_read", ("q = normalise(q) * self.key_dim**-0.5", "q = normalise(q)"),
        ("read = read.transpose(1, 2).to(x.dtype)", "read = (read * self.key_dim**-0.5).transpose(1, 2).to(x.dtype)")),
    qwen3_5("length_by_root", ("x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)",
        "x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()")),
    qwen3_5("projections_fused",
        (QKV, f"{QKV.replace('channels,', 'channels + self.sizes[2] + 2 * heads,')}"),
        ("        self.gate_proj = nn.Linear(config.hidden_size, self.sizes[2], bias=False)\n"
         "        self.beta_proj = nn.Linear(config.hidden_size, heads, bias=False)\n"
         "        self.decay_proj = nn.Linear(config.hidden_size, heads, bias=False)\n", ""),
        ("        qkv = functional.silu(self.conv(cache.append(self.qkv_proj(x).transpose(1, 2))))",
         "        sizes = (sum(self.sizes), self.sizes[2], len(self.a_log), len(self.a_log))\n"
         "        qkv, gate, beta, decay = self.qkv_proj(x).split(sizes, dim=-1)\n"
         "        qkv = functional.silu(self.conv(cache.append(qkv.transpose(1, 2))))"),
        ("torch.sigmoid(self.beta_proj(x))", "torch.sigmoid(beta)"),
        ("self.decay_proj(x).float()", "decay.float()"),
        ("        gate = self.gate_proj(x).view(read.shape)\n        return self.out_proj(self.norm(read, gate)",
         "        return self.out_proj(self.norm(read, gate.reshape(read.shape))"),
        loader('''        if "linear_attn.in_proj" in name:
            if "qkv" not in name:
                continue
            tensor = torch.cat([tensors[name.replace("qkv", part)] for part in ("qkv", "z", "b", "a")])
''')),
    qwen3_5("projections_apart",
        (QKV, "        self.parts = nn.ModuleList(nn.Linear(config.hidden_size, size, bias=False) "
              "for size in self.sizes)\n"),
        ("self.qkv_proj(x).transpose(1, 2)", "torch.cat([part(x) for part in self.parts], dim=-1).transpose(1, 2)"),
        loader('''        if "qkv_proj" in place:
            sizes = next(layer.delta_net.sizes for layer in model.layers if layer.kind != "full_attention")
            for part, rows in enumerate(tensor.split(sizes)):
                state[place.replace("qkv_proj", f"parts.{part}")] = rows
            continue
''')),
    qwen3_5("experts_all_at_once", (MIXING, MIXING_AT_ONCE), config=EXPERTS),
    qwen3_5("experts", config=EXPERTS),
    nemotron_h("scan_by_token", (SCAN, SCAN_BY_TOKEN)),
    nemotron_h("scan_in_one_chunk", ("    size = min(size, tokens)\n", "    size = tokens\n")),
    nemotron_h("segments_summed", (SEGMENTS, SEGMENTS_SUMMED)),
    nemotron_h("convolution_summed",
        ("mixed = functional.silu(self.conv(mixed))",
         "mixed = (mixed.unfold(2, self.kernel, 1) * self.conv.weight[:, 0, None]).sum(-1)\n"
         "        mixed = functional.silu(mixed + self.conv.bias[:, None])")),
    nemotron_h("squared_by_power", ("torch.relu(x).square()", "functional.relu(x) ** 2")),
    nemotron_h("squared_by_product", ("torch.relu(x).square()", "x * x.clamp_min(0)")),
    nemotron_h("gated_norm_by_torch",
        ("        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)\n"
         "        return normed.flatten(-2)",
         "        normed = functional.rms_norm(x32, x32.shape[-1:], eps=self.eps)\n        return normed.flatten(-2)")),
    nemotron_h("softplus_by_hand", ("functional.softplus(dt + self.dt_bias)",
        "torch.logaddexp(dt + self.dt_bias, torch.zeros_like(dt))")),
    nemotron_h("projection_in_parts",
        ("self.in_proj = nn.Linear(config.hidden_size, size + channels + self.heads, bias=config.use_bias)",
         "self.z_proj = nn.Linear(config.hidden_size, size, bias=config.use_bias)\n"
         "        self.x_proj = nn.Linear(config.hidden_size, size, bias=config.use_bias)\n"
         "        self.b_proj = nn.Linear(config.hidden_size, states, bias=config.use_bias)\n"
         "        self.c_proj = nn.Linear(config.hidden_size, states, bias=config.use_bias)\n"
         "        self.dt_proj = nn.Linear(config.hidden_size, self.heads, bias=config.use_bias)"),
        ("gate, mixed, dt = self.in_proj(x).split((self.sizes[0], sum(self.sizes), self.heads), dim=-1)",
         "gate, dt = self.z_proj(x), self.dt_proj(x)\n"
         "        mixed = torch.cat((self.x_proj(x), self.b_proj(x), self.c_proj(x)), dim=-1)"),
        loader('''        if "in_proj.weight" in place and "latent" not in place:
            mixer = next(layer.mixer for layer in model.layers if layer.kind == "mamba")
            for part, rows in zip("zxbcd", tensor.split((mixer.sizes[0], *mixer.sizes, mixer.heads)), strict=True):
                state[place.replace("in_proj", f"{part.replace('d', 'dt')}_proj")] = rows
            continue
''')),
    nemotron_h("experts_all_at_once", (EACH, EACH_AT_ONCE)),
    nemotron_h("latent", config=SUPER),
)  # fmt: skip

OTHERS = (
    gemma4("keys_projected_for_values",
        ("self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias) if values else None",
         "self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)"),
        ("            values = not config.kinds[kind].keys_as_values\n", ""),
        ("v = k if self.v_proj is None else self.v_proj(x)", "v = self.v_proj(x)"),
        loader('''        if "k_proj" in place and name.replace("k_proj", "v_proj") not in tensors:
            state[place.replace("k_proj", "v_proj")] = tensor.clone()
''')),
    gemma4("per_layer_tables",
        ("self.embed_tokens = ScaledEmbedding(config.vocab_size_per_layer_input, layers * size, size**0.5)",
         "self.tables = nn.ModuleList(\n            ScaledEmbedding(config.vocab_size_per_layer_input, size, size**0.5)"
         " for _ in range(layers)\n        )"),
        ("own = self.embed_tokens(input_ids).unflatten(-1, self.shape)",
         "own = torch.stack([table(input_ids) for table in self.tables], dim=2)"),
        loader('''        if place == "embed_per_layer.embed_tokens.weight":
            for layer, table in enumerate(tensor.chunk(len(model.layers), dim=1)):
                state[f"embed_per_layer.tables.{layer}.weight"] = table
            continue
'''), config=SMALL),
    gemma4("small", config=SMALL),
    gemma4("sparse", config=SPARSE),
    gemma4("sdpa", (ATTEND,
        "        visible = visible[..., -k.shape[2] :] | (visible.sum(-1, keepdim=True) == 0)\n"
        "        context = nn.functional.scaled_dot_product_attention(q, k, v, visible, scale=1.0, enable_gqa=True)\n"
        "        context = context.transpose(1, 2)\n")),
    gemma4("only_the_turned_part_rotated", ("    first, second = x.chunk(2, dim=-1)\n", ""),
        (ROTATED, "turned = int((sin[0, 0, -1] != 0).sum()) // 2 if sin.shape[2] > 1 else sin.shape[-1] // 2\n"
                  "    half = x.shape[-1] // 2\n"
                  "    first, second = x[..., :turned], x[..., half : half + turned]\n"
                  "    cos, sin = cos[..., :turned], sin[..., :turned]\n"
                  "    one, two = first * cos - second * sin, second * cos + first * sin\n"
                  "    return torch.cat((one, x[..., turned:half], two, x[..., half + turned :]), dim=-1)")),
    gemma4("shared_by_layer",
        ("            shared[self.kind] = (k, v) if cache is None else cache.append(k, v)\n        k, v = "
         "shared[self.kind]\n",
         "            k, v = (k, v) if cache is None else cache.append(k, v)\n"
         "            shared.setdefault(self.kind, []).append((k, v))\n"
         "        k, v = shared[self.kind][-1]\n"),
        ("Shared = dict[str, tuple[Tensor, Tensor]]", "Shared = dict[str, list[tuple[Tensor, Tensor]]]"),
        config=SMALL),
    gemma4("v_norm_by_torch", ("self.v_norm(v)", "nn.functional.rms_norm(v, v.shape[-1:], eps=self.v_norm.eps)")),
    olmo3("gain_on_queries_and_keys",
        ("return angles.cos() * self.scale, angles.sin() * self.scale", "return angles.cos(), angles.sin()"),
        ("x = layer(x, *rotations[kind], visible[kind]",
         "layer.attention.gain = self.rotary[kind].scale\n            x = layer(x, *rotations[kind], visible[kind]"),
        ("q, k = rotate(q, cos, sin), rotate(k, cos, sin)",
         "q, k = rotate(q, cos, sin) * self.gain, rotate(k, cos, sin) * self.gain")),
    olmo3("norm_by_torch",
        ("        x32 = x.float()\n        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)\n"
         "        return (self.weight * normed).to(x.dtype)",
         "        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)")),
    olmo3("qk_norm_as_heads",
        ("q = self.q_norm(self.q_proj(x)).view(heads).transpose(1, 2)",
         "q = self.q_proj(x).view(heads)\n"
         "        square = q.float().pow(2).mean((-1, -2), keepdim=True)\n"
         "        q = q.float() * torch.rsqrt(square + self.q_norm.eps)\n"
         "        q = (self.q_norm.weight.view(-1, self.head_dim) * q).to(x.dtype).transpose(1, 2)")),
    smollm3("rope_by_standing_still",
        ("        if self.rotated:\n            q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n",
         "        q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n"),
        ("x = layer(x, cos, sin, visible,",
         "turned = layer.attention.rotated\n"
         "            still = torch.ones_like(cos), torch.zeros_like(sin)\n"
         "            x = layer(x, *((cos, sin) if turned else still), visible,")),
    smollm3("rope_outside",
        ("        if self.rotated:\n            q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n",
         "        if cos is not None:\n            q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n"),
        ("x = layer(x, cos, sin, visible,",
         "x = layer(x, *((cos, sin) if layer.attention.rotated else (None, None)), visible,")),
)  # fmt: skip

HYBRIDS: tuple[Benign, ...] = (*RECURRENT, *OTHERS)
