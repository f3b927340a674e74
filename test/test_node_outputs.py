"""What the node gives beside depth: confidence, odometry, scale, consistency, and its options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_harness import (
    FRAME_ID,
    PERIOD_NS,
    Camera,
    Client,
    Process,
    node_command,
    ros_world,
    running,
    write_weights,
)
from transforms3d.quaternions import mat2quat

from tc_depth_ros.frames.frame import decode_depth, stamp_ns
from tc_depth_ros.geometry.quaternion import rotation_from_quaternion
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_ros.ros.node import TCDepthNode
from tc_depth_training.synthetic import SyntheticView, render_recording

pytestmark = pytest.mark.ros

CAMERA = Camera()
HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this file a ROS domain of its own; the folder has the weights."""
    folder = tmp_path_factory.mktemp('outputs')
    write_weights(folder / 'tiny.safetensors')
    with ros_world(folder):
        yield folder


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    """A walk through a rendered room, whose motion is known."""
    return list(render_recording(36, HEIGHT, WIDTH))


@contextmanager
def node_of(world: Path, name: str, **parameters: Any) -> Iterator[tuple[Process, Client]]:
    """Run a node under a name of its own, and a client."""
    given = {'weights': world / 'tiny.safetensors'} | parameters
    command = node_command(given, {'__node': name})
    with ExitStack() as stack:
        process = stack.enter_context(running(command, world / f'{name}.txt'))
        client = stack.enter_context(closing(Client(name)))
        yield process, client
        assert process.alive, process.output
        assert 'Traceback' not in process.output, process.output


def raw(index: int = 0) -> Any:
    return CAMERA.raw(CAMERA.picture(index))


def shown(client: Client, view: SyntheticView) -> tuple[Any, Any]:
    """A view of the room as the messages of a camera, which keeps its K."""
    camera = Camera(WIDTH, HEIGHT)
    info = camera.info()
    info.k = view.K.ravel()
    info.p = np.hstack([view.K, np.zeros((3, 1))]).ravel()
    return camera.raw(view.image), info


def values_of(image: Any) -> NDArray[np.float32]:
    return np.frombuffer(image.data, np.float32).reshape(image.height, image.width)


# ---- formats -------------------------------------------------------------------------------


def test_depth_in_millimetres_and_a_thin_cloud_at_its_own_rate(world: Path) -> None:
    options = {'depth_encoding': '16UC1', 'points.stride': 4, 'points.max_rate_hz': 3.0}
    with node_of(world, 'options', **options) as (_, client):
        client.listen('depth/image', 'points')
        client.meet(raw(), CAMERA.info())
        client.listen('depth/image')
        depth = client.ask(raw(), CAMERA.info())['depth/image']
        assert depth.encoding == '16UC1'
        metres = decode_depth(depth)
        assert np.isfinite(metres).mean() > 0.9
        client.listen('depth/image', 'points')
        client.until(client.met, 'the cloud is there')
        client.forget()
        for index in range(30):
            client.show(raw(index), CAMERA.info())
            client.spin_for(0.1)
        depths, clouds = (len(client.heard[name]) for name in ('depth/image', 'points'))
        assert depths >= 20
        assert 0.15 < clouds / depths < 0.5  # 3 Hz of 10 Hz
        cloud = client.heard['points'][-1]
    assert (cloud.height, cloud.width) == (30, 40)
    x, _, z, _ = np.moveaxis(
        np.frombuffer(cloud.data, np.float32).reshape(30, 40, 4).astype(np.float64), -1, 0
    )
    columns = (4 * np.arange(40) - CAMERA.K[0, 2]) / CAMERA.K[0, 0]
    known = np.isfinite(z)
    np.testing.assert_allclose((x / z)[known], np.broadcast_to(columns, z.shape)[known], rtol=1e-3)


def test_a_distorted_camera_is_rectified_unless_its_topic_says_so(world: Path) -> None:
    info = CAMERA.info()
    info.distortion_model, info.d = 'plumb_bob', [-0.4, 0.1, 0.0, 0.0, 0.0]
    depths = {}
    for name in ('raw', 'rect'):  # a topic of this name has a rectified image
        remaps = {'__node': name} | {t: f'{name}/{t}' for t in ('image', 'camera_info')}
        command = node_command({'weights': world / 'tiny.safetensors'}, remaps)
        with ExitStack() as stack:
            stack.enter_context(running(command, world / f'{name}.txt'))
            client = stack.enter_context(closing(Client(name, f'{name}/')))
            client.listen('depth/image', 'depth/camera_info')
            client.meet(raw(), info)
            client.stamp_ns += 100 * PERIOD_NS
            outputs = client.ask(raw(), info)
            depths[name] = decode_depth(outputs['depth/image'])
            assert not any(outputs['depth/camera_info'].d)
    predictor = DepthPredictor.from_weights(world / 'tiny.safetensors', 'cpu')
    K, d = CAMERA.K, np.array(info.d)
    straight = cv2.undistort(CAMERA.picture(), K, d)
    expected = predictor.push(frame_of(straight))
    predictor.reset()
    bent = predictor.push(frame_of(CAMERA.picture()))
    assert expected is not None and bent is not None
    both = np.isfinite(depths['raw'])
    assert both.mean() > 0.8
    np.testing.assert_allclose(depths['raw'][both], expected.depth[both], rtol=1e-3)
    np.testing.assert_allclose(depths['rect'], bent.depth, rtol=1e-3)


