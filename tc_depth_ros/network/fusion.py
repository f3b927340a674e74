"""
Fuse depth with that of the frame before, carried along by the camera's motion. Ours.

A recursive mean of each pixel: depth is averaged with what earlier frames said about the same
point, if they agree. The mean of a point starts again if the point was hidden, has moved, or has
just come into view::

    depth here -> where it was in the last frame -> depth there, look there -> agreement -> mean
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tc_depth_ros.geometry.intrinsics import resize_intrinsics
from tc_depth_ros.geometry.reprojection import in_view, lookup, sample
from tc_depth_ros.network.matching import STRIDE

MOST_FRAMES = 12.0  # that a mean is taken over
# Where the earlier depth differs by this factor, it is weighted by e^-1/2 (0.61). A larger factor
# makes depth steadier, but an approaching object is then reported too late: see test_fusion.py
AGREEMENT_LOG = math.log(1.2)
# Mean similarity of features around a cell: at the first or less it is not the same point, at the
# second or more it is. Two unrelated cells have about 0, a point seen from two places 0.5 to 0.9
DIFFERENT, SAME = 0.15, 0.45
LOOK = 5  # rows and columns of cells whose similarity is averaged


class FusedDepth(NamedTuple):
    """Depth of a frame by all frames so far."""

    inverse_depth: Tensor  # (B, 1, H, W)
    frames: Tensor  # number of frames in the mean, at least 1, (B, 1, H, W)
    features: Tensor  # of the frame, unit length, (B, C, H/4, W/4)


def first_depth(inverse_depth: Tensor, features: Tensor) -> FusedDepth:
    """Depth of a first frame; shapes as in FusedDepth."""
    return FusedDepth(inverse_depth, torch.ones_like(inverse_depth), features)


def fuse(newest: FusedDepth, K: Tensor, last: FusedDepth, last_T_newest: Tensor) -> FusedDepth:
    """
    Fuse the depth of a frame with that of the frame before, in float32.

    :param newest: of the frame by itself
    :param K: intrinsics of both frames in pixels of H x W, (B, 3, 3)
    :param last_T_newest: takes points of the frame to the one before, (B, 4, 4)
    """
    inverse_depth = newest.inverse_depth
    with torch.autocast(inverse_depth.device.type, enabled=False):
        pixels, z = lookup(1 / inverse_depth, K, last_T_newest)
        there = sample(torch.cat([last.inverse_depth, last.frames], dim=1), pixels)
        # ln of the last frame's depth of the point over this frame's, both seen from the last
        # camera; from this one it is about the same
        deeper = -(there[:, :1] * z).clamp(min=1e-6).log()
        agreement = in_view(pixels, z, *inverse_depth.shape[-2:])
        agreement = agreement * torch.exp(-0.5 * (deeper / AGREEMENT_LOG) ** 2)
        agreement = agreement * _looks_the_same(newest, K, last, last_T_newest)
        before = agreement * there[:, 1:].clamp(max=MOST_FRAMES - 1)
        frames = 1 + before
        fused = inverse_depth * torch.exp(-deeper * before / frames)
    return FusedDepth(fused, frames, newest.features)


def _looks_the_same(
    newest: FusedDepth, K: Tensor, last: FusedDepth, last_T_newest: Tensor
) -> Tensor:
    """Whether a point looks as it did in the last frame, in [0, 1], (B, 1, H, W)."""
    cells = F.avg_pool2d(newest.inverse_depth, STRIDE)
    cell_K = resize_intrinsics(K, 1 / STRIDE, 1 / STRIDE)
    pixels, _ = lookup(1 / cells, cell_K, last_T_newest)
    similarity = (sample(last.features, pixels) * newest.features).sum(dim=1, keepdim=True)
    around = F.avg_pool2d(similarity, LOOK, stride=1, padding=LOOK // 2, count_include_pad=False)
    same = ((around - DIFFERENT) / (SAME - DIFFERENT)).clamp(0, 1)
    size = newest.inverse_depth.shape[-2:]
    return F.interpolate(same, size=size, mode='bilinear', align_corners=False)
