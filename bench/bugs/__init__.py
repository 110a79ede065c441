"""The bug benchmark: ports broken on purpose, equivalent rewrites, and what Parity makes of both.

One file of mutants per port; `catalogue.py` has them all. The causes are those of the findings. What one full forward
in float64 does not show is in files by stage: `decoding.py`, `rounding.py`, `training.py`. Not here are `sinks` and
`alibi`, which no port has, and `input-tokens`, which is outside the network.

`head-dim-config` is rare: nearly all its forms break a shape and are refused when the port is loaded. Such loud faults
are left out altogether.
"""
