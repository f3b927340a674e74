"""
A test for every promise about faults, through the real node over DDS.

Some of these promises are held elsewhere in this folder: test_node.py has duplicates, late frames,
jumps of the stamps, another resolution, unusable images, missing CameraInfo, the wrong weights and
transitions under load; test_soak.py has all faults at once, for long.
"""

from __future__ import annotations

import gc
import json
import pickle
import signal
import threading
import time
import weakref
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

import rclpy
import torch
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_harness import (
    FRAME_ID,
    ROOT,
    Camera,
    Client,
    Process,
    node_command,
    ros_world,
    running,
    write_weights,
)
from rosgraph_msgs.msg import Clock
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from std_srvs.srv import Trigger

from tc_depth_ros.frames.frame import decode_depth
from tc_depth_ros.network.checkpoint import load_weights, save_weights
from tc_depth_ros.pipeline import DepthPipeline
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_ros.ros import weights_swap
from tc_depth_ros.ros.node import TCDepthNode

pytestmark = pytest.mark.ros

CAMERA = Camera()
SECOND_NS = 1_000_000_000
TIMEOUT_S = 2.0


def raw(index: int = 0) -> Any:
    return CAMERA.raw(CAMERA.picture(index))


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this file a ROS domain of its own; the folder has the weights."""
    folder = tmp_path_factory.mktemp('faults')
    for seed, name in enumerate(('tiny', 'other')):
        write_weights(folder / f'{name}.safetensors', seed)
    with ros_world(folder):
        yield folder


@contextmanager
def node_of(world: Path, name: str, **parameters: Any) -> Iterator[tuple[Process, Client]]:
    """Run a node under a name of its own, and a client that listens to its depth."""
    given = {'weights': world / 'tiny.safetensors', 'image_timeout_s': TIMEOUT_S} | parameters
    command = node_command(given, {'__node': name})
    with ExitStack() as stack:
        process = stack.enter_context(running(command, world / f'{name}.txt'))
        client = stack.enter_context(closing(Client(name)))
        client.listen('depth/image')
        yield process, client
        assert process.alive, process.output
        assert 'Traceback' not in process.output, process.output


@pytest.fixture(scope='module')
def shared(world: Path) -> Iterator[tuple[Process, Client]]:
    with node_of(world, 'shared') as pair:
        pair[1].meet(raw(), CAMERA.info())
        yield pair


@pytest.fixture
def client(shared: tuple[Process, Client]) -> Client:
    """The client of a node that several tests share, at the start of a new window."""
    _, client = shared
    client.listen('depth/image')
    client.stamp_ns += 10 * SECOND_NS
    client.meet(raw(), CAMERA.info())
    return client


class Inner:
    """A node within this process and a context of its own, for faults that a patch brings."""

    def __init__(self, world: Path, name: str, **parameters: Any) -> None:
        self.client = Client(name)
        given = {'weights': str(world / 'tiny.safetensors')} | parameters
        self.node = TCDepthNode(
            context=self.client.ros.context,
            cli_args=['--ros-args', '-r', f'__node:={name}'],
            parameter_overrides=[Parameter(key, value=value) for key, value in given.items()],
        )
        self.client.executor.add_node(self.node)

    def start(self) -> None:
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self.client.listen('depth/image')
        self.client.meet(raw(), CAMERA.info())

    def close(self) -> None:
        if self.client.ros.context.ok():
            self.node.trigger_shutdown()
        self.node.destroy_node()
        self.client.close()


@pytest.fixture
def inner(world: Path) -> Iterator[Inner]:
    with closing(Inner(world, 'inner')) as node:
        node.start()
        yield node


def set_parameter(client: Client, node: str, name: str, value: Any) -> Any:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return client.call(SetParameters, f'/{node}/set_parameters', request).results[0]


# ---- the camera ----------------------------------------------------------------------------


def test_a_camera_that_falls_silent_is_a_warning_then_an_error_until_it_is_back(
    world: Path,
) -> None:
    # The node reports once a second: there is room between the warning and the error for a report
    # even where the images came slowly, as they do on a machine at work
    timeout_s = 4.0
    with node_of(world, 'silent', image_timeout_s=timeout_s) as (_, client):
        client.meet(raw(), CAMERA.info())
        for index in range(3):
            client.ask(raw(index), CAMERA.info())
        assert client.settled().values['frames used'] == '3'
        warned = client.until_healthy(lambda h: h.is_warning, 'a warning')
        assert 'no image on /image for' in warned.message
        failed = client.until_healthy(lambda h: h.is_error, 'an error')
        assert 'is the camera running' in failed.message

        client.stamp_ns += round(timeout_s * SECOND_NS)  # that it was away
        healthy = client.show_until_healthy(lambda h: h.is_ok, 'all well', raw(), CAMERA.info())
        assert healthy.message == 'publishing depth'
        client.stamp_ns += 2 * SECOND_NS
        client.ask(raw(), CAMERA.info())
        assert client.settled().values['mode'] == 'single-frame (gap)'


def test_before_the_first_image_it_says_what_it_waits_for(world: Path) -> None:
    with node_of(world, 'early') as (_, client):
        health = client.until_healthy(lambda h: 'no image' in h.message, 'it says so')
        assert '/image' in health.message and not health.is_ok
        health = client.until_healthy(lambda h: h.is_error, 'an error')
        assert 'is the camera running, and the topic remapped?' in health.message


def test_without_a_clock_it_still_says_how_it_is(world: Path) -> None:
    with node_of(world, 'clockless', use_sim_time='true') as (_, client):
        # Its stamps are ROS time, which stands still at 0
        client.until(
            lambda: [h for h in client.health if h.is_error and 'no image on' in h.message],
            'it says that there is no image',
        )


def test_images_that_are_all_dropped_are_an_error_with_its_cause(world: Path) -> None:
    """Alive and fed, and yet nothing comes out: the worst kind of silence."""
    black = CAMERA.raw(np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8))
    with node_of(world, 'night') as (_, client):
        health = client.show_until_healthy(
            lambda h: h.is_error and 'dropped' in h.message, 'an error', black, CAMERA.info()
        )
        assert 'every image is dropped: 100 % of the image is dark' in health.message
        client.show_until_healthy(lambda h: h.is_ok, 'all well', raw(), CAMERA.info())
        client.listen()
        health = client.show_until_healthy(
            lambda h: 'idle' in h.message, 'it says that it is idle', raw(), CAMERA.info()
        )
        assert health.is_ok


def test_irregular_stamps_are_one_stream(client: Client) -> None:
    before = client.settled()
    client.forget()
    steps_ms = [100, 33, 250, 5, 100, 480, 60, 100]
    stamps = [client.stamp_ns + 1_000_000 * sum(steps_ms[: i + 1]) for i in range(len(steps_ms))]
    for index, stamp in enumerate(stamps):
        client.ask(raw(index), CAMERA.info(), stamp)
    client.stamp_ns = stamps[-1]
    counts = client.settled()
    assert counts.since(before).count('frames published') == len(stamps)
    assert counts.values['frames used'] == '3'
    assert counts.values['mode'] == 'multi-frame'


def test_a_bag_that_loops_goes_on(client: Client) -> None:
    start = client.stamp_ns
    for _ in range(3):
        client.stamp_ns = start
        for index in range(4):
            client.ask(raw(index), CAMERA.info())
            client.stamp_ns += SECOND_NS // 5
    assert not client.settled().is_error
    client.stamp_ns = start + 100 * SECOND_NS


def test_ros_time_that_jumps_back_starts_anew(world: Path) -> None:
    with node_of(world, 'timed', use_sim_time='true') as (_, client):
        clock = client.ros.create_publisher(Clock, '/clock', 10)

        def tell(seconds: int) -> None:
            message = Clock()
            message.clock.sec = seconds

            def told() -> bool:
                clock.publish(message)
                return bool(client.health) and client.health[-1].stamp_ns == seconds * SECOND_NS

            client.until(told, f'a report bears {seconds} s')  # reports bear ROS time

        tell(1000)
        client.meet(raw(), CAMERA.info())
        for index in range(3):
            client.ask(raw(index), CAMERA.info())
        client.until(lambda: client.health[-1].values.get('frames used') == '3', 'a full window')
        tell(500)
        client.ask(raw(3), CAMERA.info())
        client.until(lambda: client.health[-1].values.get('frames used') == '1', 'a first frame')


@pytest.mark.parametrize(
    'encoding',
    ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', 'bayer_rggb8', 'yuv422_yuy2', 'yuv422'],
)
def test_every_encoding_has_its_depth(client: Client, encoding: str) -> None:
    client.ask(encoded(encoding), CAMERA.info())
    assert not client.settled().is_error


def encoded(encoding: str) -> Any:
    """A picture in some encoding, its rows padded; what the pixels are is tested in frames."""
    sizes = {'rgba8': 4, 'bgra8': 4, 'mono8': 1, 'mono16': 2, 'bayer_rggb8': 1}
    pixel_bytes = sizes.get(encoding, 2 if encoding.startswith('yuv') else 3)
    image = CAMERA.raw(CAMERA.picture())
    image.encoding, image.step = encoding, CAMERA.width * pixel_bytes + 8
    image.is_bigendian = int(encoding == 'mono16')
    rows = np.random.default_rng(0).integers(20, 230, CAMERA.height * image.step, dtype=np.uint8)
    image.data = array('B', rows.tobytes())
    return image


def test_at_another_resolution_mid_stream_k_and_size_go_together(client: Client) -> None:
    client.listen('depth/image', 'depth/camera_info')
    for camera in (Camera(320, 240), Camera(640, 480), Camera(320, 240)):
        # Grey, since Fast DDS loses what is larger than 512 KB without its profile
        grey = np.ascontiguousarray(camera.picture()[..., :1])
        image = camera.raw(grey, 'mono8')
        client.meet(image, camera.info())
        outputs = client.ask(image, camera.info())
        for message in outputs.values():
            assert (message.height, message.width) == (camera.height, camera.width)
        K = np.reshape(outputs['depth/camera_info'].k, (3, 3))
        np.testing.assert_array_equal(K, camera.K)


def test_camera_info_of_another_frame_is_named(client: Client) -> None:
    info = CAMERA.info()
    info.header.frame_id = 'rear_optical_frame'
    health = client.show_until_healthy(lambda h: h.is_error, 'an error', raw(), info)
    assert 'rear_optical_frame' in health.message and FRAME_ID in health.message
    client.show_until_healthy(lambda h: h.is_ok, 'all well', raw(), CAMERA.info())


def test_camera_info_may_come_once_and_stay(client: Client) -> None:
    """As from a latched topic: the latest serves every image of its size."""
    for index in range(3):
        client.ask(raw(index), None)
    assert client.settled().values['frames used'] == '3'


def test_k_that_changes_mid_stream_starts_a_new_window(client: Client) -> None:
    for index in range(3):
        client.ask(raw(index), CAMERA.info())
    zoomed = CAMERA.info()
    zoomed.k[0], zoomed.p[0] = 2 * zoomed.k[0], 2 * zoomed.p[0]
    client.ask(raw(3), zoomed)
    assert client.settled().values['mode'] == 'single-frame (intrinsics)'


@pytest.mark.parametrize(('value', 'cause'), [(0, 'dark'), (255, 'overexposed')])
def test_black_and_white_images_are_dropped_and_counted(
    client: Client, value: int, cause: str
) -> None:
    client.ask(raw(0), CAMERA.info())
    before = client.settled()
    blank = CAMERA.raw(np.full((CAMERA.height, CAMERA.width, 3), value, np.uint8))
    client.show(blank, CAMERA.info())
    counts = client.until_healthy(
        lambda h: h.since(before).count(f'dropped: {cause}') == 1, 'it is counted'
    )
    assert counts.since(before).count('frames published') == 0
    client.ask(raw(1), CAMERA.info())
    assert client.settled().values['frames used'] == '3'  # the window has lived on


# ---- the network ---------------------------------------------------------------------------


def test_a_network_that_finds_no_numbers_costs_frames_not_the_node(world: Path) -> None:
    file = world / 'nan.safetensors'
    loaded = load_weights(world / 'tiny.safetensors')
    with torch.no_grad():
        loaded.network.decoder.disparity[0].bias.fill_(torch.nan)  # type: ignore[union-attr]
    save_weights(file, loaded.network, loaded.info)
    with node_of(world, 'nan') as (process, client):
        client.meet(raw(), CAMERA.info())
        assert process.alive
    with node_of(world, 'broken', weights=file) as (_, client):
        # Refused where it is loaded, which runs it once
        health = client.until_healthy(lambda h: h.is_error, 'an error')
        assert 'no number for 100 % of the pixels' in health.message
        assert client.state() == 'unconfigured'


def test_frames_without_numbers_are_counted(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inner.client.settled()
    whole = DepthPredictor._forward

    def spoilt(self: DepthPredictor, *given: Any) -> Any:
        answer = whole(self, *given)
        assert answer is not None
        return replace(answer, disparity=torch.full_like(answer.disparity, torch.nan))

    with monkeypatch.context() as patch:
        patch.setattr(DepthPredictor, '_forward', spoilt)
        inner.client.show(raw(1), CAMERA.info())
        inner.client.until_healthy(
            lambda h: h.since(before).count('dropped: not finite') == 1, 'it is counted'
        )
    inner.client.meet(raw(2), CAMERA.info())
    assert not inner.client.settled().is_error


def test_what_is_far_is_infinite_and_no_wall(client: Client) -> None:
    depth = decode_depth(client.ask(raw(), CAMERA.info())['depth/image'])
    limit = float(np.quantile(depth, 0.6))
    assert set_parameter(client, 'shared', 'max_range', limit).successful
    limited = decode_depth(client.ask(raw(), CAMERA.info())['depth/image'])
    assert set_parameter(client, 'shared', 'max_range', 100.0).successful
    assert 0.1 < np.isposinf(limited).mean() < 0.9
    assert limited[np.isfinite(limited)].max() <= limit
    assert (limited == np.float32(limit)).mean() < 0.01  # nothing heaps up at the limit


def test_out_of_memory_twice_is_an_error_and_the_next_frame_is_fine(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = inner.client.settled()
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')

        patch.setattr(DepthPredictor, '_forward', full)
        health = inner.client.show_until_healthy(
            lambda h: h.is_error, 'an error', raw(1), CAMERA.info()
        )
    assert 'no memory left' in health.message and '2.00 GiB' in health.message
    assert health.since(before).count('dropped: out of memory') >= 1
    inner.client.meet(raw(2), CAMERA.info())
    assert inner.client.settled().is_ok


def test_a_cuda_error_that_stays_ends_the_process_to_be_started_again(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(DepthPredictor, '_forward', broken)
    inner.client.show(raw(1), CAMERA.info())
    with pytest.raises(rclpy.executors.ExternalShutdownException):
        inner.client.spin_for(10.0)
    assert inner.node.broken


SHORT_LIFE = """
import sys
import rclpy
from tc_depth_ros.ros.lifecycle import StandaloneNode, run

