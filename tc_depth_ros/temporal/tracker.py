"""Follow a stream of predicted frames: motion, live consistency, confidence."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.settings import setting
from tc_depth_ros.temporal.confidence import PastView, confidence
from tc_depth_ros.temporal.consistency import Consistency, compare
from tc_depth_ros.temporal.motion import FlowMotion, Motion, MotionSource, PoseNetMotion
from tc_depth_ros.temporal.view import Shown, View

KEPT = 8  # past depths; at 192x256 they are 1.6 MB
# Of the median depth: a view taken from this far is compared with beside the last one. Nearer
# ones repeat the last one's mistakes, farther ones see too little of the same.
COMPARED_BASELINE = 0.05


@dataclass(frozen=True)
class TemporalConfig:
    """How frames are compared over time."""

    motion: Literal['auto', 'pose_network', 'flow', 'none'] = setting(
        'auto',
        "where the camera's motion comes from; auto: the pose network where the weights have one, "
        'else optical flow; none: no odometry, no consistency, confidence from edges alone',
        choices=('auto', 'pose_network', 'flow', 'none'),
    )
    max_difference: float = setting(
        0.1, 'pixels whose depth changes by a larger share are inconsistent', 0.001, 0.999
    )
    max_scale_step: float = setting(
        1.1, 'a larger factor between the depths of two frames is warned of', 1.001, 100.0
    )

    def __post_init__(self) -> None:
        """Refuse thresholds that mean nothing."""
        if not 0 < self.max_difference < 1:
            raise ValueError(f'max_difference is {self.max_difference}; it must be in (0, 1)')
        if not self.max_scale_step > 1:
            raise ValueError(f'max_scale_step is {self.max_scale_step}; it must be above 1')


@dataclass(frozen=True)
class TemporalEstimate:
    """What one frame adds."""

    motion: Motion | None  # from the frame before; None: it is the first, or cannot be told
    consistency: Consistency | None  # with the frame before; None where there is no motion
    confidence: NDArray[np.float32] | None  # (h, w) in [0, 1]; None: not asked for


def motion_source(
    config: TemporalConfig, pose_net: PoseNet | None = None, scale: float = 1.0
) -> MotionSource | None:
    """
    Make the source that a configuration asks for; None for 'none'.

    :param pose_net: of the weights, if they have one
    :param scale: of the weights
    :raises ValueError: the pose network is asked for, but there is none
    """
    if config.motion == 'none':
        return None
    if config.motion == 'pose_network' and pose_net is None:
        raise ValueError(
            "motion is 'pose_network', but the weights have no pose network: use 'flow' or 'auto'"
        )
    if config.motion == 'flow' or pose_net is None:
        return FlowMotion()
    return PoseNetMotion(pose_net, scale)


class TemporalTracker:
    """Compares each predicted frame with the last ones; keeps no more of them than it needs."""

    def __init__(self, source: MotionSource | None, config: TemporalConfig | None = None) -> None:
        self._source = source
        self._config = config or TemporalConfig()
        self._last: View | None = None
        self._past: deque[PastView] = deque(maxlen=KEPT)

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._last = None
        self._past.clear()

    def motion_to(self, shown: Shown) -> Motion | None:
        """The motion from the last frame to the next, whose depth need not be known yet."""
        earlier = self._last
        if earlier is None or self._source is None or not _same_camera(earlier, shown):
            return None
        return self._source.between(earlier, shown)

    def push(self, view: View, *, wants_confidence: bool) -> TemporalEstimate:
        """Take the next frame, and find its motion."""
        return self.compare(view, self.motion_to(view), wants_confidence=wants_confidence)

    def compare(
        self, view: View, motion: Motion | None, *, wants_confidence: bool
    ) -> TemporalEstimate:
        """
        Take the next frame; another size or K than before begins anew.

        :param motion: from motion_to
        """
        earlier = self._last
        if earlier is not None and not _same_camera(earlier, view):
            self.reset()
            earlier = None
        consistency = None
        if earlier is not None and motion is not None:
            self._move_on(earlier, motion)
            consistency = compare(earlier, view, motion, self._config.max_difference)
        else:
            self._past.clear()
        self._last = view
        certain = confidence(view, self._compared(view)) if wants_confidence else None
        return TemporalEstimate(motion, consistency, certain)

    def _move_on(self, earlier: View, motion: Motion) -> None:
        """See the past from the new frame."""
        step = motion.later_T_earlier
        moved = [past._replace(newest_T_past=step @ past.newest_T_past) for past in self._past]
        self._past = deque([*moved, PastView(earlier.depth, step)], maxlen=KEPT)

    def _compared(self, view: View) -> list[PastView]:
        """The last view, and the latest one taken from elsewhere; failing that the oldest."""
        if not self._past:
            return []
        wanted = COMPARED_BASELINE * float(view.depth.median())
        *before, last = self._past
        apart = (p for p in reversed(before) if np.linalg.norm(p.newest_T_past[:3, 3]) > wanted)
        second = next(apart, before[0] if before else None)
        return [last] if second is None else [last, second]


def _same_camera(a: Shown, b: Shown) -> bool:
    return a.image.shape == b.image.shape and torch.equal(a.K, b.K)
