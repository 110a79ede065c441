"""Bugs in models/deepseek_v32.py: in its indexer above all, the rest being DeepSeek V3."""

from functools import partial

from bench.bugs import experts as e
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, ROTARY

new = partial(bug, "deepseek_v32")

TURNED = (ROTARY, *e.INDEXED)
SCORED = "scores = torch.relu(q.float() @ k[:, None].transpose(2, 3).float() * self.head_dim**-0.5)"
WEIGHED = "scores = (weights[:, :, None] @ scores.transpose(1, 2)).squeeze(2)"
HIDDEN = '        scores = scores.masked_fill(~visible[:, 0], float("-inf"))\n'
PICKED = "picked = scores.topk(min(self.best, scores.shape[-1]), dim=-1).indices"
KEYS = "k = self._rotated(self.k_norm(self.k_proj(x))[:, None], cos, sin)[:, 0]"
SPLIT = "turned, kept = x[..., : self.rope], x[..., self.rope :]"
ROTATED = "torch.cat((rotate(turned, cos, sin, interleaved=False), kept), dim=-1)"

MUTANTS: tuple[Mutant, ...] = (
    new("relu_forgotten", "activation", e.INDEXED, (SCORED, SCORED.replace("torch.relu(", "(")),
        also=("softmax-scale",)),
    new("head_weights_forgotten", "attention-mask", e.INDEXED, (WEIGHED, "scores = scores.mean(1)")),
    new("head_weights_softmaxed", "attention-mask", e.INDEXED,
        ("weights = self.head_weights(x).float() * self.heads**-0.5",
         "weights = self.head_weights(x).float().softmax(-1)")),
    new("one_key_less", "attention-mask", e.INDEXED, ("min(self.best, scores.shape[-1])",
        "min(self.best, scores.shape[-1]) - 1")),
    new("one_key_more", "attention-mask", e.INDEXED, ("min(self.best, scores.shape[-1])",
        "min(self.best + 1, scores.shape[-1])")),
    new("worst_keys", "attention-mask", e.INDEXED, (PICKED, PICKED.replace("dim=-1)", "dim=-1, largest=False)")),
        (HIDDEN, HIDDEN.replace('float("-inf")', 'float("inf")'))),
    new("picks_before_the_mask", "attention-mask", e.INDEXED, (HIDDEN, ""), consumer="picked = scores.topk(",
        also=()),
    new("indexer_interleaved", "rope-pairing", TURNED, (ROTATED, ROTATED.replace("False", "True"))),
    new("indexer_not_rotated", "nope-and-temperature", TURNED, (ROTATED, "torch.cat((turned, kept), dim=-1)"),
        also=("rope-pairing", "partial-rotary")),
    new("indexer_rotates_its_last_features", "partial-rotary", TURNED,
        (SPLIT, "kept, turned = x[..., : -self.rope], x[..., -self.rope :]"),
        (ROTATED, "torch.cat((kept, rotate(turned, cos, sin, interleaved=False)), dim=-1)"), also=("split-layout",)),
    new("indexer_keys_not_normed", "qknorm-missing-or-width", e.INDEXED, (KEYS,
        KEYS.replace("self.k_norm(self.k_proj(x))", "self.k_proj(x)"))),
    new("indexer_key_norm_without_mean", "norm-offset", e.INDEXED,
        (KEYS, KEYS.replace("self.k_norm(self.k_proj(x))",
                            "nn.functional.rms_norm(self.k_proj(x), (self.head_dim,), self.k_norm.weight, 1e-6)")),
        also=("norm-eps", "qknorm-missing-or-width")),
    new("indexer_not_used", "attention-mask", (*e.INDEXED, "model.layers.*"),
        ("visible = visible & self.indexer(x, q_latent, cos, sin, visible, cache)",
         "self.indexer(x, q_latent, cos, sin, visible, cache)")),
    new("attention_by_halves", "rope-pairing", (ROTARY, ATTENTION),
        ("q_turned = rotate(q_turned, cos, sin, interleaved=True)",
        "q_turned = rotate(q_turned, cos, sin, interleaved=False)"),
        ("turned = rotate(turned[:, None], cos, sin, interleaved=True)",
        "turned = rotate(turned[:, None], cos, sin, interleaved=False)")),
    new("group_by_its_best", "router-selection", e.ROUTED, e.GROUP_BY_ITS_BEST),
    new("values_before_keys", "split-layout", ATTENTION, e.VALUES_FIRST),
)  # fmt: skip
