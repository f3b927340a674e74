"""Estimates to messages, and odometry from one; images are read in ``frames``."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, TransformStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from transforms3d.quaternions import mat2quat

from tc_depth_ros.frames.frame import Frame, stamp_ns
from tc_depth_ros.scale.odometry_buffer import OdometryPose
from tc_depth_ros.temporal.pose_chain import ChainedPose

FLOAT_SIZE = 4
MAX_MM = 65535
CLOUD_FIELDS = ('x', 'y', 'z', 'rgb')


def header_of(frame: Frame) -> Header:
    """Stamp and frame id of the frame that a message belongs to."""
    seconds, nanoseconds = divmod(frame.stamp_ns, 1_000_000_000)
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame.frame_id)


def depth_image(depth: NDArray[np.float32], frame: Frame) -> Image:
    """Depth (H, W) in m as a 32FC1 image (REP 118)."""
    return _image(depth, '32FC1', FLOAT_SIZE, frame)


def depth_image_mm(depth: NDArray[np.float32], frame: Frame) -> Image:
    """Depth (H, W) in m as a 16UC1 image in mm: 0 where invalid, or beyond what 16 bits hold."""
    known = depth < MAX_MM / 1000  # so neither NaN nor Inf
    millimetres = np.zeros(depth.shape, dtype=np.uint16)
    np.rint(1000 * depth, out=millimetres, where=known, casting='unsafe')
    return _image(millimetres, '16UC1', 2, frame)


def confidence_image(confidence: NDArray[np.float32], frame: Frame) -> Image:
    """Confidence (H, W) in [0, 1] as a 32FC1 image."""
    return _image(confidence, '32FC1', FLOAT_SIZE, frame)


def colour_image(rgb: NDArray[np.uint8], frame: Frame) -> Image:
    """RGB (H, W, 3) as an rgb8 image."""
    return _image(rgb, 'rgb8', 3, frame)


def camera_info(frame: Frame) -> CameraInfo:
    """Intrinsics of a frame and of the depth that stands at its size: rectified, undistorted."""
    height, width = frame.size
    K = frame.K
    projection = np.hstack([K, np.zeros((3, 1))])
    return CameraInfo(
        header=header_of(frame),
        height=height,
        width=width,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=K.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=projection.reshape(-1),
    )


def organised_points(cloud: NDArray[np.float32], frame: Frame) -> PointCloud2:
    """Cloud (H, W, 4) of x, y, z in m and rgb as an organised PointCloud2."""
    height, width, columns = cloud.shape
    fields = [
        PointField(name=name, offset=index * FLOAT_SIZE, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(CLOUD_FIELDS)
    ]
    return PointCloud2(
        header=header_of(frame),
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=columns * FLOAT_SIZE,
        row_step=width * columns * FLOAT_SIZE,
        data=_bytes(cloud),
        is_dense=False,
    )


def odometry_pose(message: Odometry) -> OdometryPose:
    """Pose of an odometry message; raises ValueError where it is none."""
    place, turn = message.pose.pose.position, message.pose.pose.orientation
    # Of x and y: robots on wheels do not measure z, and say so by a variance of 1e12, as Gazebo's
    variance = float(np.max(message.pose.covariance[[0, 7]]))
    return OdometryPose(
        stamp_ns(message.header),
        np.array([place.x, place.y, place.z]),
        np.array([turn.x, turn.y, turn.z, turn.w]),
        # Some publishers mark what they do not know by -1
        np.sqrt(variance) if variance >= 0 else np.inf,
    )


def odometry(pose: ChainedPose, frame: Frame, odom_frame: str) -> Odometry:
    """Pose of the camera's optical frame, and its twist in that frame, both with covariance."""
    message = Odometry(header=header_of(frame), child_frame_id=frame.frame_id)
    message.header.frame_id = odom_frame
    place = message.pose.pose
    place.position.x, place.position.y, place.position.z = pose.odom_T_camera[:3, 3].tolist()
    place.orientation = _quaternion(pose)
    message.pose.covariance = pose.covariance.reshape(-1)
    twist = message.twist.twist
    twist.linear.x, twist.linear.y, twist.linear.z = pose.linear.tolist()
    twist.angular.x, twist.angular.y, twist.angular.z = pose.angular.tolist()
    message.twist.covariance = pose.twist_covariance.reshape(-1)
    return message


def odometry_transform(pose: ChainedPose, frame: Frame, odom_frame: str) -> TransformStamped:
    """The same pose as a transform from the odometry's frame to the camera's."""
    message = TransformStamped(header=header_of(frame), child_frame_id=frame.frame_id)
    message.header.frame_id = odom_frame
    shift = message.transform.translation
    shift.x, shift.y, shift.z = pose.odom_T_camera[:3, 3].tolist()
    message.transform.rotation = _quaternion(pose)
    return message


def _quaternion(pose: ChainedPose) -> Quaternion:
    w, x, y, z = mat2quat(pose.odom_T_camera[:3, :3]).tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def _image(pixels: NDArray[Any], encoding: str, pixel_bytes: int, frame: Frame) -> Image:
    height, width = pixels.shape[:2]
    return Image(
        header=header_of(frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * pixel_bytes,
        data=_bytes(pixels),
    )


def _bytes(values: NDArray[Any]) -> array[int]:
    """Contents as an array('B'), the one type that a message takes without checking each byte."""
    contents = array('B')
    contents.frombytes(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
    return contents
