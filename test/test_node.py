"""The node as a robot has it: a process of its own, images in and depth out over DDS."""

from __future__ import annotations

import dataclasses
import signal
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from numpy.typing import NDArray
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from ros_harness import (
    FRAME_ID,
    OUTPUTS,
    PERIOD_NS,
    PROFILE_VARIABLES,
    ROOT,
    Camera,
    Client,
    Health,
    Process,
    node_command,
    queue_of,
    ros_world,
    running,
    write_weights,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from tc_depth_ros.frames.frame import Frame, decode_depth, decode_image, stamp_ns
from tc_depth_ros.frames.window import WindowConfig
from tc_depth_ros.pipeline import PipelineConfig
from tc_depth_ros.predictor import DepthPredictor, PredictorConfig
from tc_depth_ros.ros import messages
from tc_depth_ros.ros.node import TCDepthNode
from tc_depth_ros.ros.outputs import OutputConfig
from tc_depth_ros.ros.parameters import NodeConfig
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.synthetic import SyntheticView

pytestmark = pytest.mark.ros

CAMERA = Camera()
FRAMES = 6
LONG_NS = 10_000_000_000  # more than max_gap_s


class Exchange(NamedTuple):
    """One image, and what the node made of it."""

    picture: NDArray[np.uint8]  # RGB
    stamp_ns: int
    outputs: dict[str, Any]


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this file a ROS domain of its own; the folder has the weights."""
    folder = tmp_path_factory.mktemp('node')
    write_weights(folder / 'tiny.safetensors')
    with ros_world(folder):
        yield folder


@pytest.fixture(scope='module')
def ranges(world: Path) -> PredictorConfig:
    """Ranges that make some of the random depth too near and some too far."""
    predictor = DepthPredictor.from_weights(world / 'tiny.safetensors', 'cpu')
    prediction = predictor.push(Frame(CAMERA.picture(), CAMERA.K, 1, FRAME_ID))
    assert prediction is not None
    near, far = np.quantile(prediction.depth, (0.2, 0.8))
    return PredictorConfig(min_range=round(float(near), 4), max_range=round(float(far), 4))


@pytest.fixture(scope='module')
def node(world: Path, ranges: PredictorConfig) -> Iterator[Process]:
    """Run the node that most tests share."""
    parameters = {
        'weights': world / 'tiny.safetensors',
        'min_range': ranges.min_range,
        'max_range': ranges.max_range,
    }
    file = ROOT / 'config' / 'tc_depth.yaml'
    command = node_command(parameters, None, '--params-file', str(file))
    with running(command, world / 'node.txt') as process:
        yield process


@pytest.fixture(scope='module')
def shared_client() -> Iterator[Client]:
    """Join the shared node's domain."""
    client = Client()
    yield client
    client.close()


@pytest.fixture
def client(node: Process, shared_client: Client) -> Iterator[Client]:
    """Listen to the depth of the shared node, which begins a new window and outlives the test."""
    shared_client.listen('depth/image')
    shared_client.stamp_ns += LONG_NS
    shared_client.meet(raw(), CAMERA.info())
    shared_client.stamp_ns += LONG_NS
    yield shared_client
    assert node.alive, node.output
    assert 'Traceback' not in node.output, node.output


@pytest.fixture(scope='module')
def exchanges(node: Process, shared_client: Client) -> list[Exchange]:
    """Show the node some images of one window, each when the one before has been answered."""
    shared_client.listen(*OUTPUTS)
    shared_client.meet(raw(), CAMERA.info())
    shared_client.stamp_ns += LONG_NS
    answered = []
    for index in range(FRAMES):
        picture = CAMERA.picture(index)
        outputs = shared_client.ask(CAMERA.raw(picture), CAMERA.info())
        answered.append(Exchange(picture, shared_client.stamp_ns, outputs))
    return answered


class Inner(NamedTuple):
    """A node in this process, for faults that only a patch can bring about."""

    start: Callable[[dict[str, Any]], TCDepthNode]
    client: Client


@pytest.fixture
def inner(world: Path) -> Iterator[Inner]:
    """Start nodes within the client's executor."""
    client = Client('inner')
    nodes = []

    def start(parameters: dict[str, Any]) -> TCDepthNode:
        given = {'weights': str(world / 'tiny.safetensors')} | parameters
        node = TCDepthNode(
            context=client.ros.context,
            cli_args=['--ros-args', '-r', '__node:=inner'],
            parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
        )
        client.executor.add_node(node)
        nodes.append(node)
        return node

    yield Inner(start, client)
    for node in nodes:
        node.trigger_shutdown()
        node.destroy_node()
    client.close()


def raw(index: int = 0) -> Any:
    return CAMERA.raw(CAMERA.picture(index))


def values_of(cloud: Any) -> NDArray[np.float32]:
    """Cloud as (H, W, 4)."""
    return np.frombuffer(cloud.data, np.float32).reshape(cloud.height, cloud.width, 4)


# ---- what comes out ------------------------------------------------------------------------


def test_outputs_bear_stamp_and_frame_of_their_image(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        for message in exchange.outputs.values():
            assert stamp_ns(message.header) == exchange.stamp_ns
            assert message.header.frame_id == FRAME_ID
            assert (message.height, message.width) == (CAMERA.height, CAMERA.width)


def test_depth_is_what_the_predictor_says(
    exchanges: list[Exchange], ranges: PredictorConfig, world: Path
) -> None:
    predictor = DepthPredictor.from_weights(world / 'tiny.safetensors', 'cpu', ranges)
    for exchange in exchanges:
        frame = Frame(exchange.picture, CAMERA.K, exchange.stamp_ns, FRAME_ID)
        prediction = predictor.push(frame)
        assert prediction is not None
        depth = decode_depth(exchange.outputs['depth/image'])
        both = np.isfinite(depth) & np.isfinite(prediction.depth)
        assert both.mean() > 0.3
        np.testing.assert_allclose(depth[both], prediction.depth[both], rtol=1e-4)
        agree = np.isfinite(depth) == np.isfinite(prediction.depth)
        assert agree.mean() > 0.999  # a threshold may round either way


def test_depth_image_is_32fc1_with_nan_too_near_and_infinity_too_far(
    exchanges: list[Exchange], ranges: PredictorConfig
) -> None:
    for exchange in exchanges:
        message = exchange.outputs['depth/image']
        assert message.encoding == '32FC1'
        assert (message.step, message.is_bigendian) == (4 * CAMERA.width, 0)
        assert len(message.data) == message.height * message.step
        depth = decode_depth(message)
        assert np.isnan(depth).any() and np.isposinf(depth).any() and np.isfinite(depth).any()
        metres = depth[np.isfinite(depth)]
        assert ranges.min_range <= metres.min() and metres.max() <= ranges.max_range
        assert not np.isneginf(depth).any()


def test_camera_info_is_the_depths(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        info = exchange.outputs['depth/camera_info']
        np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), CAMERA.K)
        np.testing.assert_array_equal(np.reshape(info.p, (3, 4))[:, :3], CAMERA.K)
        np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
        assert not np.any(info.d)


def test_cloud_is_organised_and_lifts_the_depth(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        cloud = exchange.outputs['points']
        assert [(f.name, f.offset, f.count) for f in cloud.fields] == [
            ('x', 0, 1),
            ('y', 4, 1),
            ('z', 8, 1),
            ('rgb', 12, 1),
        ]
        assert {f.datatype for f in cloud.fields} == {7}  # FLOAT32
        assert (cloud.point_step, cloud.row_step) == (16, 16 * CAMERA.width)
        assert not cloud.is_dense and not cloud.is_bigendian

        x, y, z = np.moveaxis(values_of(cloud)[..., :3], -1, 0)
        depth = decode_depth(exchange.outputs['depth/image'])
        valid = np.isfinite(depth)
        np.testing.assert_array_equal(z[valid], depth[valid])
        v, u = np.nonzero(valid)
        K = CAMERA.K
        np.testing.assert_allclose(x[valid], (u - K[0, 2]) * z[valid] / K[0, 0], rtol=1e-4)
        np.testing.assert_allclose(y[valid], (v - K[1, 2]) * z[valid] / K[1, 1], rtol=1e-4)
        for axis in (x, y, z):
            assert np.isnan(axis[~valid]).all()


def test_cloud_has_the_colours_of_the_image(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        packed = values_of(exchange.outputs['points'])[..., 3].copy().view(np.uint32)
        colours = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)
        np.testing.assert_array_equal(colours, exchange.picture)


def test_depth_in_colours_is_rgb8(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        message = exchange.outputs['depth/color']
        assert (message.encoding, message.step) == ('rgb8', 3 * CAMERA.width)
        colours = decode_image(message)
        invalid = np.isnan(decode_depth(exchange.outputs['depth/image']))
        assert not colours[invalid].any()  # black
        assert colours[~invalid].any(axis=-1).all()


# ---- a stream ------------------------------------------------------------------------------


def test_at_10_hz_every_accepted_image_gets_one_depth(client: Client) -> None:
    before = client.settled()
    shown = []
    for index in range(20):
        shown.append(client.show(raw(index), CAMERA.info()))
        client.spin_for(0.1)
    counts = client.until_healthy(
        lambda h: (
            h.since(before).count('frames received') == len(shown)
            and h.count('frames waiting') == 0
        ),
        'all images have arrived',
    ).since(before)
    published = counts.count('frames published')
    client.until(lambda: len(client.heard['depth/image']) >= published, 'all depths')
    stamps = [stamp_ns(depth.header) for depth in client.heard['depth/image']]
    assert stamps == sorted(set(stamps) & set(shown))  # in order, none twice, no others
    assert len(stamps) == published == len(shown) - counts.dropped.get('superseded', 0)
    assert published >= len(shown) / 2  # all, unless the machine is very busy
    assert set(counts.dropped) - {'superseded'} <= set(before.dropped)


def test_every_frame_is_accounted_for_at_any_moment(client: Client) -> None:
    before = client.settled()
    client.health.clear()
    for index in range(60):  # faster than it can work, for as long as two reports take
        client.show(raw(index), CAMERA.info())
        client.spin_for(0.035)
    client.settled()
    assert len(client.health) >= 1
    for health in client.health:
        received, published = health.count('frames received'), health.count('frames published')
        waiting = health.count('frames waiting')
        assert received == published + sum(health.dropped.values()) + waiting
        assert 0 <= waiting <= 2  # one at work, one in the mailbox
        assert received - before.count('frames received') <= 60


def test_when_nobody_subscribes_nothing_is_computed(client: Client) -> None:
    def unwanted(than: Health, at_least: int) -> Health:
        return client.show_until_healthy(
            lambda h: h.since(than).count('dropped: nobody subscribes') >= at_least,
            'images that nobody wants are dropped',
            raw(),
            CAMERA.info(),
        )

    before = client.settled()
    client.listen()
    alone = unwanted(before, 1)
    later = unwanted(alone, 5)
    assert later.since(alone).count('frames published') == 0


def test_duplicate_and_late_images_are_counted_and_change_nothing(client: Client) -> None:
    before = client.settled()
    for index in range(2):
        client.ask(raw(index), CAMERA.info())
    newest = client.stamp_ns
    for stamp, cause in ((newest, 'duplicate'), (newest - PERIOD_NS // 2, 'late')):
        client.show(raw(), CAMERA.info(), stamp)
        client.until_healthy(
            lambda h, cause=cause: h.since(before).count(f'dropped: {cause}') == 1, cause
        )
    client.ask(raw(2), CAMERA.info())
    counts = client.settled()
    assert counts.since(before).count('frames published') == 3
    assert counts.values['frames used'] == '3'  # the window has lived on
    assert not counts.is_error


@pytest.mark.parametrize('jump_ns', [-LONG_NS, LONG_NS], ids=['back', 'ahead'])
def test_a_jump_in_time_starts_a_new_window(client: Client, jump_ns: int) -> None:
    assert abs(jump_ns) > 1e9 * WindowConfig().max_gap_s
    for index in range(3):
        client.ask(raw(index), CAMERA.info())
    assert client.settled().values['frames used'] == '3'
    client.stamp_ns += jump_ns
    client.ask(raw(3), CAMERA.info())
    assert client.settled().values['frames used'] == '1'
    client.stamp_ns = max(client.stamp_ns, client.stamp_ns - jump_ns)


def test_another_resolution_gives_depth_of_that_size(client: Client) -> None:
    large = Camera(320, 200)
    client.listen('depth/image', 'depth/camera_info', 'points')
    client.meet(large.raw(large.picture()), large.info())
    outputs = client.ask(large.raw(large.picture()), large.info())
    for message in outputs.values():
        assert (message.height, message.width) == (200, 320)
    np.testing.assert_array_equal(np.reshape(outputs['depth/camera_info'].k, (3, 3)), large.K)


# ---- faults --------------------------------------------------------------------------------


def of_unknown_encoding() -> tuple[Any, CameraInfo]:
    return CAMERA.raw(CAMERA.picture(), 'nv21_of_tomorrow'), CAMERA.info()


def truncated() -> tuple[Any, CameraInfo]:
    image = raw()
    image.data = image.data[:-1]
    return image, CAMERA.info()


def empty() -> tuple[Any, CameraInfo]:
    return CAMERA.raw(CAMERA.picture()[:, :0]), CAMERA.info()


def with_info_of_another_size() -> tuple[Any, CameraInfo]:
    return raw(), Camera(320, 240).info()


def with_uncalibrated_info() -> tuple[Any, CameraInfo]:
    return raw(), CameraInfo(height=CAMERA.height, width=CAMERA.width)


@pytest.mark.parametrize(
    ('fault', 'words'),
    [
        (of_unknown_encoding, ('nv21_of_tomorrow', 'rgb8, bgr8, rgba8, bgra8', 'convert it')),
        (truncated, ('truncated', '57599 bytes', '160x120')),
        (empty, ('empty', '0x120')),
        (with_info_of_another_size, ('image is 160x120', 'says 320x240', 'publish a CameraInfo')),
        (with_uncalibrated_info, ('no intrinsics', 'calibrate')),
    ],
)
def test_an_unusable_image_is_an_error_that_the_next_good_one_ends(
    client: Client, node: Process, fault: Any, words: tuple[str, ...]
) -> None:
    before = client.settled()
    health = client.show_until_healthy(
        lambda h: h.is_error and words[0] in h.message, 'the fault is told', *fault()
    )
    for word in words:
        assert word in health.message
    assert health.since(before).count('dropped: unusable') >= 1
    client.meet(raw(), CAMERA.info())
    healed = client.settled()
    assert (healed.level, healed.message) == (DiagnosticStatus.OK, 'publishing depth')
    assert node.alive


@pytest.mark.parametrize('listened', [('depth/image',), ()], ids=['listened', 'unlistened'])
def test_without_camera_info_it_says_so_and_waits(
    client: Client, listened: tuple[str, ...]
) -> None:
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    before = client.settled()
    client.listen(*listened)
    health = client.show_until_healthy(lambda h: h.is_error, 'the fault is told', raw(), None)
    for words in ('no CameraInfo on /camera_info', 'publish it', 'remap camera_info'):
        assert words in health.message
    assert health.since(before).count('frames published') == 0

    waiting = client.until_healthy(lambda h: True, 'a report').count('frames waiting')
    assert waiting == 1  # the newest: it will have its depth
    newest = client.stamp_ns
    if listened:
        client.show_until(lambda: client.of(newest), 'its depth', None, CAMERA.info())
    health = client.show_until_healthy(
        lambda h: not h.is_error, 'all is well again', None, CAMERA.info()
    )
    assert health.count('frames waiting') == 0
    assert health.since(before).count('dropped: no camera_info') >= 1


def test_without_weights_it_lives_says_why_and_can_be_configured_later(world: Path) -> None:
    weights = world / 'later.safetensors'
    command = node_command({'weights': weights}, {'__node': 'bare'})
    with ExitStack() as stack:
        node = stack.enter_context(running(command, world / 'bare.txt'))
        client = stack.enter_context(closing(Client('bare')))
        health = client.until_healthy(lambda h: h.is_error, 'an error')
        for words in (str(weights), 'do not exist', 'set weights to a file that does'):
            assert words in health.message
            assert words in node.output
        assert client.state() == 'unconfigured'

        whole = (world / 'tiny.safetensors').read_bytes()
        for size in (0, 4, 1000, len(whole) - 100):
            weights.write_bytes(whole[:size])
            assert not client.change_state(Transition.TRANSITION_CONFIGURE)
            assert client.state() == 'unconfigured'
            health = client.until_healthy(lambda h: 'not a readable' in h.message, 'the new error')
            assert str(weights) in health.message and 'copy the file again' in health.message
            assert health.is_error

        weights.write_bytes(whole)
        assert client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.change_state(Transition.TRANSITION_ACTIVATE)
        client.listen('depth/image')
        client.meet(raw(), CAMERA.info())
        assert client.settled().level == DiagnosticStatus.OK
        assert 'Traceback' not in node.output


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'image_transport': 'smoke'}, ("image_transport is 'smoke'", "'raw' or 'compressed'")),
        ({'min_range': 5.0, 'max_range': 5.0}, ('min_range 5.0 and max_range 5.0', '<')),
        ({'output': 'edge'}, ("output is 'edge'", "'newest' or 'centre'")),
        ({'device': 'toaster'}, ("device is 'toaster'", 'auto, cpu or cuda')),
        ({'device': 'meta'}, ('device', 'meta')),
    ],
)
def test_parameters_that_make_no_sense_refuse_to_configure(
    inner: Inner, parameters: dict[str, Any], words: tuple[str, ...]
) -> None:
    node = inner.start(parameters)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert inner.client.state() == 'unconfigured'
    health = inner.client.until_healthy(lambda h: h.is_error, 'an error')
    for word in words:
        assert word in health.message


@pytest.mark.parametrize(
    ('value', 'words'), [('max_range:=10', "'10' of type 'INTEGER'"), ('min_range:=-5.0', '-5.0')]
)
def test_a_parameter_of_the_wrong_kind_ends_the_start_in_one_line(
    world: Path, value: str, words: str
) -> None:
    command = ['-m', 'tc_depth_ros.ros.node', '--ros-args', '-p', value]
    with running(command, world / 'wrong.txt') as process:
        assert process.wait() == 1
        assert words in process.output and 'Traceback' not in process.output


@pytest.mark.parametrize('broken', ['tc_depth_ros.ros.messages.depth_image', 'predict'])
def test_a_fault_of_ours_costs_one_frame(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    node = inner.start({})
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    inner.client.listen('depth/image')
    inner.client.meet(raw(), CAMERA.info())
    before = inner.client.settled()
    target = DepthPredictor if broken == 'predict' else messages
    name = broken.rpartition('.')[2]
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise RuntimeError('out of memory, say')

        patch.setattr(target, name, fail)
        health = inner.client.show_until_healthy(
            lambda h: h.is_error, 'the fault is told', raw(), CAMERA.info()
        )
        assert 'out of memory, say' in health.message
        assert health.since(before).count('dropped: failed') >= 1
    inner.client.meet(raw(), CAMERA.info())
    assert inner.client.settled().level == DiagnosticStatus.OK


# ---- compressed images ---------------------------------------------------------------------


def compressed(rgb: NDArray[np.uint8], suffix: str) -> CompressedImage:
    _, data = cv2.imencode(suffix, rgb[..., ::-1])
    message = CompressedImage(format=f'bgr8; {suffix[1:]} compressed bgr8')
    message.data = array('B', data.tobytes())
    return message


@pytest.fixture(scope='module')
def compressed_client(world: Path) -> Iterator[Client]:
    """Join a node that takes compressed images, on topics and under a name of its own."""
    parameters = {
        'weights': world / 'tiny.safetensors',
        'image_transport': 'compressed',
        'qos_overrides./side/image/compressed.subscription.reliability': 'reliable',
    }
    remaps = {
        '__node': 'side',
        'image/compressed': 'side/image/compressed',
        'camera_info': 'side/camera_info',
    }
    with ExitStack() as stack:
        node = stack.enter_context(running(node_command(parameters, remaps), world / 'side.txt'))
        client = stack.enter_context(closing(Client('side', 'side/', compressed=True)))
        client.listen(*OUTPUTS)
        client.meet(compressed(CAMERA.picture(), '.png'), CAMERA.info())
        yield client
        assert node.alive, node.output


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('camera', [CAMERA, Camera(640, 480)], ids=['160x120', '640x480'])
def test_compressed_images(compressed_client: Client, camera: Camera, suffix: str) -> None:
    image = compressed(camera.picture(), suffix)
    compressed_client.meet(image, camera.info())
    outputs = compressed_client.ask(image, camera.info())
    for message in outputs.values():
        assert (message.height, message.width) == (camera.height, camera.width)
        assert stamp_ns(message.header) == compressed_client.stamp_ns
    packed = values_of(outputs['points'])[..., 3].copy().view(np.uint8)
    colours = packed.reshape(camera.height, camera.width, 4)[..., 2::-1]
    np.testing.assert_array_equal(colours, decode_image(image))


def test_data_that_is_no_picture_is_an_error_until_the_next_good_one(
    compressed_client: Client,
) -> None:
    image = CompressedImage(format='jpeg')
    image.data = array('B', b'no picture')
    health = compressed_client.show_until_healthy(
        lambda h: h.is_error, 'the fault is told', image, CAMERA.info()
    )
    for words in ("format 'jpeg'", '10 bytes', 'supported are JPEG and PNG'):
        assert words in health.message
    compressed_client.meet(compressed(CAMERA.picture(), '.png'), CAMERA.info())
    assert compressed_client.settled().level == DiagnosticStatus.OK


def test_quality_of_service_can_be_overridden(compressed_client: Client) -> None:
    ros = compressed_client.ros
    (image,) = ros.get_subscriptions_info_by_topic('/side/image/compressed')
    assert image.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    (info,) = ros.get_subscriptions_info_by_topic('/side/camera_info')
    assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    (depth,) = ros.get_publishers_info_by_topic('/side/depth/image')
    assert depth.qos_profile.reliability == ReliabilityPolicy.RELIABLE


# ---- large raw images ----------------------------------------------------------------------


LARGE_COUNT = 20


@pytest.fixture(scope='module')
def large_bag(world: Path) -> Path:
    """Record raw images of 640x480 at 10 Hz."""
    camera = Camera(640, 480)
    views = [
        SyntheticView(
            camera.picture(index),
            np.ones((camera.height, camera.width), np.float32),
            np.eye(4),
            camera.K,
            PERIOD_NS * (index + 1),
        )
        for index in range(LARGE_COUNT)
    ]
    write_bag(world / 'large', views, compressed=False, depth=False, odometry=False)
    return world / 'large'


LARGE = '/camera/color/image_raw'
# Best effort has no memory: the delay is for the subscriber to see the player too
PLAY_LARGE = ['-m', 'tc_depth_ros.ros.bag_player', '--delay', '3']


@pytest.fixture
def only_fast_dds(shared_client: Client) -> None:
    """Skip where another middleware is at work."""
    if get_rmw_implementation_identifier() != 'rmw_fastrtps_cpp':
        pytest.skip('config/fastdds_shm.xml is for Fast DDS')


@pytest.mark.usefixtures('only_fast_dds')
def test_with_the_profile_no_large_raw_image_is_lost(world: Path, large_bag: Path) -> None:
    profile = dict.fromkeys(PROFILE_VARIABLES, str(ROOT / 'config' / 'fastdds_shm.xml'))
    parameters = {'weights': world / 'tiny.safetensors', **queue_of(LARGE, LARGE_COUNT)}
    info = '/camera/color/camera_info'
    remaps = {'__node': 'large', 'image': LARGE, 'camera_info': info}
    play = [*PLAY_LARGE, str(large_bag), '--wait-for', f'{LARGE}=1', f'{info}=1']
    with ExitStack() as stack:
        client = stack.enter_context(closing(Client('large')))
        command = node_command(parameters, remaps)
        node = stack.enter_context(running(command, world / 'large.txt', profile))
        player = stack.enter_context(running(play, world / 'large_player.txt', profile))
        client.listen('depth/camera_info')
        assert player.wait() == 0, player.output
        client.until_healthy(
            lambda h: h.count('frames received') == LARGE_COUNT, 'every image was received'
        )
    assert 'XML' not in node.output + player.output


@pytest.mark.usefixtures('only_fast_dds')
def test_without_the_profile_large_raw_images_are_lost(
    shared_client: Client, world: Path, large_bag: Path
) -> None:
    """Or the profile has no use any more, and can go."""
    received: list[bytes] = []
    qos = QoSProfile(depth=LARGE_COUNT, reliability=ReliabilityPolicy.BEST_EFFORT)
    input_ = shared_client.ros.create_subscription(Image, LARGE, received.append, qos, raw=True)
    play = [*PLAY_LARGE, str(large_bag), '--wait-for', f'{LARGE}=1']
    with running(play, world / 'lossy_player.txt') as player:
        shared_client.until(lambda: not player.alive, 'the bag ends')
        assert player.wait() == 0, player.output
    shared_client.ros.destroy_subscription(input_)
    assert len(received) < LARGE_COUNT


# ---- lifecycle and parameters --------------------------------------------------------------


def test_deactivate_stops_and_activate_resumes(client: Client) -> None:
    assert client.state() == 'active'
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert client.state() == 'inactive'
    client.forget()
    before = client.settled()
    for index in range(5):
        client.show(raw(index), CAMERA.info())
    after = client.until_healthy(lambda h: True, 'a report')
    assert (after.level, after.message) == (DiagnosticStatus.ERROR, 'not active')
    assert after.since(before).count('frames received') == 0
    assert not client.heard['depth/image']

    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    client.meet(raw(), CAMERA.info())
    assert client.settled().level == DiagnosticStatus.OK


def test_cleanup_withdraws_the_outputs_and_configure_brings_them_back(client: Client) -> None:
    def publishers() -> int:
        return int(client.ros.count_publishers('/tc_depth/depth/image'))

    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert client.change_state(Transition.TRANSITION_CLEANUP)
    assert client.state() == 'unconfigured'
    client.until(lambda: publishers() == 0, 'the outputs are gone')
    assert client.change_state(Transition.TRANSITION_CONFIGURE)
    assert client.state() == 'inactive'
    client.until(lambda: publishers() == 1, 'the outputs are back')
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    client.meet(raw(), CAMERA.info())


def test_a_transition_that_cannot_be_made_is_refused(client: Client) -> None:
    assert client.state() == 'active'
    assert not client.change_state(Transition.TRANSITION_CONFIGURE)
    assert client.state() == 'active'
    client.meet(raw(), CAMERA.info())


def test_deactivate_is_answered_under_load(client: Client) -> None:
    for index in range(10):
        client.show(raw(index), CAMERA.info())
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    health = client.until_healthy(lambda h: True, 'a report')
    assert health.count('frames waiting') == 0
    received, published = health.count('frames received'), health.count('frames published')
    assert received == published + sum(health.dropped.values())
    assert client.change_state(Transition.TRANSITION_ACTIVATE)


@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_at_work(world: Path, sign: signal.Signals) -> None:
    name = sign.name.lower()
    command = node_command({'weights': world / 'tiny.safetensors'}, {'__node': name})
    with ExitStack() as stack:
        client = stack.enter_context(closing(Client(name)))
        node = stack.enter_context(running(command, world / f'{name}.txt'))
        client.listen('depth/image', 'points')
        client.meet(raw(), CAMERA.info())
        for index in range(10):
            client.show(raw(index), CAMERA.info())
        assert node.stop(sign) == 0, node.output
        assert 'Traceback' not in node.output, node.output


CONFIGS = (NodeConfig, PipelineConfig, OutputConfig)
AT_RUN_TIME = {
    'weights',
    'min_range',
    'max_range',
    'min_confidence',
    'points.stride',
    'points.max_rate_hz',
}


def settings_of(config: type[Any], prefix: str = '') -> dict[str, Any]:
    """Name and default of every setting, nested ones too."""
    found = {}
    for field in dataclasses.fields(config):
        if field.default is dataclasses.MISSING:
            below = field.metadata.get('prefix', '')
            nested = type(field.default_factory())
            found |= settings_of(nested, f'{prefix}{below}.' if below else prefix)
        else:
            found[prefix + field.name] = field.default
    return found


DEFAULTS = {name: value for config in CONFIGS for name, value in settings_of(config).items()}


def test_parameters_are_described_and_most_are_read_only(client: Client) -> None:
    names = sorted(DEFAULTS)
    listed = client.call(
        ListParameters, '/tc_depth/list_parameters', ListParameters.Request()
    ).result.names
    assert set(names) <= set(listed)
    request = DescribeParameters.Request(names=names)
    described = client.call(DescribeParameters, '/tc_depth/describe_parameters', request)
    by_name = {d.name: d for d in described.descriptors}
    for descriptor in described.descriptors:
        assert len(descriptor.description) > 10, descriptor
    assert {name for name, d in by_name.items() if not d.read_only} == AT_RUN_TIME
    assert by_name['image_transport'].additional_constraints == 'one of: raw, compressed'
    (limits,) = by_name['max_range'].floating_point_range
    assert (limits.from_value, limits.to_value) == (0.0, 1e6)
    (limits,) = by_name['points.stride'].integer_range
    assert (limits.from_value, limits.to_value) == (1, 64)


def test_a_read_only_parameter_cannot_be_set(client: Client) -> None:
    change = Parameter('max_gap_s', value=7.0).to_parameter_msg()
    request = SetParameters.Request(parameters=[change])
    (result,) = client.call(SetParameters, '/tc_depth/set_parameters', request).results
    assert not result.successful
    assert 'read-only' in result.reason


def test_the_configuration_file_sets_parameters_that_exist() -> None:
    yaml = pytest.importorskip('ruamel.yaml')
    text = (ROOT / 'config' / 'tc_depth.yaml').read_text()
    given = yaml.YAML(typ='safe', pure=True).load(text)['/**']['ros__parameters']
    flat = {}
    for name, value in given.items():
        nested = value if isinstance(value, dict) else {'': value}
        flat |= {f'{name}.{key}' if key else name: one for key, one in nested.items()}
    assert flat == {name: DEFAULTS[name] for name in flat}