class Node(StandaloneNode):
    autostart = True

    def on_configure(self, state):
        self.broken = sys.argv[1] == 'broken'
        rclpy.try_shutdown()
        return super().on_configure(state)

sys.exit(run(lambda: Node('short')))
"""


@pytest.mark.parametrize(('end', 'status'), [('told', 0), ('broken', 1)])
def test_the_exit_status_says_whether_to_start_again(world: Path, end: str, status: int) -> None:
    with running(['-c', SHORT_LIFE, end], world / f'{end}.txt') as process:
        assert process.wait() == status, process.output
        assert not process.output


# ---- the machine ---------------------------------------------------------------------------


def test_overload_is_told_and_every_frame_counted(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pause = DepthPipeline.push, threading.Event()

    def slow(self: DepthPipeline, frame: Any, **options: Any) -> Any:
        pause.wait(0.2)
        return whole(self, frame, **options)

    monkeypatch.setattr(DepthPipeline, 'push', slow)
    before = inner.client.settled()
    deadline_frames = 120
    for index in range(deadline_frames):  # 33 Hz into 5 Hz
        inner.client.show(raw(index), CAMERA.info())
        inner.client.spin_for(0.03)
    health = inner.client.health[-1]
    assert health.is_warning and 'overloaded' in health.message
    counts = inner.client.settled().since(before)
    dropped = counts.dropped.get('superseded', 0)
    assert counts.count('frames received') == counts.count('frames published') + dropped
    assert dropped > deadline_frames / 2


def test_a_frame_that_does_not_end_is_an_error(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    with closing(Inner(world, 'stuck', image_timeout_s=1.0)) as inner:
        inner.start()
        whole = DepthPredictor._forward

        def wait(self: DepthPredictor, *given: Any) -> Any:
            stuck.wait(20.0)
            return whole(self, *given)

        monkeypatch.setattr(DepthPredictor, '_forward', wait)
        health = inner.client.show_until_healthy(
            lambda h: h.is_error, 'an error', raw(1), CAMERA.info()
        )
        assert 'one frame has been at work for' in health.message
        stuck.set()
        inner.client.show_until_healthy(lambda h: h.is_ok, 'all well', raw(2), CAMERA.info())


# ---- weights -------------------------------------------------------------------------------


class Malicious:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def test_a_pickle_is_refused_and_never_run(world: Path, tmp_path: Path) -> None:
    mark, file = tmp_path / 'was_run', world / 'evil.pth'
    file.write_bytes(pickle.dumps(Malicious(mark)))
    with node_of(world, 'safe', weights=file) as (_, client):
        health = client.until_healthy(lambda h: h.is_error, 'an error')
        assert 'not a readable safetensors file' in health.message
        assert client.state() == 'unconfigured'
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()  # the file is what it claims to be


def test_weights_swap_at_run_time_without_a_frame_lost(world: Path) -> None:
    """With weights that load for longer than a frame; the best of three, on a machine at work."""
    with node_of(world, 'swap') as (_, client):
        client.meet(raw(), CAMERA.info())
        depth_before = decode_depth(client.ask(raw(), CAMERA.info())['depth/image'])
        missed = [missed_in_a_swap(client, DEFAULT_WEIGHTS)]
        while missed[-1] > 1:
            assert len(missed) < 3, missed
            missed.append(missed_in_a_swap(client, DEFAULT_WEIGHTS))
        client.stamp_ns += 10 * SECOND_NS
        client.forget()
        depth_after = decode_depth(client.ask(raw(), CAMERA.info())['depth/image'])
        both = np.isfinite(depth_before) & np.isfinite(depth_after)
        assert np.abs(depth_after[both] / depth_before[both] - 1).max() > 0.01


def missed_in_a_swap(client: Client, weights: Path) -> int:
    """Set the weights while images come at 10 Hz; how many of these had no depth."""
    before = client.settled()
    answer: list[Any] = []
    setter = threading.Thread(target=lambda: answer.append(swap(weights, 'swap')))
    setter.start()
    shown = 0
    while setter.is_alive() or shown < 15:
        client.show(raw(0), CAMERA.info())
        shown += 1
        client.spin_for(0.1)
    setter.join()
    assert answer[0].successful, answer[0].reason
    return shown - client.settled().since(before).count('frames published')


def test_images_go_on_while_weights_load(
    inner: Inner, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: here as long as fifteen images."""
    whole, loads = weights_swap.load_pipeline, 0

    def slow(*arguments: Any) -> DepthPipeline:
        nonlocal loads
        loads += 1
        time.sleep(1.5)
        return whole(*arguments)

    monkeypatch.setattr(weights_swap, 'load_pipeline', slow)
    client, before = inner.client, inner.client.settled()
    setter = client.ros.create_client(SetParameters, '/inner/set_parameters')
    client.until(setter.service_is_ready, 'the service is there')
    change = Parameter('weights', value=str(world / 'other.safetensors')).to_parameter_msg()
    answer, shown = setter.call_async(SetParameters.Request(parameters=[change])), 0
    while not answer.done():
        client.show(raw(shown), CAMERA.info())
        shown += 1
        client.spin_for(0.1)
        assert shown < 100, 'it never answers'
    assert answer.result().results[0].successful
    assert loads == 1 and shown >= 10
    counts = client.settled().since(before)
    assert counts.count('frames published') >= shown - 1, counts


