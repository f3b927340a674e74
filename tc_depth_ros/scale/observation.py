"""What the estimator is told of a frame, and what a source of scale answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class PredictedMotion:
    """How the camera moved since an earlier frame, in the depth's own unit."""

    earlier_stamp_ns: int
    later_T_earlier: NDArray[np.float64]  # (4, 4)
    # (6, 6): translation x y z in unit^2, then the turn about x y z in rad^2, in the axes of the
    # later frame; NaN where the motion is not determined at all
    covariance: NDArray[np.float64]


@dataclass(frozen=True)
class ObservedFrame:
    """One frame as the network sees it, before any factor."""

    stamp_ns: int
    depth: NDArray[np.float32] | Tensor  # (h, w), z in the depth's own unit; not finite: none
    K: NDArray[np.float64]  # (3, 3), in pixels of this depth
    motion: PredictedMotion | None  # None: first frame, or not known


@dataclass(frozen=True)
class Attempt:
    """What came of the attempt to measure the scale at one frame."""

    ratio: float | None  # metres to one unit of depth
    due_s: float  # time since the frame before, if a ratio could be expected from it; else 0
    refusal: str = ''  # why there is no ratio, where there is something to say
