"""Stamps of a clock that may jump back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLOCK_JUMP_NS = 1_000_000_000  # back by more than this, a stamp is not just late


def clock_epochs(stamps_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the stretches between jumps of the clock backwards, (N,); a loop is a jump."""
    epochs, epoch, latest = np.zeros(len(stamps_ns), dtype=np.int64), 0, 0
    for index, stamp in enumerate(stamps_ns.tolist()):
        if stamp < latest - CLOCK_JUMP_NS:
            epoch, latest = epoch + 1, stamp
        latest = max(latest, stamp)
        epochs[index] = epoch
    return epochs