def swap(weights: Path, node: str) -> Any:
    """Set the weights from a client of its own, as ``ros2 param set`` does."""
    with closing(Client('nobody')) as setter:
        return set_parameter(setter, node, 'weights', str(weights))


def test_weights_that_cannot_be_used_leave_the_old_ones_at_work(
    shared: tuple[Process, Client], client: Client, world: Path
) -> None:
    depth_before = decode_depth(client.ask(raw(1), CAMERA.info())['depth/image'])
    truncated = world / 'half.safetensors'
    truncated.write_bytes((world / 'other.safetensors').read_bytes()[:5000])
    whole = bytearray((world / 'other.safetensors').read_bytes())
    whole[-1000] ^= 1
    flipped = world / 'flipped.safetensors'
    flipped.write_bytes(whole)
    wrong = world / 'wrong.safetensors'
    rewrite_info(world / 'other.safetensors', wrong, input_height='48')
    for weights, words in (
        (wrong, "input_height is '48'"),
        (truncated, 'not a readable safetensors file'),
        (flipped, 'do not fit their checksum'),
        (world / 'nowhere.safetensors', 'do not exist'),
    ):
        result = set_parameter(client, 'shared', 'weights', str(weights))
        assert not result.successful
        assert words in result.reason and str(weights) in result.reason
    client.stamp_ns += 10 * SECOND_NS
    client.ask(raw(0), CAMERA.info())
    depth_after = decode_depth(client.ask(raw(1), CAMERA.info())['depth/image'])
    assert depth_before.shape == depth_after.shape
    np.testing.assert_array_equal(depth_before, depth_after)


