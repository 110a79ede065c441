"""The bug benchmark: ports broken on purpose, equivalent rewrites, and what Parity makes of both.

One file of mutants per port; `catalogue.py` has them all. The causes are those of the findings. Out of reach of one
full forward in float64 on four dense architectures, and therefore not here:

- cache and batch: `swa-cache`, `ssm-state`, and the halves of `position-ids` and `attention-mask` that only decoding
  or padding shows;
- low precision alone: `cast-order`, `router-dtype`, `rope-precision`; promotion makes them exact on purpose;
- parts that these architectures lack: `moe-combine`, `router-norm-topk`, `router-selection`, `sinks`, `alibi`,
  `nope-and-temperature`, `mla-yarn-mscale`, `ssm-delta-math`, `ssm-gated-norm`; and `scalar-multipliers`, for which
  none of the four configs has a field;
- outside the network: `input-tokens`.

`head-dim-config` is rare: nearly all its forms break a shape and are refused when the port is loaded. Such loud faults
are left out altogether.
"""
