"""
The camera's motion between two predicted frames, and how sure of it one can be.

Both sources answer in the unit of the views' depth, so depth and motion share one scale. An error
of that scale itself, of K or of the stamps does not show in any residual: no covariance holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.temporal.tracks import PointTracker, grey_image
from tc_depth_ros.temporal.view import Shown, View

Floats = NDArray[np.float64]

MIN_POINTS = 20
MIN_INLIER_SHARE = 0.3
MAX_INLIER_PX = 1.5
FLOW_BIAS_PX = 0.03  # see pose_covariance, as for the next
INDEPENDENT_RESIDUALS = 4


@dataclass(frozen=True)
class Motion:
    """How the camera moved between two frames."""

    later_T_earlier: Floats  # (4, 4), in the unit of the views' depth
    # (6, 6) of x, y, z in that unit and the rotation about x, y, z in rad, all along the axes of
    # the later camera: the order of geometry_msgs
    covariance: Floats
    evidence: Points | None = None  # what the images show of it; None: no image was asked

    def in_units_of(self, length: float) -> Motion:
        """The same where depth is counted in units of this length."""
        moved = self.later_T_earlier.copy()
        moved[:3, 3] /= length
        unit = np.diag([1 / length] * 3 + [1.0] * 3)
        evidence = self.evidence
        if evidence is not None:
            evidence = evidence._replace(scene=evidence.scene / length)
        return Motion(moved, np.asarray(unit @ self.covariance @ unit), evidence)


class MotionSource(Protocol):
    """Whatever tells the motion between two frames."""

    def between(self, earlier: View, later: Shown) -> Motion | None:
        """
        Find the motion, in the unit of the earlier depth; the later is not needed.

        :return: None where it cannot be told (no texture, nothing in common)
        """


class Points(NamedTuple):
    """Points that both views show."""

    scene: Floats  # in the earlier camera's frame, (N, 3)
    later: Floats  # (u, v) in pixels, (N, 2)
    K: Floats  # (3, 3)

    def residual_px(self, later_T_earlier: Floats) -> float:
        """Median distance of the points from where a motion (4, 4) projects them."""
        points = self.scene @ later_T_earlier[:3, :3].T + later_T_earlier[:3, 3]
        projected = points @ self.K.T
        pixels = projected[:, :2] / np.maximum(projected[:, 2:], 1e-6)
        return float(np.median(np.linalg.norm(pixels - self.later, axis=1)))


class _Pose(NamedTuple):
    """``later_T_earlier`` as OpenCV holds it."""

    rotation: Floats  # axis times angle in rad, (3,)
    translation: Floats  # (3,)

    def matrix(self) -> Floats:
        later_T_earlier = np.eye(4)
        later_T_earlier[:3, :3] = cv2.Rodrigues(self.rotation)[0]
        later_T_earlier[:3, 3] = self.translation.ravel()
        return later_T_earlier


class _Residuals(NamedTuple):
    """How far points lie from where a pose projects them."""

    pixels: Floats  # seen minus projected, (N, 2)
    # Of the projection to x, y, z, rotation x, y, z: (N, 2, 6)
    jacobian: Floats

    def normal_matrix(self) -> Floats:
        return np.asarray(np.einsum('nik,nil->kl', self.jacobian, self.jacobian))

    def gradients(self) -> Floats:
        """What each point asks of the pose, (N, 6)."""
        return np.asarray(np.einsum('nik,ni->nk', self.jacobian, self.pixels))


class FlowMotion:
    """
    Motion of a rigid scene from optical flow and the earlier view's depth.

    Points of texture are lifted by the earlier depth and found in the later image by flow; the
    pose that projects them there is RANSAC's on minimal sets, refined on its inliers.
    """

    def __init__(self) -> None:
        self._tracker = PointTracker()

    def between(self, earlier: View, later: Shown) -> Motion | None:
        """Find the motion; None for too few points, or too few that move as one."""
        points = _points(self._tracker, earlier, later)
        if len(points.scene) < MIN_POINTS:
            return None
        K = points.K
        # OpenCV's RANSAC brings its own random numbers, always the same
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points.scene,
            points.later,
            K,
            None,
            iterationsCount=50,
            reprojectionError=MAX_INLIER_PX,
            flags=cv2.SOLVEPNP_AP3P,
        )
        if not found or len(inliers) < max(MIN_POINTS, MIN_INLIER_SHARE * len(points.scene)):
            return None
        rigid = Points(points.scene[inliers[:, 0]], points.later[inliers[:, 0]], K)
        rotation, translation = cv2.solvePnPRefineLM(*rigid, None, rotation, translation)
        pose = _Pose(np.asarray(rotation, np.float64), np.asarray(translation, np.float64))
        return Motion(pose.matrix(), pose_covariance(_residuals(rigid, pose)), points)


class PoseNetMotion:
    """
    Motion by the pose network of the weights, measured against optical flow.

    The flow does not change the answer; it only says how far off the answer may be. See between.
    """

    def __init__(self, pose_net: PoseNet, scale: float = 1.0) -> None:
        """:param scale: of the weights, that makes network units the unit of the views' depth"""
        self._pose_net = pose_net
        self._scale = scale
        self._tracker = PointTracker()

    def between(self, earlier: View, later: Shown) -> Motion | None:
        """
        Ask the network; None where there is no texture to hold its answer against.

        The covariance is ``d d^T + C``: d is the step from the network's pose to the one that
        the flow fits best (Gauss-Newton), C what the flow itself leaves open.
        """
        points = _points(self._tracker, earlier, later)
        if len(points.scene) < MIN_POINTS:
            return None
        pose = self._ask(earlier, later)
        residuals = _residuals(points, pose)
        distance = np.linalg.norm(residuals.pixels, axis=1)
        # What moves by itself is farther off than the rest
        kept = distance <= 3 * np.median(distance)
        residuals = _Residuals(residuals.pixels[kept], residuals.jacobian[kept])
        step = np.linalg.solve(residuals.normal_matrix(), residuals.gradients().sum(axis=0))
        left = residuals._replace(pixels=residuals.pixels - residuals.jacobian @ step)
        return Motion(pose.matrix(), np.outer(step, step) + pose_covariance(left), points)

    def _ask(self, earlier: View, later: Shown) -> _Pose:
        with torch.inference_mode():
            later_T_earlier = self._pose_net(earlier.image, later.image)[0].double().cpu().numpy()
        rotation = cv2.Rodrigues(later_T_earlier[:3, :3])[0]
        return _Pose(rotation, self._scale * later_T_earlier[:3, 3])


