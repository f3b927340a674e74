"""The losses of TC-Depth as pure functions: maps first, reductions last; masks 1 = used."""