def frame_of(image: NDArray[np.uint8]) -> Any:
    from tc_depth_ros.frames.frame import Frame

    return Frame(image, CAMERA.K, 1, FRAME_ID)


# ---- confidence ----------------------------------------------------------------------------


def test_confidence_is_published_and_what_has_little_of_it_is_left_out(
    world: Path, views: list[SyntheticView]
) -> None:
    with node_of(world, 'sure', weights=DEFAULT_WEIGHTS) as (_, client):
        client.listen('depth/image', 'confidence')
        client.meet(*shown(client, views[0]))
        client.stamp_ns += 100 * PERIOD_NS
        for view in views[:4]:
            outputs = client.ask(*shown(client, view))
        confidence = values_of(outputs['confidence'])
        assert outputs['confidence'].encoding == '32FC1'
        assert confidence.shape == (HEIGHT, WIDTH)
        assert 0 <= confidence.min() < 0.5 < confidence.max() <= 1
        assert np.isfinite(decode_depth(outputs['depth/image'])).all()
    limit = round(float(np.median(confidence)), 3)
    with node_of(world, 'cut', weights=DEFAULT_WEIGHTS, min_confidence=limit) as (_, client):
        client.listen('depth/image')  # nobody listens to the confidence
        client.meet(*shown(client, views[0]))
        client.stamp_ns += 100 * PERIOD_NS
        for view in views[:4]:
            outputs = client.ask(*shown(client, view))
        depth = decode_depth(outputs['depth/image'])
    unsure = confidence < limit
    assert (np.isnan(depth) == unsure).mean() > 0.98


# ---- scale and odometry --------------------------------------------------------------------


def test_a_fixed_factor_is_on_every_depth_and_calls_itself_metric(world: Path) -> None:
    depths = {}
    for name, options in (
        ('plain', {}),
        ('fixed', {'scale.source': 'fixed', 'scale.factor': 2.5}),
    ):
        with node_of(world, name, **options) as (_, client):
            client.listen('depth/image')
            client.meet(raw(), CAMERA.info())
            client.stamp_ns += 100 * PERIOD_NS
            depths[name] = decode_depth(client.ask(raw(), CAMERA.info())['depth/image'])
            health = client.settled()
            fixed = name == 'fixed'
            assert health.values['metric'] == str(fixed)
            assert health.values['scale factor'] == ('2.5000' if fixed else '1.0000')
    np.testing.assert_allclose(depths['fixed'], 2.5 * depths['plain'], rtol=1e-5)


class TrueDepth:
    """Weights that are always right up to a factor: the room's own depth in place of theirs."""

    def __init__(self, views: list[SyntheticView], unit_m: float) -> None:
        self.by_image = {view.image.tobytes(): view.depth / unit_m for view in views}

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        from tc_depth_ros import predictor
        from tc_depth_ros.geometry.depth import disparity_from_depth

        whole, truth = predictor.DepthPredictor._forward, self
        size = (HEIGHT, WIDTH)
        monkeypatch.setattr(predictor, 'network_size', lambda *_: size)

        def answer(self: DepthPredictor, seen: Any, pose: Any) -> Any:
            import dataclasses

            given = whole(self, seen, pose)
            image = (seen.image[0].permute(1, 2, 0) * 255).round().byte().numpy().tobytes()
            depth = truth.by_image.get(image)
            if given is None or depth is None:
                return given
            disparity = disparity_from_depth(torch.from_numpy(depth).float(), 0.1, 100.0)
            return dataclasses.replace(given, disparity=disparity[None, None])

        monkeypatch.setattr(predictor.DepthPredictor, '_forward', answer)


