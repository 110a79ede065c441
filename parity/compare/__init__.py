"""Where port and reference differ."""
