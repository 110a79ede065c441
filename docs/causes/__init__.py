"""One page per cause, in Markdown; installed as `parity_causes`, and printed by `parity explain`."""
