"""Motions between frames, chained to an odometry whose uncertainty grows with every link."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.temporal.motion import Motion

Floats = NDArray[np.float64]

# REP 103: the odometry's x is where the camera first looks (its z), its z is up (its -y)
ODOM_R_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
# Of a link that is missing: no more is known than that the camera is somewhere near
LOST_COVARIANCE = np.eye(6)


@dataclass(frozen=True)
class ChainedPose:
    """Where the camera is and how it moves; covariances in the order x, y, z, about x, y, z."""

    odom_T_camera: Floats  # (4, 4), of the optical frame
    covariance: Floats  # (6, 6), in the axes of odom
    linear: Floats  # (3,) in m/s, in the axes of the camera
    angular: Floats  # (3,) in rad/s, in the axes of the camera
    twist_covariance: Floats  # (6, 6)


class PoseChain:
    """Chains the motions of a stream; starts at the origin."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again at the origin, certain of it."""
        self._odom_T_camera = np.eye(4)
        self._odom_T_camera[:3, :3] = ODOM_R_OPTICAL
        self._covariance = np.zeros((6, 6))  # in the axes of the camera
        self._began = False

    def lose(self) -> None:
        """Note that the camera moved, but not how; at the origin that does not matter."""
        if self._began:
            self._covariance = self._covariance + LOST_COVARIANCE

    def add(self, motion: Motion, step_s: float, factor: float) -> ChainedPose:
        """
        Chain a motion to those before.

        First order: the old uncertainty is carried into the new camera's axes by the adjoint of
        the motion, and the motion's own is added.

        :param step_s: that it took
        :param factor: from its unit to m
        """
        self._began = True
        later_T_earlier = np.array(motion.later_T_earlier)
        later_T_earlier[:3, 3] *= factor
        unit = np.diag([factor] * 3 + [1.0] * 3)
        own = unit @ motion.covariance @ unit
        carry = adjoint(later_T_earlier)
        self._covariance = carry @ self._covariance @ carry.T + own
        self._odom_T_camera = self._odom_T_camera @ np.linalg.inv(later_T_earlier)
        odom_R_camera = self._odom_T_camera[:3, :3]
        turn = np.kron(np.eye(2), odom_R_camera)
        return ChainedPose(
            self._odom_T_camera,
            turn @ self._covariance @ turn.T,
            -later_T_earlier[:3, 3] / step_s,
            -rotation_vector(later_T_earlier[:3, :3]) / step_s,
            own / step_s**2,
        )


def adjoint(a_T_b: Floats) -> Floats:
    """Carry a small motion (translation, rotation) in the axes of b to those of a; (6, 6)."""
    rotation, (x, y, z) = a_T_b[:3, :3], a_T_b[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.block([[rotation, cross @ rotation], [np.zeros((3, 3)), rotation]])


def rotation_vector(rotation: Floats) -> Floats:
    """Axis times angle in rad of a rotation matrix, (3,)."""
    return np.asarray(cv2.Rodrigues(rotation)[0], dtype=np.float64).reshape(3)
