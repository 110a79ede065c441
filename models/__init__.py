"""From-scratch ports, one self-contained file per architecture."""
