"""Bugs in models/glm_moe_dsa.py: in its indexer and in who shares it."""

from functools import partial

from bench.bugs import experts as e
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, ROTARY

new = partial(bug, "glm_moe_dsa")

SHARING = {"indexer_types": ["full"] * 3 + (["shared"] * 3 + ["full"]) * 18 + ["shared"] * 3}
FEWER = {"num_hidden_layers": 6, "indexer_types": ["full", "full", "shared", "full", "shared", "shared"]}
TURNED = (ROTARY, *e.INDEXED)
LAYERS = (*e.INDEXED, "model.layers.*")
ROTATED = "torch.cat((rotate(turned, cos, sin), kept), dim=-1)"
QUERIES = (
    "q = self._rotated(self.q_proj(q_latent).view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2), cos, sin)"
)
USED = "            visible = visible & picked\n"
CALLED = "            x, picked = layer(x, cos, sin, visible, picked, None if cache is None else cache.layers[index])\n"

MUTANTS: tuple[Mutant, ...] = (
    new("relu_forgotten", "activation", e.INDEXED,
        ("scores = torch.relu(q.float()", "scores = (q.float()"), also=("softmax-scale",)),
    new("one_key_less", "attention-mask", e.INDEXED, ("min(self.best, scores.shape[-1])",
        "min(self.best, scores.shape[-1]) - 1")),
    new("head_weights_forgotten", "attention-mask", e.INDEXED,
        ("scores = (weights[:, :, None] @ scores.transpose(1, 2)).squeeze(2)", "scores = scores.sum(1)")),
    new("indexer_by_halves", "rope-pairing", TURNED, ("torch.cat((rotate(turned, cos, sin), kept), dim=-1)",
        "torch.cat((turned * cos[:, None] + torch.cat((-turned.chunk(2, -1)[1], turned.chunk(2, -1)[0]), -1)"
        " * sin[:, None], kept), dim=-1)")),
    new("all_by_halves", "rope-pairing", TURNED,
        ("first, second = x[..., 0::2], x[..., 1::2]", "first, second = x.chunk(2, dim=-1)")),
    new("indexer_queries_not_rotated", "nope-and-temperature", TURNED,
        (QUERIES, QUERIES.replace("self._rotated(", "(").replace(", cos, sin)", ")")), also=("rope-pairing",
        "partial-rotary")),
    new("queries_not_latent_normed", "residual-topology", (*e.INDEXED, "model.layers.*.self_attn.q_*"),
        ("q_latent = self.q_a_norm(self.q_a_proj(x))", "q_latent = self.q_a_proj(x)"),
        also=("qknorm-missing-or-width",)),
    new("shared_layers_see_all", "layer-wiring", LAYERS, (CALLED, CALLED.replace("visible, picked, None",
        "visible, None, None")),
        config=FEWER, also=("attention-mask",)),
    new("shared_layers_take_the_first", "layer-wiring", LAYERS,
        (CALLED, CALLED.replace("x, picked =",
        "x, latest =") + "            picked = latest if picked is None else picked\n"),
        config=FEWER, also=("attention-mask",)),
    new("picked_twice", "layer-wiring", LAYERS,
        ("            picked = self.indexer(x, q_latent, cos, sin, visible, cache)\n",
         "            own = self.indexer(x, q_latent, cos, sin, visible, cache)\n"
         "            picked = own if picked is None else own | picked\n"), config=FEWER, also=("attention-mask",)),
    new("scale_of_kept_features", "softmax-scale", ATTENTION, e.SCALE_OF_KEPT),
    new("bias_in_the_shares", "router-selection", e.ROUTED, e.BIAS_IN_THE_SHARES, also=("router-norm-topk",)),
)  # fmt: skip