def test_the_robots_odometry_makes_depth_metric_and_the_cameras_is_published(
    world: Path, views: list[SyntheticView], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depth that is right but for its unit, which the odometry must find; over DDS both ways."""
    unit_m = 1.6
    TrueDepth(views, unit_m).patch(monkeypatch)
    client = Client('metric')
    node = TCDepthNode(
        context=client.ros.context,
        cli_args=['--ros-args', '-r', '__node:=metric'],
        parameter_overrides=[
            Parameter(name, value=value)
            for name, value in {
                'weights': str(world / 'tiny.safetensors'),
                'scale.source': 'odometry',
                'scale.min_translation_m': 0.15,
                'scale.tracking_ratios': 3,
            }.items()
        ],
    )
    client.executor.add_node(node)
    odometry: list[Odometry] = []
    client.ros.create_subscription(Odometry, '/metric/odometry', odometry.append, 50)
    robot = client.ros.create_publisher(Odometry, 'odom', 50)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        client.listen('depth/image')
        client.until(lambda: robot.get_subscription_count() > 0, 'it listens to the odometry')
        client.meet(raw(), CAMERA.info())
        unknown = client.settled()
        assert unknown.values['scale state'] == 'UNKNOWN' and unknown.values['metric'] == 'False'
        client.stamp_ns += 100 * PERIOD_NS
        odometry.clear()
        for view in views:
            outputs = client.ask(*shown(client, view))
            robot.publish(odometry_of(view, client.stamp_ns))
            client.spin_for(0.02)
        health = client.settled()
    finally:
        node.trigger_shutdown()
        node.destroy_node()
        client.close()
    assert health.values['scale state'] == 'TRACKING', health
    assert health.values['metric'] == 'True'
    assert float(health.values['scale factor']) == pytest.approx(unit_m, rel=0.05)
    depth, truth = decode_depth(outputs['depth/image']), views[-1].depth
    assert np.median(depth / truth) == pytest.approx(1.0, abs=0.06)

    # The camera's own odometry: the way between two late frames is the true one
    late = odometry[-1], odometry[-6]
    assert all(o.child_frame_id == FRAME_ID for o in late)
    assert all(o.header.frame_id == 'tc_depth_odom' for o in late)
    assert stamp_ns(late[0].header) == client.stamp_ns
    way = distance(pose_of(late[0]), pose_of(late[1]))
    true_way = distance(views[-1].world_T_camera, views[-6].world_T_camera)
    assert way == pytest.approx(true_way, rel=0.15)
    covariance = np.reshape(late[0].pose.covariance, (6, 6))
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert np.trace(covariance) > np.trace(np.reshape(late[1].pose.covariance, (6, 6)))


def odometry_of(view: SyntheticView, stamp: int) -> Odometry:
    message = Odometry(child_frame_id=FRAME_ID)
    message.header.frame_id = 'map'
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
    place, turn = message.pose.pose.position, message.pose.pose.orientation
    place.x, place.y, place.z = view.world_T_camera[:3, 3].tolist()
    turn.w, turn.x, turn.y, turn.z = mat2quat(view.world_T_camera[:3, :3]).tolist()
    return message


def pose_of(message: Odometry) -> NDArray[np.float64]:
    place, turn = message.pose.pose.position, message.pose.pose.orientation
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(np.array([turn.x, turn.y, turn.z, turn.w]))
    pose[:3, 3] = place.x, place.y, place.z
    return pose


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3]))


# ---- live consistency ----------------------------------------------------------------------


def test_consistency_is_in_the_diagnostics_and_a_jump_of_the_scale_is_warned_of(
    world: Path, views: list[SyntheticView], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = TrueDepth(views, 1.0)
    truth.patch(monkeypatch)
    client = Client('steady')
    node = TCDepthNode(
        context=client.ros.context,
        cli_args=['--ros-args', '-r', '__node:=steady'],
        parameter_overrides=[Parameter('weights', value=str(world / 'tiny.safetensors'))],
    )
    client.executor.add_node(node)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        client.listen('depth/image')
        client.meet(*shown(client, views[0]))
        client.stamp_ns += 100 * PERIOD_NS
        for view in views[:5]:
            client.ask(*shown(client, view))
        health = client.settled()
        assert health.is_ok, health
        assert float(health.values['consistency: median disagreement']) < 0.02
        assert float(health.values['consistency: scale ratio']) == pytest.approx(1.0, abs=0.02)
        assert float(health.values['consistency: inconsistent share']) < 0.1

        jumped = views[5]
        truth.by_image[jumped.image.tobytes()] = 1.3 * jumped.depth
        client.ask(*shown(client, jumped))
        warned = client.until_healthy(lambda h: h.is_warning, 'a warning')
        assert 'the scale of depth jumped by +30 %' in warned.message
    finally:
        node.trigger_shutdown()
        node.destroy_node()
        client.close()
