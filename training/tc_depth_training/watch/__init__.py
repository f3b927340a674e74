"""What a run shows: its log, its curves and pictures, and what is left to read at its end."""
