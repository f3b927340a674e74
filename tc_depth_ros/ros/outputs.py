"""The node's publishers. What nobody subscribes to is not computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.geometry.cloud import organised_cloud
from tc_depth_ros.pictures import DepthRangeFollower, colour_depth
from tc_depth_ros.pipeline import Estimate
from tc_depth_ros.ros import messages
from tc_depth_ros.settings import check_choices, group, setting
from tc_depth_ros.temporal.pose_chain import ChainedPose


@dataclass(frozen=True)
class PointsConfig:
    """The cloud, which is the largest output by far."""

    stride: int = setting(
        1, 'every how many rows and columns of the image there is a point', 1, 64, dynamic=True
    )
    max_rate_hz: float = setting(
        0.0, 'clouds a second at most; 0: one for every frame', 0.0, 1000.0, dynamic=True
    )


@dataclass(frozen=True)
class OdometryConfig:
    """The camera's motion as odometry."""

    frame_id: str = setting(
        'tc_depth_odom', 'frame of the odometry: x where the camera first looks, z up for it'
    )
    publish_tf: bool = setting(
        False, 'also as a transform on /tf; the camera must have no other parent there'
    )


@dataclass(frozen=True)
class OutputConfig:
    """What the outputs look like."""

    depth_encoding: str = setting(
        '32FC1', '32FC1 is in m, 16UC1 in mm with 0 for invalid', choices=('32FC1', '16UC1')
    )
    points: PointsConfig = group(PointsConfig, 'points')
    odometry: OdometryConfig = group(OdometryConfig, 'odometry')

    def __post_init__(self) -> None:
        """Refuse an unknown encoding."""
        check_choices(self)


class Outputs:
    """Publishes estimates to whoever listens."""

    def __init__(
        self,
        config: OutputConfig,
        advertise: Callable[[type[Any], str], Any],
        withdraw: Callable[[Any], object],
    ) -> None:
        """
        Advertise the topics.

        :param advertise: makes a publisher of a message type and a topic
        :param withdraw: destroys one
        :raises ValueError: what is asked for is not installed
        """
        self.config = config
        self._withdraw = withdraw
        tf_message = _tf_message() if config.odometry.publish_tf else None
        self._depth = advertise(Image, '~/depth/image')
        self._depth_info = advertise(CameraInfo, '~/depth/camera_info')
        self._points = advertise(PointCloud2, '~/points')
        self._confidence = advertise(Image, '~/confidence')
        self._depth_colour = advertise(Image, '~/depth/color')
        self._odometry = advertise(Odometry, '~/odometry')
        self._tf = advertise(tf_message, '/tf') if tf_message else None
        self._colours = DepthRangeFollower()
        self._next_points_s = 0.0  # monotonic

    @property
    def _all(self) -> tuple[Any, ...]:
        outputs = (
            self._depth,
            self._depth_info,
            self._points,
            self._confidence,
            self._depth_colour,
            self._odometry,
        )
        return outputs if self._tf is None else (*outputs, self._tf)

    def wanted(self) -> bool:
        """Whether anybody listens to anything."""
        return any(map(_is_heard, self._all))

    def wants_confidence(self) -> bool:
        """Whether anybody listens to the confidence."""
        return _is_heard(self._confidence)

    def publish(self, estimate: Estimate) -> None:
        """Publish what is subscribed to."""
        frame, depth = estimate.frame, estimate.depth
        if _is_heard(self._depth):
            is_float = self.config.depth_encoding == '32FC1'
            as_message = messages.depth_image if is_float else messages.depth_image_mm
            self._depth.publish(as_message(depth, frame))
        if _is_heard(self._depth_info):
            self._depth_info.publish(messages.camera_info(frame))
        if _is_heard(self._points) and self._points_are_due():
            stride = self.config.points.stride
            cloud = organised_cloud(depth, frame.image, frame.K, stride)
            self._points.publish(messages.organised_points(cloud, frame))
        if estimate.confidence is not None and _is_heard(self._confidence):
            self._confidence.publish(messages.confidence_image(estimate.confidence, frame))
        if _is_heard(self._depth_colour):
            colours = colour_depth(depth, self._colours.update(depth))
            self._depth_colour.publish(messages.colour_image(colours, frame))
        if estimate.pose is not None:
            self._publish_pose(estimate.pose, frame)

    def _publish_pose(self, pose: ChainedPose, frame: Frame) -> None:
        odom_frame = self.config.odometry.frame_id
        if _is_heard(self._odometry):
            self._odometry.publish(messages.odometry(pose, frame, odom_frame))
        if self._tf is not None:
            transform = messages.odometry_transform(pose, frame, odom_frame)
            self._tf.publish(_tf_message()(transforms=[transform]))

    def close(self) -> None:
        """Withdraw the topics."""
        for output in self._all:
            self._withdraw(output)

    def _points_are_due(self) -> bool:
        """Keep the cloud's own rate, counted from cloud to cloud without drift."""
        rate_hz, now_s = self.config.points.max_rate_hz, time.monotonic()
        if rate_hz <= 0:
            return True
        if now_s < self._next_points_s:
            return False
        period_s = 1 / rate_hz
        on_time = now_s - self._next_points_s < period_s
        self._next_points_s = (self._next_points_s if on_time else now_s) + period_s
        return True


def _tf_message() -> type[Any]:
    try:
        from tf2_msgs.msg import TFMessage  # not in the wheels
    except ImportError as error:
        raise ValueError(
            'odometry.publish_tf needs tf2_msgs, which is not installed: install it (it comes '
            'with ROS 2), or set it to false'
        ) from error
    message_type: type[Any] = TFMessage
    return message_type


def _is_heard(output: Any) -> bool:
    return bool(output.get_subscription_count())
