"""How well the depths of two neighbouring frames agree, as numbers for the live diagnostics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.geometry.consistency import relative_difference
from tc_depth_ros.geometry.reprojection import in_view, lookup, sample
from tc_depth_ros.temporal.motion import Motion
from tc_depth_ros.temporal.view import View

STATISTICS_STEP = 2  # a quarter of the pixels gives the same medians for a quarter of the time


@dataclass(frozen=True)
class Consistency:
    """Of the earlier frame's pixels that the later frame has in view; all free of unit."""

    disagreement: float  # median of |carried - seen| / max, in [0, 1)
    scale_ratio: float  # median of seen / carried: 1 when steady, 1.2 if depth grew by a fifth
    inconsistent_share: float  # that differ by more than the threshold, in [0, 1]


class CarriedDepth(NamedTuple):
    """One view's depth carried into another, beside what that one says there."""

    carried: Tensor  # z in the other's frame, (1, 1, h, w)
    seen: Tensor  # the other's own z there, (1, 1, h, w)
    in_view: Tensor  # bool, (1, 1, h, w); False where a depth is not a number, too

    def thinned(self, step: int) -> CarriedDepth:
        """Every step-th pixel of every step-th row, in view, as vectors (N,): for statistics."""
        carried, seen, inside = (values[0, 0, ::step, ::step] for values in self)
        return CarriedDepth(carried[inside], seen[inside], inside[inside])


def carry(
    depth: Tensor, K: Tensor, other_T_this: NDArray[np.float64], other: Tensor
) -> CarriedDepth:
    """Carry depth (1, 1, h, w) by a motion (4, 4) to where the other view's depth (same) is."""
    pixels, carried = lookup(depth, K, torch.from_numpy(other_T_this).to(depth)[None])
    seen = sample(other, pixels)
    inside = in_view(pixels, carried, *other.shape[-2:]) > 0
    return CarriedDepth(carried, seen, inside & seen.isfinite())


def compare(
    earlier: View, later: View, motion: Motion, max_difference: float
) -> Consistency | None:
    """
    Compare the later depth with the earlier one carried into its view.

    Surfaces that come to be hidden count as differing; between neighbouring frames they are few.

    :param max_difference: |carried - seen| / max beyond which a pixel is inconsistent
    :return: None where nothing of the earlier frame is in view any more
    """
    pair = carry(earlier.depth, earlier.K, motion.later_T_earlier, later.depth)
    carried, seen, _ = pair.thinned(STATISTICS_STEP)
    if not len(carried):
        return None
    difference = relative_difference(carried, seen)
    return Consistency(
        float(difference.median()),
        float((seen / carried).median()),
        float((difference > max_difference).float().mean()),
    )


def scale_jump(consistency: Consistency, max_scale_step: float) -> bool:
    """Whether the scale changed, up or down, by more than a factor from one frame to the next."""
    return abs(math.log(consistency.scale_ratio)) > math.log(max_scale_step)
