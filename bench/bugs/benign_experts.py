"""Equivalent rewrites of ports with experts, latents and indexers."""

from functools import partial

from bench.bugs import experts as e
from bench.bugs.edits import Edit
from bench.bugs.mutant import Benign


def same(port: str, name: str, *edits: Edit) -> Benign:
    """An equivalent rewrite."""
    return Benign(name, port, edits)


qwen3_moe, glm4_moe, deepseek_v3 = (partial(same, port) for port in ("qwen3_moe", "glm4_moe", "deepseek_v3"))
deepseek_v32, glm_moe_dsa = partial(same, "deepseek_v32"), partial(same, "glm_moe_dsa")

LOOP = """        for index, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == index)
            mixed = mixed.index_add(0, rows, expert(tokens[rows]) * shares[rows, places, None])
"""
LOOP_OF_FLOATS = LOOP.replace(
    "expert(tokens[rows]) * shares[rows, places, None]",
    "(expert(tokens[rows]) * shares[rows, places, None]).to(mixed.dtype)",
)
STACKED = """        gates = torch.stack([expert.gate_proj.weight for expert in self.experts])
        ups = torch.stack([expert.up_proj.weight for expert in self.experts])
        downs = torch.stack([expert.down_proj.weight for expert in self.experts])
"""
DENSE = (
    STACKED
    + """        every = torch.zeros(len(tokens), len(self.experts), dtype=shares.dtype).scatter(1, chosen, shares)
        inner = nn.functional.silu(torch.einsum("nc,efc->nef", tokens, gates))
        inner = inner * torch.einsum("nc,efc->nef", tokens, ups)
        outer = torch.einsum("nef,ecf->nec", inner, downs)
        mixed = (outer * every[..., None]).sum(1).to(tokens.dtype)
"""
)
BATCHED = (
    STACKED
    + """        given = tokens.expand(len(self.experts), -1, -1)
        inner = nn.functional.silu(torch.bmm(given, gates.mT)) * torch.bmm(given, ups.mT)
        outer = torch.bmm(inner, downs.mT)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        mixed = (outer[chosen, rows] * shares[..., None]).sum(1).to(tokens.dtype)
"""
)
PICKED = (
    STACKED
    + """        inner = nn.functional.silu(torch.einsum("nc,nxfc->nxf", tokens, gates[chosen]))
        inner = inner * torch.einsum("nc,nxfc->nxf", tokens, ups[chosen])
        outer = torch.einsum("nxf,nxcf->nxc", inner, downs[chosen])
        mixed = (outer * shares[..., None].to(outer.dtype)).sum(1)
"""
)
SORTED = """        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        given = tokens[order // chosen.shape[1]].split(counts)
        made = torch.cat([expert(part) for expert, part in zip(self.experts, given, strict=True)])
        back = torch.empty_like(made)
        back[order] = made
        mixed = (back.view(*chosen.shape, -1) * shares[..., None]).sum(1).to(tokens.dtype)
"""
BY_PLACE = """        for place in range(chosen.shape[1]):
            for index in chosen[:, place].unique().tolist():
                rows = torch.where(chosen[:, place] == index)[0]
                made = self.experts[index](tokens[rows]) * shares[rows, place, None]
                mixed[rows] = mixed[rows] + made.to(mixed.dtype)
"""
FUSED_LOADER = '''

def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """By name; the experts of a layer in one tensor of gates and ups, and in one of downs."""
    state = {}
    for name, tensor in tensors.items():
        numbers = [part for part in name.split(".") if part.isdigit()]
        template = ".".join("{}" if part.isdigit() else part for part in name.split("."))
        if ".experts." not in name:
            state[WEIGHTS[template].format(*numbers)] = tensor
    for index, layer in enumerate(model.layers):
        if not isinstance(layer.mlp, Experts):
            continue
        names = [f"model.layers.{index}.mlp.experts.{expert}" for expert in range(len(layer.mlp.down))]
        both = [torch.cat((tensors[f"{name}.gate_proj.weight"], tensors[f"{name}.up_proj.weight"])) for name in names]
        state[f"layers.{index}.mlp.gate_up"] = torch.stack(both)
        state[f"layers.{index}.mlp.down"] = torch.stack([tensors[f"{name}.down_proj.weight"] for name in names])
    model.load_state_dict(state)


@dataclass(frozen=True)
class Config:'''
FUSED = """        for index in range(len(self.down)):
            rows, places = torch.where(chosen == index)
            gate, up = nn.functional.linear(tokens[rows], self.gate_up[index]).chunk(2, dim=-1)
            made = nn.functional.linear(nn.functional.silu(gate) * up, self.down[index])
            mixed = mixed.index_add(0, rows, (made * shares[rows, places, None]).to(mixed.dtype))
"""


