"""
The node with weights that match: by whose motion, while odometry comes, is late, jumps or is away.

A walk through the rendered room, over DDS. The weights are untrained and answer about 3 m
everywhere, at a size that shows enough points: so the images always tell the motion.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

import torch
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_harness import (
    FRAME_ID,
    PATIENCE_S,
    PERIOD_NS,
    Camera,
    Client,
    Health,
    node_command,
    ros_world,
    running,
)
from std_srvs.srv import Trigger
from test_matching import TINY_MATCHING
from test_network import TINY
from transforms3d.quaternions import mat2quat

from tc_depth_ros.network.checkpoint import WeightsInfo, save_weights
from tc_depth_ros.network.config import TCDepthConfig
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.ros.node import TCDepthNode
from tc_depth_training.starting_model import start_at_depth
from tc_depth_training.synthetic import SyntheticView, render_recording

pytestmark = pytest.mark.ros

CAMERA = Camera()
WAIT_S = 0.4  # for odometry: long, so that one that is waited for each time would show
LATE_FRAMES = 5  # 0.5 s
WHY = 'motion source: why not odometry'


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this file a ROS domain of its own; the folder has the weights."""
    folder = tmp_path_factory.mktemp('matching')
    for name, config in (('matching', TINY_MATCHING), ('plain', TINY)):
        write_weights(folder / f'{name}.safetensors', config)
    with ros_world(folder):
        yield folder


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(16, CAMERA.height, CAMERA.width)


def reliable(prefix: str = '/') -> dict[str, str]:
    """Parameters of a node that loses no input: each of them counts here."""
    topics = (prefix + name for name in ('image', 'camera_info', 'odom'))
    return {f'qos_overrides.{topic}.subscription.reliability': 'reliable' for topic in topics}


def write_weights(path: Path, config: TCDepthConfig) -> None:
    torch.manual_seed(0)
    network = TCDepth(config)
    start_at_depth(network, 3.0)
    save_weights(path, network, WeightsInfo(config, 96, 128, metric=True))


