"""The last poses of an odometry topic, by stamp."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.geometry.pose_track import pose_at

CAPACITY = 2048  # poses; 10 s of 200 Hz
MAX_LATE_NS = 1_000_000_000  # a message older than that against the newest: the clock jumped


@dataclass(frozen=True)
class OdometryPose:
    """Where the odometry's child frame stands in its parent frame."""

    stamp_ns: int
    position: NDArray[np.float64]  # (3,) in m
    quaternion: NDArray[np.float64]  # (4,), x y z w, not zero
    deviation_m: float = 0.0  # of the position, by the message's covariance; 0: it says nothing

    def __post_init__(self) -> None:
        """Refuse a pose that is none."""
        if not np.isfinite(self.position).all():
            raise ValueError(f'odometry at {self.stamp_ns} ns has the position {self.position}')
        norm = float(np.linalg.norm(self.quaternion))
        if not (np.isfinite(norm) and norm > 1e-6):
            raise ValueError(
                f'odometry at {self.stamp_ns} ns has the quaternion {self.quaternion}; its '
                'publisher must fill in pose.orientation'
            )


class OdometryBuffer:
    """
    Poses of the odometry's child frame, bounded, in the order of their stamps.

    A message that comes late is put in its place. One that is older than the newest by more than
    a second is not late: the clock jumped back, and the poses before the jump are forgotten.
    """

    def __init__(self, max_gap_s: float = 0.2, capacity: int = CAPACITY) -> None:
        self._max_gap_s = max_gap_s
        self._capacity = capacity
        self.clear()

    def __len__(self) -> int:
        """Count the poses."""
        return len(self._stamps_ns)

    def clear(self) -> None:
        """Forget all poses."""
        self._stamps_ns: list[int] = []
        self._positions: list[NDArray[np.float64]] = []
        self._quaternions: list[NDArray[np.float64]] = []
        self._deviations_m: list[float] = []

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest pose."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    def add(self, pose: OdometryPose) -> None:
        """Take a pose; a stamp that repeats counts once."""
        if self._stamps_ns and pose.stamp_ns < self._stamps_ns[-1] - MAX_LATE_NS:
            self.clear()
        place = bisect_left(self._stamps_ns, pose.stamp_ns)
        if place < len(self) and self._stamps_ns[place] == pose.stamp_ns:
            return
        self._stamps_ns.insert(place, pose.stamp_ns)
        self._positions.insert(place, pose.position)
        self._quaternions.insert(place, pose.quaternion)
        self._deviations_m.insert(place, pose.deviation_m)
        if len(self) > self._capacity:
            del self._stamps_ns[0], self._positions[0], self._quaternions[0]
            del self._deviations_m[0]

    def deviation_m_at(self, stamp_ns: int) -> float:
        """Deviation of the position that comes at a stamp or next after it; 0 where unknown."""
        place = bisect_left(self._stamps_ns, stamp_ns)
        return self._deviations_m[place] if place < len(self) else 0.0

    def at(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """
        Pose ``world_T_child`` at a stamp, (4, 4).

        :return: None before the oldest or after the newest pose, or in a gap
        """
        return pose_at(
            stamp_ns, self._stamps_ns, self._positions, self._quaternions, self._max_gap_s
        )
