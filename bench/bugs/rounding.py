"""Bugs that only lower precision shows: casts in another order, tables and scores in too few digits."""

from functools import partial

from bench.bugs.mutant import Mutant, bug
from bench.bugs.places import ATTENTION, EMBEDDING, FINAL_NORM, NORMS, QK_NORM, ROTARY

gemma3, llama3, qwen3 = (partial(bug, port) for port in ("gemma3", "llama3", "qwen3"))
gpt2 = partial(bug, "gpt2")

EVERY_NORM = (*((NORMS,) if isinstance(NORMS, str) else NORMS), FINAL_NORM, QK_NORM)
ANGLES = "angles = positions[..., None].float() * self.inv_freq"

ROUNDING: tuple[Mutant, ...] = (
    gemma3("norm_cast_before_the_weight", "cast-order", EVERY_NORM,
           ("return (normed * (1.0 + self.weight.float())).to(x.dtype)",
            "return normed.to(x.dtype) * (1.0 + self.weight)")),
    gemma3("norm_cast_before_the_float32_weight", "cast-order", EVERY_NORM,
           ("return (normed * (1.0 + self.weight.float())).to(x.dtype)",
            "return normed.to(x.dtype) * (1.0 + self.weight.float()).to(x.dtype)")),
    gemma3("norm_squares_in_low_precision", "cast-order", EVERY_NORM,
           ("torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)",
            "torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps).float()")),
    gemma3("embedding_scale_not_rounded", "cast-order", EMBEDDING,
           ("return super().forward(input_ids) * scale",
            "return (super().forward(input_ids).float() * scale).to(self.weight.dtype)"),
           ("scale = torch.tensor(self.embedding_dim**0.5).to(self.weight.dtype)",
            "scale = torch.tensor(self.embedding_dim**0.5)")),
    *(new("rope_table_in_bf16", "rope-precision", (ROTARY, ATTENTION),
          (ANGLES, ANGLES.replace("self.inv_freq", "self.inv_freq.to(x.dtype).float()")))
      for new in (gemma3, llama3, qwen3)),
    *(new("angles_in_bf16", "rope-precision", (ROTARY, ATTENTION),
          (ANGLES,
           "angles = positions[..., None].to(x.dtype) * self.inv_freq.to(x.dtype)"))
      for new in (gemma3, llama3, qwen3)),
    llama3("norm_mean_in_low_precision", "cast-order", EVERY_NORM,
           ("torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)",
            "torch.rsqrt(x32.pow(2).mean(-1, keepdim=True).to(x.dtype) + self.eps).float()")),
    qwen3("norm_root_in_low_precision", "cast-order", EVERY_NORM,
          ("torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)",
           "torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps).to(x.dtype).float()")),
)  # fmt: skip
