"""How the camera stands on the robot, from TF."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time

from tc_depth_ros.geometry.quaternion import pose_matrix

WARN_PERIOD_S = 10.0


class Mounting:
    """Looks up ``child_T_camera`` of an odometry's child frame; listens to TF only if it must."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer: Any = None
        self._listener: Any = None
        self._not_there: type[Exception] = Exception

    def find(self, child: str, camera: str) -> NDArray[np.float64] | None:
        """
        Transform ``child_T_camera``, (4, 4).

        :param child: frame whose pose the odometry gives; '' counts as the camera's
        :param camera: frame of the images
        :return: None while TF does not link the two, or where tf2_ros is not installed
        """
        if not child or child == camera:
            return np.eye(4)
        if self._buffer is None and not self._listen():
            return None
        try:
            found = self._buffer.lookup_transform(child, camera, Time()).transform
        except self._not_there as error:
            self._node.get_logger().warning(
                f'the odometry is of {child}, the images of {camera}, and TF does not link them '
                f'({error}): until it does, it is not used to match depth, and only straight '
                'motion tells the scale',
                throttle_duration_sec=WARN_PERIOD_S,
            )
            return None
        shift, turn = found.translation, found.rotation
        return pose_matrix(
            np.array([shift.x, shift.y, shift.z]), np.array([turn.x, turn.y, turn.z, turn.w])
        )

    def _listen(self) -> bool:
        try:
            import tf2_ros  # not in the wheels, and loud to start: only where it is needed
        except ImportError:
            self._node.get_logger().warning(
                'the odometry is not of the camera, and tf2_ros, which would link them, is not '
                'installed: it is not used to match depth, and only straight motion tells the '
                'scale',
                once=True,
            )
            return False
        self._not_there = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, self._node)
        return True
