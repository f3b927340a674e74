"""Poses over time, interpolated to the stamps of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rotation_from_quaternion(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of a quaternion in ROS's order (x, y, z, w), normalised here; (3, 3)."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose_matrix(
    position: NDArray[np.float64], quaternion: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Transform of a position (3,) in m and a quaternion (4,), x y z w; (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(quaternion)
    pose[:3, 3] = position
    return pose


def slerp(a: NDArray[np.float64], b: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
    """Rotate from quaternion a to b along the shorter arc; (4,)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:
        return np.asarray(a + fraction * (b - a))
    between = np.sin((1 - fraction) * angle) * a + np.sin(fraction * angle) * b
    return np.asarray(between / np.sin(angle))


@dataclass(frozen=True)
class Trajectory:
    """Poses of the camera's optical frame in a fixed frame, in time order."""

    stamps_ns: NDArray[np.int64]  # (N,), increasing
    positions: NDArray[np.float64]  # (N, 3) in m
    quaternions: NDArray[np.float64]  # (N, 4), x y z w
    # From the camera to the frame whose poses these are, (4, 4)
    child_T_camera: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))

    @classmethod
    def from_poses(
        cls,
        stamps_ns: Sequence[int],
        poses: Sequence[Any],
        child_T_camera: NDArray[np.float64] | None = None,
    ) -> Trajectory:
        """
        Build from geometry_msgs/Pose-shaped objects; a stamp that repeats counts once.

        :param child_T_camera: where the camera stands on what the poses are of; None: they are
            the camera's own
        """
        stamps, first = np.unique(np.asarray(stamps_ns, dtype=np.int64), return_index=True)
        position = [(p.position.x, p.position.y, p.position.z) for p in poses]
        orientation = [
            (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w) for p in poses
        ]
        extrinsics = np.eye(4) if child_T_camera is None else child_T_camera
        return cls(stamps, np.array(position)[first], np.array(orientation)[first], extrinsics)

    def at(self, stamp_ns: int, max_gap_s: float = 0.2) -> NDArray[np.float64] | None:
        """
        Pose ``world_T_camera`` at a stamp, (4, 4).

        :return: None outside the trajectory, or where its poses are more than max_gap_s apart
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self.stamps_ns) and self.stamps_ns[after] == stamp_ns:
            return self._camera_pose(self.positions[after], self.quaternions[after])
        if after == 0 or after == len(self.stamps_ns):
            return None
        before = after - 1
        gap_ns = int(self.stamps_ns[after] - self.stamps_ns[before])
        if gap_ns * 1e-9 > max_gap_s:
            return None
        fraction = float(stamp_ns - self.stamps_ns[before]) / gap_ns
        position = (1 - fraction) * self.positions[before] + fraction * self.positions[after]
        quaternion = slerp(self.quaternions[before], self.quaternions[after], fraction)
        return self._camera_pose(position, quaternion)

    def _camera_pose(
        self, position: NDArray[np.float64], quaternion: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.asarray(pose_matrix(position, quaternion) @ self.child_T_camera)
