"""What a depth network answers, whichever network it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MatchInputs:
    """What matching looks at in each frame of a window."""

    features: Tensor  # unit length, (B, F, C, H/4, W/4)
    context: Tensor  # the encoder's skip at 1/4, (B, F, C4, H/4, W/4)


@dataclass(frozen=True)
class DepthOutput:
    """Disparity of every frame of a window at four scales, finest first; without matching."""

    disparities: tuple[Tensor, ...]  # each (B, F, 1, H/2^s, W/2^s) in (0, 1)
    coarse_inverse_depth: Tensor | None  # (B, F, 1, H/8, W/8) in 1/m; None: it makes no guess
    match_inputs: MatchInputs | None = None  # None: the network does not match
