"""What a depth network answers, whichever network it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DepthOutput:
    """Disparity of every frame of a window at four scales, finest first."""

    disparities: tuple[Tensor, ...]  # each (B, F, 1, H/2^s, W/2^s) in (0, 1)
    coarse_inverse_depth: Tensor | None  # (B, F, 1, H/8, W/8) in 1/m; None: it makes no guess