def fused(made: str, count: str, size: str) -> tuple[Edit, ...]:
    """One parameter for the gates and ups of all experts, one for their downs, filled by the file's own loader."""
    shapes = f"self.gate_up = nn.Parameter(torch.zeros({count}, 2 * {size}, config.hidden_size))\n        "
    shapes += f"self.down = nn.Parameter(torch.zeros({count}, config.hidden_size, {size}))"
    return (
        (f"self.experts = nn.ModuleList({made})", shapes),
        ("\n\n@dataclass(frozen=True)\nclass Config:", FUSED_LOADER),
    )


WITHIN = """        outside = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
        return grouped.masked_fill(outside[..., None], float("-inf")).flatten(1)
"""
KV = "        kv = self.kv_b_proj(latents).view(*latents.shape[:2], -1, self.nope + self.value).transpose(1, 2)\n"
SPLIT = "        k_kept, v = kv.split((self.nope, self.value), dim=-1)\n"
JOINED = f"        {e.Q_JOINED}\n        {e.K_JOINED}\n"
SCORES = "        scores = q @ k.transpose(2, 3) * self.scale\n"
CONTEXT = "        context = (weights @ v).transpose(1, 2)\n"
ABSORBED: tuple[Edit, ...] = (
    (KV, "        both = self.kv_b_proj.weight.view(-1, self.nope + self.value, self.latent)\n"),
    (SPLIT, "        keys, values = both.split((self.nope, self.value), dim=1)\n"),
    (JOINED, "        q_latent_kept = torch.einsum(\"bhtp,hpl->bhtl\", q_kept, keys)\n"),
    (SCORES,
     "        scores = q_latent_kept @ latents[:, None].transpose(2, 3) + q_turned @ turned.transpose(2, 3)\n"
     "        scores = scores * self.scale\n"),
    (".to(q.dtype)\n        context", ".to(x.dtype)\n        context"),
    (CONTEXT, "        mixed = torch.einsum(\"bhts,bsl->bhtl\", weights, latents)\n"
              "        context = torch.einsum(\"bhtl,hul->bthu\", mixed, values)\n"),
)  # fmt: skip

ROUTERS: tuple[Benign, ...] = (
    qwen3_moe("top_k_then_softmax",
        ("shares = torch.softmax(self.router(tokens), dim=-1, dtype=torch.float32)\n"
         "        shares, chosen = torch.topk(shares, self.chosen, dim=-1)\n"
         "        if self.normalised:\n            shares = shares / shares.sum(-1, keepdim=True)\n",
         "best, chosen = torch.topk(self.router(tokens), self.chosen, dim=-1)\n"
         "        shares = torch.softmax(best, dim=-1, dtype=torch.float32)\n")),
    qwen3_moe("router_in_float32",
        ("self.router(tokens), dim=-1", "nn.functional.linear(tokens.float(), self.router.weight.float()), dim=-1")),
    deepseek_v3("router_by_linear",
        (e.SCORES, "scores = nn.functional.linear(tokens.float(), self.weight.float()).sigmoid()")),
    deepseek_v3("group_mask_by_comparison", (WITHIN,
        "        groups = torch.arange(self.groups, device=best.device)\n"
        "        inside = (best[..., None] == groups).any(1)\n"
        "        return torch.where(inside[..., None], grouped, float(\"-inf\")).flatten(1)\n")),
    deepseek_v3("groups_gathered",
        (e.CHOSEN, "self._best(scores + self.correction)"),
        ("    def _within_groups(self, scores: Tensor) -> Tensor:\n",
         "    def _best(self, scores: Tensor) -> Tensor:\n"
         "        grouped = scores.view(len(scores), self.groups, -1)\n"
         "        best = grouped.topk(2, dim=-1).values.sum(-1).topk(self.chosen_groups, dim=-1).indices\n"
         "        size = grouped.shape[-1]\n"
         "        inside = grouped.gather(1, best[..., None].expand(-1, -1, size)).flatten(1)\n"
         "        numbers = (best[..., None] * size + torch.arange(size, device=best.device)).flatten(1)\n"
         "        return numbers.gather(1, inside.topk(self.chosen, dim=-1).indices)\n\n"
         "    def _within_groups(self, scores: Tensor) -> Tensor:\n")),
    glm4_moe("scaled_in_the_division",
        (e.NORMALISED, "            shares = shares * (self.scale / (shares.sum(-1, keepdim=True) + 1e-20))\n"
                       "            return shares, chosen\n")),
)  # fmt: skip

