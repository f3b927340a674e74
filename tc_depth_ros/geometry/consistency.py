"""How well the depths of two views agree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tc_depth_ros.geometry.reprojection import in_view, lookup, sample


class DepthAgreement(NamedTuple):
    """Disagreement of two views' depths on the target's pixels."""

    difference: Tensor  # (B, 1, H, W) in [0, 1), 0 = equal, scale-free
    in_view: Tensor  # (B, 1, H, W) in {0, 1}, 1 = the pixel is seen by the source


def relative_difference(a: Tensor, b: Tensor) -> Tensor:
    """``1 - min(a, b) / max(a, b)`` of positive maps: in [0, 1), symmetric, free of scale."""
    return 1 - torch.minimum(a, b) / torch.maximum(a, b)


def depth_agreement(
    target_depth: Tensor,
    source_depth: Tensor,
    K: Tensor,
    source_T_target: Tensor,
    min_depth: float = 0.1,
    max_depth: float = 100.0,
) -> DepthAgreement:
    """
    Compare the target's depth, carried into the source view, with the source's own depth there.

    SPEC 2(b): ``l_geo = 1 - min(Dw, Di) / max(Dw, Di)``. Both are clamped to the network's range.

    :param target_depth: z of the target's pixels, (B, 1, H, W)
    :param source_depth: z of the source's pixels, (B, 1, H, W)
    :param source_T_target: takes points of the target to the source, (B, 4, 4)
    """
    pixels, carried_depth = lookup(target_depth, K, source_T_target)
    looked_up_depth = sample(source_depth, pixels)
    difference = relative_difference(
        carried_depth.clamp(min_depth, max_depth), looked_up_depth.clamp(min_depth, max_depth)
    )
    return DepthAgreement(difference, in_view(pixels, carried_depth, *source_depth.shape[-2:]))