@dataclass
class Robot:
    """A camera and the odometry of the robot that carries it, and what the node makes of them."""

    client: Client
    views: list[SyntheticView]
    prefix: str = '/'  # of its topics
    late_frames: int = 0  # by which odometry comes too late
    jumped_m: float = 0.0
    covariance: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of x, y, z in m^2
    child: str = FRAME_ID
    waiting: deque[Odometry] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin the walk."""
        self.walk = cycle([*self.views, *self.views[-2:0:-1]])
        self.output = self.client.ros.create_publisher(Odometry, self.topic, 10)
        self.client.listen('depth/image')
        self.client.meet(*self.look(self.views[0]))

    @property
    def topic(self) -> str:
        """Where it says its odometry."""
        return f'{self.prefix}odom'

    @property
    def followers(self) -> int:
        """How many subscribe its odometry."""
        return int(self.client.ros.count_subscribers(self.topic))

    def look(self, view: SyntheticView) -> tuple[Any, Any]:
        """A view of the room as the messages of a camera."""
        info = CAMERA.info()
        info.k = view.K.ravel()
        info.p = np.hstack([view.K, np.zeros((3, 1))]).ravel()
        return CAMERA.raw(view.image), info

    def odometry(self, view: SyntheticView, stamp_ns: int) -> Odometry:
        """What the robot says of where it was."""
        message = Odometry(child_frame_id=self.child)
        message.header.frame_id = 'odom'
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        place.x, place.y, place.z = view.world_T_camera[:3, 3].tolist()
        place.y += self.jumped_m
        turn.w, turn.x, turn.y, turn.z = mat2quat(view.world_T_camera[:3, :3]).tolist()
        message.pose.covariance[[0, 7, 14]] = self.covariance
        return message

    def step(self, odometry: bool = True) -> float:
        """Go on by a frame, which must get its depth; in how many seconds it did."""
        client, view = self.client, next(self.walk)
        if odometry:
            self.waiting.append(self.odometry(view, client.stamp_ns + PERIOD_NS))
        while len(self.waiting) > (self.late_frames if odometry else 0):
            self.output.publish(self.waiting.popleft())
        began_s = time.monotonic()
        client.ask(*self.look(view))
        took_s = time.monotonic() - began_s
        client.spin_for(1e-9 * PERIOD_NS - took_s)
        return took_s

    def report(self) -> Health:
        """What the node says once all frames have been answered."""
        health = self.client.settled()
        for said in self.client.health:
            known = said.count('frames published') + sum(said.dropped.values())
            assert said.count('frames received') == known + said.count('frames waiting'), said
            assert not set(said.dropped) - {'nobody subscribes'}, said  # before the test listens
        self.client.health.clear()
        return health

    def follow(
        self, source: str, why: str = '', *, odometry: bool = True, matched: bool = False
    ) -> Health:
        """Go on until the node matches by a motion, for a reason."""
        for _ in range(8):
            for _ in range(3):
                self.step(odometry)
            health = self.report()
            if (
                health.values['motion source'] == source
                and why in health.values.get(WHY, '')
                and (health.count('keyframes matched') > 0 or not matched)
            ):
                assert bool(why) == (WHY in health.values)
                return health
        raise AssertionError(f'not by {source} ({why}): {health}')

    def set_weights(self, node: str, weights: Path) -> None:
        """Swap the weights."""
        change = Parameter('weights', value=str(weights)).to_parameter_msg()
        request = SetParameters.Request(parameters=[change])
        (result,) = self.client.call(SetParameters, f'/{node}/set_parameters', request).results
        assert result.successful, result.reason


@pytest.fixture(scope='module')
def shared(world: Path, views: list[SyntheticView]) -> Iterator[Robot]:
    """Run the node that most tests share."""
    parameters = {
        'weights': world / 'matching.safetensors',
        'matching.odometry_wait_s': WAIT_S,
        **reliable(),
    }
    with ExitStack() as stack:
        node = stack.enter_context(running(node_command(parameters), world / 'node.txt'))
        client = stack.enter_context(closing(Client()))
        client.until(lambda: client.health, 'the node has started', 4 * PATIENCE_S)
        yield Robot(client, views)
        assert node.alive, node.output
        assert 'Traceback' not in node.output, node.output


@pytest.fixture
def robot(shared: Robot) -> Robot:
    """The robot whose odometry is right and in time, and used."""
    shared.late_frames, shared.jumped_m = 0, 0.0
    shared.covariance, shared.child = (0.0, 0.0, 0.0), FRAME_ID
    assert shared.followers == 1
    shared.follow('odometry', matched=True)
    return shared


@contextmanager
def inner(
    world: Path, views: list[SyntheticView], name: str, **parameters: Any
) -> Iterator[Robot]:
    """A node within this process, which starts sooner."""
    prefix = f'/{name}/'
    client = Client(name, prefix)
    given = parameters | reliable(prefix)
    remaps = [('__node', name), *((t, prefix + t) for t in ('image', 'camera_info', 'odom'))]
    node = TCDepthNode(
        context=client.ros.context,
        cli_args=['--ros-args', *(part for a, b in remaps for part in ('-r', f'{a}:={b}'))],
        parameter_overrides=[Parameter(key, value=value) for key, value in given.items()],
    )
    client.executor.add_node(node)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        yield Robot(client, views, prefix)
    finally:
        node.trigger_shutdown()
        node.destroy_node()
        client.close()


# ---- odometry that is there, or not ----------------------------------------------------------


def test_odometry_that_is_missing_from_the_start_is_replaced_by_the_images(shared: Robot) -> None:
    response = shared.client.call(Trigger, '/tc_depth/reset', Trigger.Request())
    assert response.success
    shared.step(odometry=False)
    first = shared.report()
    assert (first.values['motion source'], first.values[WHY]) == ('none', 'no odometry')
    assert first.count('keyframes matched') == 0
    for _ in range(2):
        shared.step(odometry=False)
    third = shared.report()
    assert (third.values['motion source'], third.values[WHY]) == ('images', 'no odometry')
    shared.follow('images', 'no odometry', odometry=False, matched=True)


def test_odometry_in_time_is_used(robot: Robot) -> None:
    health = robot.follow('odometry', matched=True)
    assert WHY not in health.values and health.is_ok


def test_late_odometry_is_waited_for_once_and_the_images_stand_in(robot: Robot) -> None:
    in_time_s = [robot.step() for _ in range(LATE_FRAMES)]
    robot.late_frames = LATE_FRAMES
    late_s = [robot.step() for _ in range(2 * LATE_FRAMES)]
    health = robot.report()
    assert health.values['motion source'] == 'images' and 'late' in health.values[WHY]
    # Half of what it would take to wait each time
    raised_s = sum(late_s) - len(late_s) * statistics.median(in_time_s)
    assert raised_s < len(late_s) * WAIT_S / 2
    robot.late_frames = 0
    robot.follow('odometry', matched=True)


def test_odometry_that_is_away_for_two_seconds_is_used_again(robot: Robot) -> None:
    for _ in range(2):
        for _ in range(10):
            robot.step(odometry=False)
        health = robot.report()
        assert health.values['motion source'] == 'images' and 'late' in health.values[WHY]
    for _ in range(3):
        robot.step()
    assert robot.report().values['motion source'] == 'odometry'
    robot.follow('odometry', matched=True)


# ---- odometry that cannot be relied on --------------------------------------------------------


def test_a_jump_costs_two_frames(robot: Robot) -> None:
    """The first could be a single wrong pose, after which odometry goes on where it was."""
    robot.jumped_m = 5.0
    robot.step()
    health = robot.report()
    assert health.values['motion source'] == 'images'
    assert 'does not fit the images' in health.values[WHY]
    robot.step()
    assert robot.report().values['motion source'] == 'images'
    robot.step()
    assert robot.report().values['motion source'] == 'odometry'
    robot.follow('odometry', matched=True)


def test_a_single_wrong_pose_costs_one_frame_and_no_keyframes(robot: Robot) -> None:
    robot.jumped_m = 5.0
    robot.step()
    assert robot.report().values['motion source'] == 'images'
    robot.jumped_m = 0.0
    robot.step()
    health = robot.report()
    assert health.values['motion source'] == 'odometry'
    assert health.count('keyframes matched') > 0
    robot.follow('odometry', matched=True)


def test_odometry_that_is_not_sure_is_not_used(robot: Robot) -> None:
    robot.covariance = (0.01, 90000.0, 0.01)
    robot.follow('images', 'sure of its position to 300 m only')
    robot.covariance = (0.01, 0.01, 1e12)  # as robots on wheels say of z
    robot.follow('odometry', matched=True)


def test_odometry_of_a_frame_that_tf_does_not_link_is_not_used(robot: Robot) -> None:
    robot.child = 'base_link'
    robot.follow('images', "TF does not link the odometry's child frame")
    robot.child = FRAME_ID
    robot.follow('odometry', matched=True)
    # Nor where the node is started anew in between
    assert robot.client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert robot.client.change_state(Transition.TRANSITION_ACTIVATE)
    robot.child = 'base_link'
    robot.client.meet(*robot.look(robot.views[0]))
    robot.follow('images', "TF does not link the odometry's child frame")


def test_a_reset_forgets_odometry_and_keyframes(robot: Robot) -> None:
    response = robot.client.call(Trigger, '/tc_depth/reset', Trigger.Request())
    assert response.success
    robot.step(odometry=False)
    health = robot.report()
    assert health.values['mode'] == 'single-frame (first)'
    assert health.count('keyframes matched') == 0
    assert (health.values['motion source'], health.values[WHY]) == ('none', 'no odometry')
    robot.follow('odometry', matched=True)


# ---- who needs odometry ------------------------------------------------------------------------


def test_weights_that_match_take_over_with_odometry(
    world: Path, views: list[SyntheticView]
) -> None:
    plain, matching = (world / f'{name}.safetensors' for name in ('plain', 'matching'))
    with inner(world, views, 'swapped', weights=str(plain)) as robot:
        health = robot.follow('none')
        assert health.count('keyframes matched') == 0
        assert robot.followers == 0
        robot.set_weights('swapped', matching)
        robot.client.until(lambda: robot.followers == 1, 'odom is subscribed')
        robot.follow('odometry', matched=True)
        robot.set_weights('swapped', plain)
        robot.follow('none')
        robot.set_weights('swapped', matching)
        robot.follow('odometry', matched=True)
        assert robot.followers == 1


def test_without_matching_odometry_is_for_the_scale_alone(
    world: Path, views: list[SyntheticView]
) -> None:
    parameters = {'weights': str(world / 'plain.safetensors'), 'scale.source': 'odometry'}
    with inner(world, views, 'scaled', **parameters) as robot:
        robot.follow('none')
        assert robot.followers == 1


def test_matching_without_odometry_if_that_is_asked_for(
    world: Path, views: list[SyntheticView]
) -> None:
    parameters = {'weights': str(world / 'matching.safetensors'), 'matching.odometry': 'none'}
    with inner(world, views, 'alone', **parameters) as robot:
        robot.follow('images', matched=True)
        assert robot.followers == 0
