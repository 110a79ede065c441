"""Bugs that only training shows: gradients that stop on the way."""

from functools import partial

from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, FINAL_NORM, MLP, NORMS, QK_NORM

gemma3, llama3, qwen3, gpt2 = (partial(bug, port) for port in ("gemma3", "llama3", "qwen3", "gpt2"))
BLOCK = ("model.layers.*", "transformer.h.*", "model.norm", "transformer.ln_f", "lm_head")
WEIGHTS = "weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)"
NORMED = "normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)"
PLACES = (ATTENTION, MLP, *((NORMS,) if isinstance(NORMS, str) else NORMS), FINAL_NORM, QK_NORM, *BLOCK)

TRAINING: tuple[Mutant, ...] = (
    *(new("attention_weights_detached", "gradient-blocked", PLACES, (WEIGHTS, f"{WEIGHTS}.detach()"))
      for new in (gemma3, llama3, gpt2)),
    *(new("norm_scale_detached", "gradient-blocked", PLACES,
          (NORMED, NORMED.replace("x32.pow(2)", "x32.detach().pow(2)")))
      for new in (gemma3, qwen3)),
    llama3("norm_weight_data", "gradient-blocked", PLACES,
           ("return normed.to(x.dtype) * self.weight", "return normed.to(x.dtype) * self.weight.data")),
    gpt2("mlp_without_gradient", "gradient-blocked", PLACES,
         ("        return self.down_proj(self.activation(self.up_proj(x)))",
          "        with torch.no_grad():\n            return self.down_proj(self.activation(self.up_proj(x)))")),
)  # fmt: skip
