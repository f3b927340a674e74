"""How many metres one unit of depth is, found while driving."""
