"""
How far each depth can be trusted: a probability, from edges and from agreement with the past.

Confidence is the probability that the depth is within 25 % of the truth, given that the image's
median depth is right. (A common factor is the business of Consistency and of the scale.) It is a
logistic regression on these cues:

- *relief*, ``ln(max / min)`` of depth over 7 x 7 pixels: at edges a pixel's depth belongs to
  one surface or the other, or flies between;
- *disagreement*, the mean of ``|ln(carried / seen)|`` over the past views that have the point
  in view, each view's median taken out;
- *deviation*, of a matched frame: the spread of the depths that its match finds likely.

Where a point is out of all past views, or lies well behind what they see (it was hidden), there
is no evidence: relief decides alone, as it does for a first frame.

The constants were fitted on 7-Scenes' "red kitchen" (depth of a Kinect, every and every third
frame of 100) with the embedded weights, which were not trained on those frames. The order of
pixels carries over, the level follows the error that weights make on the scene at hand. Over bins
of a fifth of the pixels each, from low to high confidence, Abs Rel falls so:

========================================  =====================================  =============
recording                                 Abs Rel                                claimed, true
========================================  =====================================  =============
kitchen (fitted here)                     0.217, 0.171, 0.154, 0.139, 0.100      0.79, 0.78
HoloLens indoors (weights trained on it)  0.160, 0.134, 0.120, 0.109, 0.105      0.72, 0.87
KITTI, lidar (street; weights: indoors)   0.424, 0.327, 0.280, 0.240, 0.198      0.67, 0.53
========================================  =====================================  =============

The constants of matched frames were fitted on every third frame of the same kitchen, with the
weights that docs/paper.md describes. Their deviation adds little: of two pixels, one of them
within 25 % of the truth, it is given the higher confidence in 69.8 % of the cases, and in 68.7 %
without the deviation (HoloLens, frames never trained on; a rendered street 77.7 and 76.2 %, a
rendered room 61.3 and 61.6 %).

Tried and left out: the photometric error of the warp (orders HoloLens a little better, the kitchen
a little worse), flow against the rigid flow (of opposite sign on the two), texture and depth
itself (tell much of the kitchen, nothing of HoloLens).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.temporal.consistency import STATISTICS_STEP, carry
from tc_depth_ros.temporal.view import View

Map = NDArray[np.float32]

RELIEF_PX = 7
# Added before the logarithm: differences below are noise
RELIEF_FLOOR, DISAGREEMENT_FLOOR, DEVIATION_FLOOR = 0.02, 0.02, 0.02
MAX_DISAGREEMENT = 1.0  # of one view; a point far off is as wrong as it can be
HIDDEN = 0.2  # ln of carried over seen, beyond which the point was hidden from the past view


class PastView(NamedTuple):
    """What is kept of a frame that has passed."""

    depth: Tensor  # (1, 1, h, w)
    newest_T_past: NDArray[np.float64]  # (4, 4)


class Logistic(NamedTuple):
    """``1 / (1 + exp(-(offset + weights . cues)))``; each cue is a logarithm."""

    offset: float
    relief: float
    disagreement: float = 0.0
    deviation: float = 0.0

    def __call__(
        self, relief: Map, disagreement: Map | float = 0.0, deviation: Map | float = 0.0
    ) -> Map:
        score = self.offset + self.relief * relief + self.disagreement * disagreement
        score = score + self.deviation * deviation
        return np.asarray(1 / (1 + np.exp(-score)), dtype=np.float32)


BY_RELIEF = Logistic(-1.18, -0.94)
BY_BOTH = Logistic(-3.98, -0.83, -0.96)
MATCHED = Logistic(-2.32, -0.82, -0.33, -0.10)


def confidence(newest: View, past: Sequence[PastView]) -> Map:
    """
    Probability of each depth of the newest view, (h, w), in [0, 1]; see the module.

    :param past: views to compare with; none for a first frame
    """
    relief = relief_cue(newest.depth)
    certain = BY_RELIEF(relief)
    if past:
        cue, known = disagreement_cue(newest, past)
        by_past = BY_BOTH(relief, cue)
        if newest.deviation is not None:
            by_past = MATCHED(relief, cue, deviation_cue(newest.deviation, newest.size))
        certain = np.where(known, by_past, certain)
    # What is no number deserves no trust
    certain[~np.isfinite(certain) | ~newest.depth[0, 0].isfinite().cpu().numpy()] = 0
    return certain


def relief_cue(depth: Tensor) -> Map:
    """Logarithm of the depth's range around each pixel: large at edges, (h, w)."""
    z = depth[0, 0].cpu().numpy()
    around = np.ones((RELIEF_PX, RELIEF_PX), np.uint8)
    with np.errstate(invalid='ignore'):  # NaN stays NaN
        ratio = cv2.dilate(z, around) / cv2.erode(z, around)
        return np.asarray(np.log(np.log(ratio) + RELIEF_FLOOR))


def deviation_cue(deviation: Tensor, size: tuple[int, int]) -> Map:
    """Logarithm of how uncertain a match (1, 1, h / 4, w / 4) is, (h, w)."""
    full = F.interpolate(deviation.float(), size=size, mode='bilinear', align_corners=False)
    return (full + DEVIATION_FLOOR).log()[0, 0].cpu().numpy()


def disagreement_cue(newest: View, past: Sequence[PastView]) -> tuple[Map, NDArray[np.bool_]]:
    """Logarithm of the mean disagreement with past views, and where any has evidence; (h, w)."""
    total = torch.zeros_like(newest.depth)
    count = torch.zeros_like(newest.depth)
    for view in past:
        past_T_newest = np.asarray(np.linalg.inv(view.newest_T_past), np.float64)
        pair = carry(newest.depth, newest.K, past_T_newest, view.depth)
        few = pair.thinned(STATISTICS_STEP)
        if not len(few.carried):
            continue
        steady = pair.seen * (few.carried / few.seen).median()
        # Behind the camera there is no logarithm; such points are out of view too
        ratio = (pair.carried.clamp(min=1e-6) / steady).log()
        evident = pair.in_view & (ratio < HIDDEN)
        total += evident * ratio.abs().clamp(max=MAX_DISAGREEMENT)
        count += evident
    mean = (total / count.clamp(min=1) + DISAGREEMENT_FLOOR).log()
    return mean[0, 0].cpu().numpy(), (count > 0)[0, 0].cpu().numpy()
