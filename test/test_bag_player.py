"""The bag player: what was recorded goes out, byte for byte, in order and in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import PATIENCE_S, ros_world, running
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from tc_depth_ros.ros.bag_player import read_messages
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.synthetic import render_recording

pytestmark = pytest.mark.ros

IMAGE = '/camera/color/image_raw/compressed'
INFO = '/camera/color/camera_info'
COUNT = 12
PLAYER = ['-m', 'tc_depth_ros.ros.bag_player']


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this file a ROS domain of its own; the folder has a bag of 1.1 s at 10 Hz."""
    folder = tmp_path_factory.mktemp('player')
    write_bag(folder / 'bag', render_recording(COUNT, 48, 64))
    with ros_world(folder):
        yield folder


class Listener:
    """Subscribes raw bytes, so that nothing can be lost in translation."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('listener', context=self._context)
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[bytes]] = {IMAGE: [], INFO: []}
        self.clock_ns: list[int] = []
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        for topic, kind in ((IMAGE, CompressedImage), (INFO, CameraInfo)):
            heard = self.heard[topic]
            self.node.create_subscription(kind, topic, heard.append, qos, raw=True)
        self.node.create_subscription(Clock, '/clock', self._on_clock, qos)

    def _on_clock(self, message: Clock) -> None:
        self.clock_ns.append(message.clock.sec * 10**9 + message.clock.nanosec)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.close()


def play(world: Path, listener: Listener, *options: str) -> tuple[int, str]:
    """Play the bag while listening; exit status and what the player said."""
    waits = ['--wait-for', f'{IMAGE}=1', '--timeout', str(PATIENCE_S)]
    with running([*PLAYER, str(world / 'bag'), *options, *waits], world / 'player.txt') as player:
        while player.alive:
            listener.executor.spin_once(timeout_sec=0.05)
        for _ in range(20):
            listener.executor.spin_once(timeout_sec=0.02)
        return player.wait(), player.output


def test_everything_goes_out_byte_for_byte_and_in_order(world: Path, listener: Listener) -> None:
    status, output = play(world, listener, '--rate', '10')
    assert status == 0, output
    for topic in (IMAGE, INFO):
        recorded = [m.cdr for m in read_messages(world / 'bag', [topic])]
        assert len(recorded) == COUNT
        heard = [bytes(message) for message in listener.heard[topic]]
        assert [h[: len(r)] for h, r in zip(heard, recorded, strict=True)] == recorded
        # DDS fills up to a multiple of four
        assert all(set(h[len(r) :]) <= {0} for h, r in zip(heard, recorded, strict=True))


def test_the_clock_follows_the_recording(world: Path, listener: Listener) -> None:
    status, output = play(world, listener, '--rate', '2', '--clock')
    assert status == 0, output
    times = [message.time_ns for message in read_messages(world / 'bag')]
    assert listener.clock_ns == sorted(listener.clock_ns)
    assert listener.clock_ns[-1] <= times[-1] + 50_000_000
    assert times[-1] - listener.clock_ns[-1] < 100_000_000
    assert len(listener.clock_ns) > COUNT


def test_only_the_topics_asked_for_go_out(world: Path, listener: Listener) -> None:
    assert play(world, listener, '--rate', '10', '--topics', IMAGE)[0] == 0
    assert len(listener.heard[IMAGE]) == COUNT and not listener.heard[INFO]


def test_the_rate_scales_the_time_between_messages(world: Path, listener: Listener) -> None:
    """1.1 s of bag at half its speed; a loaded machine may take longer, never less."""
    arrivals: list[float] = []

    class Timed(list[bytes]):
        def append(self, item: bytes) -> None:
            import time

            arrivals.append(time.monotonic())
            super().append(item)

    heard = Timed()
    listener.node.create_subscription(
        CompressedImage, IMAGE, heard.append, QoSProfile(depth=50), raw=True
    )
    assert play(world, listener, '--rate', '0.5')[0] == 0
    assert len(arrivals) == COUNT
    assert 2.0 < arrivals[-1] - arrivals[0] < 4.0


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere'], 'nowhere is not a bag that can be read'),
        (['{garbage}'], 'is not a bag that can be read'),
        (['{bag}', '--topics', '/none'], 'has no /none; there are: /camera'),
        (['{bag}', '--wait-for', '/odom=1', '--timeout', '0.5'], '/odom=1 not met in time'),
    ],
)
def test_what_cannot_be_played_is_said_with_status_1(
    world: Path, arguments: list[str], words: str
) -> None:
    (world / 'garbage.mcap').write_bytes(b'not a bag at all')
    filled = [a.format(bag=world / 'bag', garbage=world / 'garbage.mcap') for a in arguments]
    with running([*PLAYER, *filled], world / 'failing.txt') as player:
        assert player.wait() == 1
        assert words in player.output
        assert 'Traceback' not in player.output


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [(['--rate', '0'], '--rate is 0'), (['--wait-for', '/odom'], 'TOPIC=COUNT')],
)
def test_wrong_use_is_answered_with_status_2(
    world: Path, arguments: list[str], words: str
) -> None:
    with running([*PLAYER, str(world / 'bag'), *arguments], world / 'wrong.txt') as player:
        assert player.wait() == 2
        assert words in player.output
