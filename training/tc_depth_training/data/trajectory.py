"""Poses over time, interpolated to the stamps of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    @classmethod
    def from_poses(cls, stamps_ns: Sequence[int], poses: Sequence[Any]) -> Trajectory:
        """Build from geometry_msgs/Pose-shaped objects; a stamp that repeats counts once."""
        stamps, first = np.unique(np.asarray(stamps_ns, dtype=np.int64), return_index=True)
        position = [(p.position.x, p.position.y, p.position.z) for p in poses]
        orientation = [
            (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w) for p in poses
        ]
        return cls(stamps, np.array(position)[first], np.array(orientation)[first])

    def at(self, stamp_ns: int, max_gap_s: float = 0.2) -> NDArray[np.float64] | None:
        """
        Pose ``world_T_camera`` at a stamp, (4, 4).

        :return: None outside the trajectory, or where its poses are more than max_gap_s apart
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self.stamps_ns) and self.stamps_ns[after] == stamp_ns:
            return _pose(self.positions[after], self.quaternions[after])
        if after == 0 or after == len(self.stamps_ns):
            return None
        before = after - 1
        gap_ns = int(self.stamps_ns[after] - self.stamps_ns[before])
        if gap_ns * 1e-9 > max_gap_s:
            return None
        fraction = float(stamp_ns - self.stamps_ns[before]) / gap_ns
        position = (1 - fraction) * self.positions[before] + fraction * self.positions[after]
        quaternion = slerp(self.quaternions[before], self.quaternions[after], fraction)
        return _pose(position, quaternion)


def _pose(position: NDArray[np.float64], quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(quaternion)
    pose[:3, 3] = position
    return pose
