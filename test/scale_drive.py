"""A robot that drives, for the tests of scale: what its odometry says and what a network would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.scale.observation import ObservedFrame, PredictedMotion
from tc_depth_ros.scale.odometry_buffer import OdometryPose

SECOND = 1_000_000_000
NO_DEPTH = np.full((4, 6), np.nan, dtype=np.float32)
K = np.array([[200.0, 0, 128], [0, 200, 96], [0, 0, 1]])
# base_link is x forward, y left, z up; the camera looks ahead, 0.5 m before it and 1 m above
BASE_T_CAMERA = np.array([[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]])
SURE = np.diag([1e-6, 1e-6, 1e-6, 1e-8, 1e-8, 1e-8])


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


@dataclass(frozen=True)
class Drive:
    """Planar motion of base_link: where along x at a time, and its heading."""

    x_m: Callable[[float], float]
    heading: Callable[[float], float] = lambda t: 0.0

    def world_T_base(self, t: float) -> NDArray[np.float64]:
        angle = self.heading(t)
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[0, 3] = self.x_m(t)
        return pose

    def odometry(self, t: float, slip: float = 1.0) -> OdometryPose:
        """:param slip: odometry thinks it moved so many times as far"""
        angle = self.heading(t) / 2
        quaternion = np.array([0, 0, np.sin(angle), np.cos(angle)])
        return OdometryPose(ns(t), np.array([slip * self.x_m(t), 0, 0]), quaternion)

    def later_T_earlier(self, earlier: float, later: float) -> NDArray[np.float64]:
        """Motion of the camera, in m."""
        world_T_earlier = self.world_T_base(earlier) @ BASE_T_CAMERA
        world_T_later = self.world_T_base(later) @ BASE_T_CAMERA
        return np.asarray(np.linalg.inv(world_T_later) @ world_T_earlier)

    def frame(
        self, t: float, earlier: float | None, factor: float, covariance: NDArray = SURE
    ) -> ObservedFrame:
        """What the network says, if one of its units is so many metres."""
        motion = None
        if earlier is not None:
            later_T_earlier = self.later_T_earlier(earlier, t)
            later_T_earlier[:3, 3] /= factor
            motion = PredictedMotion(ns(earlier), later_T_earlier, covariance)
        return ObservedFrame(ns(t), NO_DEPTH, K, motion)


STRAIGHT = Drive(lambda t: 0.5 * t)
STANDING = Drive(lambda t: 0.0)


def ground_depth(
    height: float, tilt_deg: float = 0.0, roll_deg: float = 0.0, size: tuple[int, int] = (192, 256)
) -> NDArray[np.float32]:
    """Depth of an endless floor, seen from a height by a camera tilted down; sky is +Inf."""
    tilt, roll = np.deg2rad([tilt_deg, roll_deg])
    down = np.array([np.sin(roll), np.cos(roll) * np.cos(tilt), np.cos(roll) * np.sin(tilt)])
    v, u = np.indices(size)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T
    with np.errstate(divide='ignore'):
        depth = height / (rays @ down)
    return np.where(depth > 0, depth, np.inf).astype(np.float32)