def pose_covariance(residuals: _Residuals) -> Floats:
    """
    Covariance of the pose that fits residuals best: ``N (b^2 + s^2 / M) (J^T J)^-1``.

    Errors of depth and of flow are smooth over the image, so N points are not N pieces of
    evidence but about M, whatever N is; and flow has a bias b that no residual of its own image
    shows. s^2 is the residuals' variance. M and b are chosen so that real motion is covered: on
    274 pairs of a HoloLens recording the median squared Mahalanobis distance to its odometry is
    7 (5.3 would be right). In rendered rooms, whose flow is cleaner, it is 0.5 to 1.5: there the
    deviations are 2 to 3 times too large.

    :return: (6, 6), of the Jacobian's parameters
    """
    count = len(residuals.pixels)
    variance = float((residuals.pixels**2).sum()) / (2 * count - 6)
    of_mean = FLOW_BIAS_PX**2 + variance / INDEPENDENT_RESIDUALS
    return np.asarray(count * of_mean * np.linalg.inv(residuals.normal_matrix()))


def _points(tracker: PointTracker, earlier: View, later: Shown) -> Points:
    tracks = tracker.track(grey_image(earlier.image), grey_image(later.image))
    u, v = tracks.earlier.T
    z = earlier.depth[0, 0].cpu().numpy()[v, u].astype(np.float64)
    K = np.asarray(earlier.K[0].double().cpu().numpy())
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(z))], axis=1)
    return Points(rays * z[:, None], tracks.later, K)


def _residuals(points: Points, pose: _Pose) -> _Residuals:
    projected, jacobian = cv2.projectPoints(points.scene, *pose, points.K, None)
    # OpenCV's columns are rotation, translation, then the camera's
    ordered = np.asarray(jacobian[:, [3, 4, 5, 0, 1, 2]], np.float64)
    return _Residuals(points.later - projected[:, 0], ordered.reshape(-1, 2, 6))