def rewrite_info(source: Path, target: Path, **changes: Any) -> None:
    """Copy a weights file whose description of itself is wrong."""
    with safe_open(source, framework='pt') as file:
        metadata = dict(file.metadata())
    info = json.loads(metadata['info']) | changes
    save_file(load_file(source), target, metadata | {'info': json.dumps(info)})


# ---- asked of it at run time ---------------------------------------------------------------


def test_what_may_change_at_run_time_changes_and_the_rest_says_why_not(client: Client) -> None:
    assert set_parameter(client, 'shared', 'max_range', 50.0).successful
    for name, value, words in (
        ('max_range', -3.0, 'max_range'),
        ('max_range', 0.05, 'min_range 0.1 and max_range 0.05'),
        ('points.stride', 0, 'points.stride'),
        ('device', 'cpu', 'read-only'),
    ):
        result = set_parameter(client, 'shared', name, value)
        assert not result.successful and words in result.reason, (name, value, result)
    assert set_parameter(client, 'shared', 'max_range', 100.0).successful


def test_reset_makes_the_next_frame_a_first_one(client: Client) -> None:
    for index in range(3):
        client.ask(raw(index), CAMERA.info())
    assert client.settled().values['frames used'] == '3'
    assert client.call(Trigger, '/shared/reset', Trigger.Request()).success
    client.ask(raw(3), CAMERA.info())
    health = client.settled()
    assert health.values['mode'] == 'single-frame (first)'


