"""Poses over time, interpolated to the stamps of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.geometry.pose_track import pose_at


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
        position = [(p.position.x, p.position.y, p.position.z) for p in poses]
        orientation = [
            (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w) for p in poses
        ]
        extrinsics = np.eye(4) if child_T_camera is None else child_T_camera
        return cls.from_arrays(
            np.asarray(stamps_ns, dtype=np.int64),
            np.array(position),
            np.array(orientation),
            extrinsics,
        )

    @classmethod
    def from_arrays(
        cls,
        stamps_ns: NDArray[np.int64],
        positions: NDArray[np.float64],
        quaternions: NDArray[np.float64],
        child_T_camera: NDArray[np.float64],
    ) -> Trajectory:
        """Sort N poses by their stamps, of which each counts once."""
        stamps, first = np.unique(stamps_ns, return_index=True)
        return cls(stamps, positions[first], quaternions[first], child_T_camera)

    def at(self, stamp_ns: int, max_gap_s: float = 0.2) -> NDArray[np.float64] | None:
        """
        Pose ``world_T_camera`` at a stamp, (4, 4).

        :return: None outside the trajectory, or where its poses are more than max_gap_s apart
        """
        pose = pose_at(stamp_ns, self.stamps_ns, self.positions, self.quaternions, max_gap_s)
        return None if pose is None else np.asarray(pose @ self.child_T_camera)
