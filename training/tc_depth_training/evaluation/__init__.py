"""How good is the depth, and how steady? Metrics as pure functions, one family per file."""
