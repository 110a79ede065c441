"""Bugs in models/smollm3.py."""

from functools import partial

from bench.bugs import shared as s
from bench.bugs.edits import REMOVED
from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, HEAD, LAYER, NORMS, POST_ATTENTION_NORM, ROTARY

new = partial(bug, "smollm3")

TURNED = (ROTARY, ATTENTION)
TURNING = "        if self.rotated:\n            q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n"
PATTERN = "return tuple((layer + 1) % interval != 0 for layer in layers)"
BY_INTERVAL = {"no_rope_layers": REMOVED}
CALLED = 'return tuple(bool(hf["no_rope_layers"][layer]) for layer in layers)'

MUTANTS: tuple[Mutant, ...] = (
    new("rope_everywhere", "nope-and-temperature", TURNED,
        (TURNING, "        q, k = rotate(q, cos, sin), rotate(k, cos, sin)\n")),
    new("rope_nowhere", "nope-and-temperature", TURNED, (TURNING, ""), consumer="k, v = cache.append(k, v)"),
    new("rope_pattern_inverted", "nope-and-temperature", TURNED, ("if self.rotated:", "if not self.rotated:")),
    new("rope_pattern_read_inverted", "nope-and-temperature", TURNED, (CALLED, CALLED.replace("bool(", "not ("))),
    new("rope_pattern_one_layer_early", "nope-and-temperature", TURNED,
        (CALLED, CALLED.replace("[layer])", "[layer - 1])"))),
    new("rope_interval_of_two", "nope-and-temperature", TURNED,
        (f"    if hf.get(\"no_rope_layers\"):\n        {CALLED}\n"
         "    interval = hf.get(\"no_rope_layer_interval\", 4)\n", "    interval = 2\n")),
    new("no_rope_layer_counted_from_zero", "nope-and-temperature", TURNED,
        (PATTERN, PATTERN.replace("(layer + 1)", "layer")), config=BY_INTERVAL),
    new("queries_not_rotated", "nope-and-temperature", TURNED,
        ("q, k = rotate(q, cos, sin), rotate(k, cos, sin)", "k = rotate(k, cos, sin)"), also=("rope-axis-or-twice",)),
    new("theta_default", "rope-theta-config", TURNED,
        ('return settings.get("rope_theta", hf.get("rope_theta", 2_000_000.0))', "return 2_000_000.0")),
    new("rope_interleaved", "rope-pairing", TURNED, *s.INTERLEAVED),
    new("kv_tiled", "gqa-repeat", ATTENTION, *s.TILED),
    new("scale_by_kv_heads", "softmax-scale", ATTENTION, ("config.head_dim**-0.5",
        "(config.hidden_size // config.num_key_value_heads) ** -0.5")),
    new("head_left_random", "tied-head", HEAD, s.HEAD_LEFT_RANDOM, consumer="return self.lm_head(self.norm(x))"),
    new("mlp_without_norm", "residual-topology", (LAYER, POST_ATTENTION_NORM, "model.layers.*.mlp"),
        s.MLP_READS_NO_NORM),
    new("norm_eps_default", "norm-eps", NORMS, ("self.eps = eps", "self.eps = 1e-5")),
)  # fmt: skip