# ---- who may talk to it --------------------------------------------------------------------


def allowed(kind: str, direction: str) -> set[str]:
    """Names that the example policy allows, as the node of this file would resolve them."""
    policy = ElementTree.parse(ROOT / 'config' / 'sros2_policy.xml')
    names = policy.findall(f".//{kind}s[@{direction}='ALLOW']/{kind}")
    return {f'/{name.text}'.replace('/~', '/guarded') for name in names}


def test_the_security_policy_allows_what_the_node_has_and_no_more(world: Path) -> None:
    """No remote procedure, no network of its own: only these topics and services."""
    with node_of(world, 'guarded', **{'scale.source': 'odometry'}) as (_, client):
        client.meet(raw(), CAMERA.info())
        ros = client.ros
        published, subscribed, served = (
            {name for name, _ in ask('guarded', '/')}
            for ask in (
                ros.get_publisher_names_and_types_by_node,
                ros.get_subscriber_names_and_types_by_node,
                ros.get_service_names_and_types_by_node,
            )
        )
    on_request = {'/image/compressed', '/tf', '/tf_static', '/clock', '/parameter_events'}
    assert published <= allowed('topic', 'publish') <= published | on_request
    assert subscribed <= allowed('topic', 'subscribe') <= subscribed | on_request
    # Newer distributions serve the types too
    assert served <= allowed('service', 'reply') <= served | {'/guarded/get_type_description'}


