"""Poses over time, interpolated to the stamps of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.frame import stamp_ns
from tc_depth_ros.geometry.pose_track import pose_at
from tc_depth_training.data.topics import TRANSFORMS
from tc_depth_training.data.transform_tree import Chain, ends


@dataclass
class Track:
    """The poses received of something that moves, in the order recorded."""

    stamps_ns: list[int] = field(default_factory=list)
    poses: list[tuple[float, ...]] = field(default_factory=list)  # (7,) position, x y z w
    frames_before: list[int] = field(default_factory=list)  # that were recorded before each

    def add(self, header: Any, position: Any, turn: Any, frames_before: int) -> None:
        """Take a position and a quaternion, shaped as those of geometry_msgs."""
        self.stamps_ns.append(stamp_ns(header))
        self.poses.append((position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w))
        self.frames_before.append(frames_before)


@dataclass(frozen=True)
class Trajectory:
    """Poses of one frame in another, in time order."""

    stamps_ns: NDArray[np.int64]  # (N,), increasing
    positions: NDArray[np.float64]  # (N, 3) in m
    quaternions: NDArray[np.float64]  # (N, 4), x y z w

    @classmethod
    def of(cls, stamps_ns: NDArray[np.int64], poses: NDArray[np.float64]) -> Trajectory:
        """Sort poses (N, 7), as of a track, by their stamps, of which each counts once."""
        stamps, first = np.unique(stamps_ns, return_index=True)
        return cls(stamps, poses[first, :3], poses[first, 3:])

    def at(self, stamp_ns: int, max_gap_s: float = 0.2) -> NDArray[np.float64] | None:
        """
        Pose at a stamp, (4, 4).

        :return: None outside the trajectory, or where its poses are more than max_gap_s apart
        """
        return pose_at(stamp_ns, self.stamps_ns, self.positions, self.quaternions, max_gap_s)


@dataclass(frozen=True)
class CameraTrajectory:
    """Poses of the camera's optical frame, which stands on what the odometry is of."""

    odometry: Trajectory
    child_T_camera: Chain
    links: tuple[Trajectory, ...] = ()  # of those of the chain that move

    def at(self, stamp_ns: int, max_gap_s: float = 0.2) -> NDArray[np.float64] | None:
        """
        Pose ``world_T_camera`` at a stamp, (4, 4).

        :return: None where the odometry, or a link that moves, is not known as
            :meth:`Trajectory.at` knows it
        """
        world_T_child = self.odometry.at(stamp_ns, max_gap_s)
        moved = [link.at(stamp_ns, max_gap_s) for link in self.links]
        known = [pose for pose in moved if pose is not None]
        if world_T_child is None or len(known) < len(moved):
            return None
        return np.asarray(world_T_child @ self.child_T_camera.transform(known))


class CameraTracks:
    """What is received of an odometry, and of the links from it to the camera that move."""

    def __init__(self, topic: str, child_T_camera: Chain) -> None:
        self.topics = {topic, TRANSFORMS} if child_T_camera.moving else {topic}  # to be read
        self.child_T_camera = child_T_camera
        self.odometry = Track()
        self.links = tuple(Track() for _ in child_T_camera.moving)  # in this order

    def add(self, topic: str, message: Any, frames_before: int = 0) -> None:
        """Take a message of the odometry, nav_msgs/Odometry-shaped, or of /tf."""
        if topic == TRANSFORMS:
            self._add_transforms(message, frames_before)
        else:
            pose = message.pose.pose
            self.odometry.add(message.header, pose.position, pose.orientation, frames_before)

    def _add_transforms(self, message: Any, frames_before: int) -> None:
        moving = self.child_T_camera.moving
        for stamped in message.transforms:
            for link, track in zip(moving, self.links, strict=True):
                if ends(stamped) == (link.parent, link.child):
                    shift, turn = stamped.transform.translation, stamped.transform.rotation
                    track.add(stamped.header, shift, turn, frames_before)

    def trajectory(self) -> CameraTrajectory:
        """All of it, of which nothing may be missing."""
        odometry, *links = (
            Trajectory.of(np.array(track.stamps_ns), np.array(track.poses))
            for track in (self.odometry, *self.links)
        )
        return CameraTrajectory(odometry, self.child_T_camera, tuple(links))
