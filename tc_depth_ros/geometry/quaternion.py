"""Rotations and poses of ROS messages: quaternions in the order x, y, z, w."""

from __future__ import annotations

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