def test_transforms_without_tf2_are_refused_with_the_remedy(world: Path) -> None:
    try:
        import tf2_msgs  # noqa: F401
    except ImportError:
        with node_of(world, 'moving', **{'odometry.publish_tf': 'true'}) as (_, client):
            health = client.until_healthy(lambda h: h.is_error, 'an error')
            assert 'odometry.publish_tf needs tf2_msgs' in health.message
            assert client.state() == 'unconfigured'
    else:
        pytest.skip('tf2_msgs is installed')


def test_a_quality_of_service_that_means_nothing_is_told_where_it_is_used(world: Path) -> None:
    override = 'qos_overrides./image.subscription.reliability'
    with node_of(world, 'picky', **{override: 'hopeful'}) as (_, client):
        health = client.until_healthy(lambda h: 'not activated' in h.message, 'an error')
        assert health.is_error
        assert client.state() == 'inactive'


def test_deactivate_waits_for_no_more_than_the_frame_at_work(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, frame_s = DepthPipeline.push, 0.5

    def slow(self: DepthPipeline, frame: Any, **options: Any) -> Any:
        time.sleep(frame_s)
        return whole(self, frame, **options)

    monkeypatch.setattr(DepthPipeline, 'push', slow)
    for index in range(4):
        inner.client.show(raw(index), CAMERA.info())
        inner.client.spin_for(0.05)
    started = time.monotonic()
    assert inner.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert time.monotonic() - started < 2 * frame_s
    health = inner.client.until_healthy(lambda h: True, 'a report')
    assert health.count('frames waiting') == 0


def test_going_round_the_lifecycle_leaves_nothing_behind(inner: Inner) -> None:
    node = inner.node
    before = len(list(node.publishers)), len(node._managed_entities)
    for _ in range(2):
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert (len(list(node.publishers)), len(node._managed_entities)) == before


def test_cleanup_frees_the_network(inner: Inner) -> None:
    network = weakref.ref(inner.node._pipeline.predictor)  # type: ignore[union-attr]
    assert inner.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert inner.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    gc.collect()
    assert network() is None


@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_without_any_image(world: Path, sign: signal.Signals) -> None:
    name = f'idle_{sign.name.lower()}'
    command = node_command({'weights': world / 'tiny.safetensors'}, {'__node': name})
    with ExitStack() as stack:
        process = stack.enter_context(running(command, world / f'{name}.txt'))
        client = stack.enter_context(closing(Client(name)))
        client.until_healthy(lambda h: True, 'a report')
        assert process.stop(sign) == 0, process.output
        assert 'Traceback' not in process.output
