"""
Which past frames to match with: those with parallax and overlap, as in multi-view stereo.

The last frames of a fast camera have no parallax. So a frame is kept only once the camera has
moved on from the frame kept before, and a camera that stands keeps what it has. Choosing by
distance and overlap follows DeepVideoMVS (Duzceker et al., CVPR 2021).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.network.matching import STRIDE, MatchView

Floats = NDArray[np.float64]

KEPT = 8  # keyframes of a track; at 192x256 they are 1.6 MB
TRACKS = 2  # odometry, and what stands in for it
GRID = 12  # rows and columns of the cells by which frames are compared
# Cells of parallax, median over the image:
NEW_KEYFRAME = 1.0  # from the last keyframe, for the frame to become one
BEST_PARALLAX = 4.0  # less tells depth less exactly; with more, frames look less alike
LEAST_PARALLAX = 0.5  # with less, depth cannot be told
NEW_KEYFRAME_OVERLAP = 0.7  # with less, the frame becomes a keyframe too
LEAST_OVERLAP = 0.3


@dataclass(frozen=True)
class _Keyframe:
    features: Tensor  # (1, C, h, w)
    track_T_camera: Floats


@dataclass(frozen=True)
class _Shared:
    """What two frames have in common."""

    parallax: float  # median, in cells
    overlap: float  # share of the target's cells that the other sees

    @property
    def worth(self) -> float:
        """In [0, 1]; more is better to match with."""
        if self.parallax < LEAST_PARALLAX or self.overlap < LEAST_OVERLAP:
            return 0.0
        ratio = self.parallax / BEST_PARALLAX
        return self.overlap**2 * 2 * ratio / (1 + ratio**2)


class KeyframeBuffer:
    """The last keyframes of each track; memory is bounded."""

    def __init__(self) -> None:
        self._tracks: dict[str, deque[_Keyframe]] = {}

    def __len__(self) -> int:
        """Count the keyframes of all tracks."""
        return sum(len(track) for track in self._tracks.values())

    def reset(self) -> None:
        """Forget all of them."""
        self._tracks.clear()

    def choose(
        self, pose: CameraPose, inverse_depth: Tensor, K: Tensor, most: int
    ) -> list[MatchView]:
        """
        The keyframes that are best to match a frame with; none without parallax or overlap.

        :param pose: of the frame, in the unit of its depth
        :param inverse_depth: of the frame, (1, 1, H, W)
        :param K: intrinsics in pixels of H x W, (1, 3, 3)
        :param most: how many
        """
        points = _points(inverse_depth, K)
        rated = []
        for keyframe in self._tracks.get(pose.track, ()):
            past_T_target = pose.past_T_this(keyframe.track_T_camera)
            rated.append((points.shared(past_T_target).worth, keyframe.features, past_T_target))
        best = sorted(rated, key=lambda one: -one[0])[:most]
        return [
            MatchView(features, torch.from_numpy(past_T_target).to(features)[None])
            for worth, features, past_T_target in best
            if worth > 0
        ]

    def add(self, pose: CameraPose, features: Tensor, inverse_depth: Tensor, K: Tensor) -> None:
        """Keep a frame, if the camera has moved on since the last keyframe of its track."""
        kept = self._tracks.pop(pose.track, deque(maxlen=KEPT))
        self._tracks[pose.track] = kept  # the last, so that the oldest track goes first
        while len(self._tracks) > TRACKS:
            del self._tracks[next(iter(self._tracks))]
        if kept:
            past_T_target = pose.past_T_this(kept[-1].track_T_camera)
            shared = _points(inverse_depth, K).shared(past_T_target)
            if shared.parallax < NEW_KEYFRAME and shared.overlap > NEW_KEYFRAME_OVERLAP:
                return
        kept.append(_Keyframe(features, pose.track_T_camera))


@dataclass(frozen=True)
class _Points:
    """Some points of a frame, spread over the image."""

    rays: Floats  # with z = 1, (3, N)
    inverse_depth: Floats  # (N,)
    K: Floats  # in pixels, (3, 3)
    size: tuple[int, int]  # (H, W)

    def shared(self, past_T_target: Floats) -> _Shared:
        """What a frame in the past has in common with this one."""
        at_infinity = self.K @ past_T_target[:3, :3] @ self.rays
        points = at_infinity + (self.K @ past_T_target[:3, 3:]) * self.inverse_depth
        pixels, unmoved = _pixels(points), _pixels(at_infinity)
        height, width = self.size
        inside = (points[2] > 0) & (at_infinity[2] > 0)
        inside &= (pixels >= 0).all(axis=0) & (pixels[0] < width) & (pixels[1] < height)
        if not inside.any():
            return _Shared(0.0, 0.0)
        moved = np.linalg.norm(pixels - unmoved, axis=0)[inside]
        return _Shared(float(np.median(moved)) / STRIDE, float(inside.mean()))


def _points(inverse_depth: Tensor, K: Tensor) -> _Points:
    height, width = inverse_depth.shape[-2:]
    rows = _spread(height)
    columns = _spread(width)
    thinned = inverse_depth[0, 0][rows[:, None], columns]
    intrinsics = K[0].double().cpu().numpy()
    v, u = np.meshgrid(rows, columns, indexing='ij')
    homogeneous = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    rays = np.asarray(np.linalg.inv(intrinsics) @ homogeneous, np.float64)
    return _Points(
        rays, thinned.detach().double().cpu().numpy().ravel(), intrinsics, (height, width)
    )


def _spread(side: int) -> NDArray[np.int64]:
    return ((np.arange(GRID) + 0.5) * side / GRID).astype(np.int64)


def _pixels(points: Floats) -> Floats:
    return np.asarray(points[:2] / np.maximum(points[2], 1e-6))