SUMS = (
    qwen3_moe("every_expert_for_every_token", (LOOP, DENSE)),
    qwen3_moe("experts_batched", (LOOP, BATCHED)),
    qwen3_moe("experts_sorted", (LOOP, SORTED)),
    qwen3_moe("experts_by_place", (LOOP, BY_PLACE)),
    qwen3_moe("experts_fused", *fused("MLP(config, config.moe_intermediate_size) for _ in range(config.num_experts)",
        "config.num_experts", "config.moe_intermediate_size"), (LOOP, FUSED)),
    glm4_moe("weights_picked_by_token", (LOOP_OF_FLOATS, PICKED)),
    glm4_moe("experts_fused", *fused(e.EXPERT_MADE, "config.n_routed_experts", "size"), (LOOP_OF_FLOATS, FUSED)),
    deepseek_v3("experts_batched", (LOOP_OF_FLOATS, BATCHED)),
    deepseek_v3("experts_sorted", (LOOP_OF_FLOATS, SORTED)),
    deepseek_v3("shared_first", ("mixed = torch.zeros_like(tokens)", "mixed = self.shared(tokens)"),
        (e.BOTH, "return mixed.view_as(x)")),
)  # fmt: skip

LATENTS = (
    deepseek_v3("absorbed", *ABSORBED),
    deepseek_v3("both_downs_in_one",
        ("q = self.q_b_proj(self.q_a_norm(self.q_a_proj(x))) if self.compressed else self.q_proj(x)",
         "every = torch.cat((self.q_a_proj.weight, self.kv_a_proj.weight))\n"
         "        sizes = (len(self.q_a_proj.weight), self.latent, self.rope)\n"
         "        q, latents, turned = nn.functional.linear(x, every).split(sizes, dim=-1)\n"
         "        q = self.q_b_proj(self.q_a_norm(q))"),
        (f"        {e.A_SPLIT}\n", "")),
    deepseek_v3("neighbours_stay_neighbours",
        ("    return torch.cat((first, second), dim=-1) * cos + torch.cat((-second, first), dim=-1) * sin",
         "    cos, sin = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[0]\n"
         "    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)")),
    deepseek_v3("rotation_complex",
        ("    return torch.cat((first, second), dim=-1) * cos + torch.cat((-second, first), dim=-1) * sin",
         "    cos, sin = cos.chunk(2, dim=-1)[0].double(), sin.chunk(2, dim=-1)[0].double()\n"
         "    turned = torch.complex(first.double(), second.double()) * torch.complex(cos, sin)\n"
         "    return torch.view_as_real(turned).flatten(-2).to(x.dtype)")),
    glm_moe_dsa("scores_in_two_parts",
        (f"        {e.Q_JOINED}\n        {e.K_JOINED}\n", ""),
        (SCORES, "        scores = (q_kept @ k_kept.mT + q_turned @ turned.mT) * self.scale\n")),
)  # fmt: skip

INDEXERS = (
    deepseek_v32("indexer_unscaled",
        ("scores = torch.relu(q.float() @ k[:, None].transpose(2, 3).float() * self.head_dim**-0.5)",
         "scores = torch.relu(q.float() @ k[:, None].transpose(2, 3).float())"),
        ("self.head_weights(x).float() * self.heads**-0.5", "self.head_weights(x).float()")),
    deepseek_v32("indexer_by_einsum",
        ("scores = (weights[:, :, None] @ scores.transpose(1, 2)).squeeze(2)",
         'scores = torch.einsum("bth,bhts->bts", weights, scores)')),
    glm_moe_dsa("indexer_one_head_after_the_other",
        ("scores = torch.relu(q.float() @ k[:, None].transpose(2, 3).float() * self.head_dim**-0.5)",
         "scores = [torch.relu(head.float() @ k.mT.float() * self.head_dim**-0.5) for head in q.unbind(1)]"),
        ("scores = (weights[:, :, None] @ scores.transpose(1, 2)).squeeze(2)",
         "scores = sum(each * weights[..., n, None] for n, each in enumerate(scores))")),
)  # fmt: skip

BENIGN_EXPERTS = (*ROUTERS, *SUMS, *LATENTS, *INDEXERS)
