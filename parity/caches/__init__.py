"""Quantised caches: how far a port's text goes astray when its cache is stored in fewer bytes, beside the line."""
