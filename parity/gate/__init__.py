"""The gate: several ports, side by side in processes of their own, held against what was frozen before."""
