"""Predictions to messages and back, also through ROS's own tools where they are."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from nav_msgs.msg import Odometry
from sensor_msgs.msg import PointField

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.frame import Frame, decode_depth, decode_image, stamp_ns
from tc_depth_ros.geometry.cloud import organised_cloud
from tc_depth_ros.ros import messages
from tc_depth_ros.temporal.motion import Motion
from tc_depth_ros.temporal.pose_chain import PoseChain

pytestmark = pytest.mark.ros

RANDOM = np.random.default_rng(3)
FRAME = Frame(
    RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8),
    np.array([[8.0, 0, 3.25], [0, 9, 2.5], [0, 0, 1]]),
    2**31 * 1_000_000_000 - 1,  # the last stamp that a message can bear
    'front_optical_frame',
)
DEPTH = RANDOM.uniform(0.5, 9, (5, 7)).astype(np.float32)
DEPTH[1, 2], DEPTH[3, 4] = np.nan, np.inf
CLOUD = organised_cloud(DEPTH, FRAME.image, FRAME.K)


def test_a_depth_image_comes_back_as_it_was() -> None:
    message = messages.depth_image(DEPTH, FRAME)
    assert (message.encoding, message.step, message.is_bigendian) == ('32FC1', 28, 0)
    np.testing.assert_array_equal(decode_depth(message), DEPTH)


def test_a_depth_image_in_millimetres_rounds_and_has_0_where_there_is_none() -> None:
    depth = DEPTH.copy()
    depth[0, :4] = 1.2345, 1.2354, 65.534, 66.0
    message = messages.depth_image_mm(depth, FRAME)
    assert (message.encoding, message.step, message.is_bigendian) == ('16UC1', 14, 0)
    millimetres = np.frombuffer(message.data, np.uint16).reshape(5, 7)
    assert list(millimetres[0, :4]) == [1234, 1235, 65534, 0]
    assert millimetres[1, 2] == 0 and millimetres[3, 4] == 0  # NaN, Inf
    back = decode_depth(message)
    known = np.isfinite(back)
    assert known.sum() == depth.size - 3
    np.testing.assert_allclose(back[known], depth[known], atol=0.00051)


def test_a_view_with_gaps_is_packed() -> None:
    wide = np.repeat(DEPTH, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(decode_depth(messages.depth_image(wide, FRAME)), DEPTH)


def test_odometry_and_its_transform_say_the_same() -> None:
    motion = Motion(np.eye(4), np.diag([1.0, 2, 3, 4, 5, 6]))
    motion.later_T_earlier[:3, 3] = 0.1, -0.2, 0.3
    pose = PoseChain().add(motion, 0.5, 1.0)
    message = messages.odometry(pose, FRAME, 'odom')
    transform = messages.odometry_transform(pose, FRAME, 'odom')
    for one in (message, transform):
        assert (one.header.frame_id, one.child_frame_id) == ('odom', FRAME.frame_id)
        assert stamp_ns(one.header) == FRAME.stamp_ns
    place, shift = message.pose.pose.position, transform.transform.translation
    assert (place.x, place.y, place.z) == (shift.x, shift.y, shift.z)
    # The camera went back, right and down of how it looked: -z, -x and y of its optical frame
    np.testing.assert_allclose((place.x, place.y, place.z), (-0.3, 0.1, -0.2), atol=1e-12)
    assert message.pose.pose.orientation == transform.transform.rotation
    turn = transform.transform.rotation
    np.testing.assert_allclose((turn.x, turn.y, turn.z, turn.w), (-0.5, 0.5, -0.5, 0.5))
    assert message.twist.twist.linear.x == pytest.approx(-0.2)
    np.testing.assert_allclose(
        np.diag(np.reshape(message.twist.covariance, (6, 6))), [4, 8, 12, 16, 20, 24]
    )


@pytest.mark.parametrize(
    'variances, deviation_m',
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((4.0, 9.0, 1.0), 3.0),
        ((0.01, 0.01, 1e12), 0.1),  # z is not measured by robots on wheels
        ((-1.0, -1.0, -1.0), np.inf),
    ],
)
def test_how_sure_odometry_is(variances: tuple[float, ...], deviation_m: float) -> None:
    message = Odometry()
    message.pose.covariance[[0, 7, 14]] = variances
    assert messages.odometry_pose(message).deviation_m == pytest.approx(deviation_m)


def test_a_colour_image_comes_back_as_it_was() -> None:
    message = messages.colour_image(FRAME.image, FRAME)
    assert (message.encoding, message.step) == ('rgb8', 21)
    np.testing.assert_array_equal(decode_image(message), FRAME.image)


def test_headers_bear_stamp_and_frame_id() -> None:
    made = (
        messages.depth_image(DEPTH, FRAME),
        messages.camera_info(FRAME),
        messages.organised_points(CLOUD, FRAME),
    )
    for message in made:
        assert stamp_ns(message.header) == FRAME.stamp_ns
        assert message.header.frame_id == 'front_optical_frame'


def test_the_camera_info_is_of_a_rectified_image() -> None:
    message = messages.camera_info(FRAME)
    assert (message.height, message.width) == (5, 7)
    for rectify in (False, True):
        model = CameraModel.from_message(message, rectify)
        np.testing.assert_array_equal(model.K, FRAME.K)
        assert model.maps is None
    np.testing.assert_array_equal(message.k, FRAME.K.ravel())
    np.testing.assert_array_equal(message.r, np.eye(3).ravel())
    assert list(message.d) == [0] * 5


def test_a_cloud_is_organised_and_not_dense() -> None:
    message = messages.organised_points(CLOUD, FRAME)
    assert (message.height, message.width, message.is_dense) == (5, 7, False)
    assert (message.point_step, message.row_step) == (16, 7 * 16)
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        (name, 4 * index, PointField.FLOAT32, 1)
        for index, name in enumerate(('x', 'y', 'z', 'rgb'))
    ]
    values = np.frombuffer(message.data, np.float32).reshape(5, 7, 4)
    np.testing.assert_array_equal(values.view(np.uint32), CLOUD.view(np.uint32))


def test_data_is_an_array_which_messages_take_unchecked() -> None:
    assert isinstance(messages.depth_image(DEPTH, FRAME).data, array)
    assert isinstance(messages.organised_points(CLOUD, FRAME).data, array)


def test_cv_bridge_reads_the_depth_image() -> None:
    cv_bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    read = cv_bridge.CvBridge().imgmsg_to_cv2(messages.depth_image(DEPTH, FRAME), '32FC1')
    np.testing.assert_array_equal(read, DEPTH)


def test_sensor_msgs_py_reads_the_cloud() -> None:
    point_cloud2 = pytest.importorskip(
        'sensor_msgs_py.point_cloud2', reason='sensor_msgs_py is not installed'
    )
    read = point_cloud2.read_points_numpy(
        messages.organised_points(CLOUD, FRAME), field_names=('x', 'y', 'z')
    )
    np.testing.assert_array_equal(read.reshape(5, 7, 3), CLOUD[..., :3])
