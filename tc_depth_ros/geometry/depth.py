"""
Disparity, inverse depth and depth.

*disparity* is the network's sigmoid output in (0, 1), without unit; *inverse_depth* is in 1/m,
linear in disparity; *depth* is z in metres (up to the scale that the network was trained with).
"""

from __future__ import annotations

from torch import Tensor


def inverse_depth_from_disparity(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Map disparity in (0, 1) linearly onto inverse depth in (1/max_depth, 1/min_depth)."""
    nearest, farthest = 1.0 / min_depth, 1.0 / max_depth
    return farthest + (nearest - farthest) * disparity


def depth_from_disparity(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Depth in (min_depth, max_depth) of a disparity in (0, 1)."""
    return 1.0 / inverse_depth_from_disparity(disparity, min_depth, max_depth)


def disparity_from_depth(depth: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Invert :func:`depth_from_disparity`; depths outside the range give values outside (0, 1)."""
    nearest, farthest = 1.0 / min_depth, 1.0 / max_depth
    return (1.0 / depth - farthest) / (nearest - farthest)
