"""Pairing images with their CameraInfo, also while the inputs are being closed; and mounting."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from nav_msgs.msg import Odometry
from ros_harness import Camera

from tc_depth_ros.ros.inputs import Arrival, Inputs, Listener
from tc_depth_ros.ros.mounting import Mounting

pytestmark = pytest.mark.ros

CAMERA = Camera()


class Bench:
    """Inputs whose subscriptions are called by hand."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}
        self.arrived: list[Arrival] = []
        self.dropped: list[str] = []
        self.complaints: list[str] = []
        self.odometry: list[Odometry] = []
        self.closed: list[str] = []
        self.received = 0
        listener = Listener(
            self._count,
            self.arrived.append,
            self.dropped.append,
            self.complaints.append,
            self.odometry.append,
        )
        self.inputs = Inputs(self._subscribe, self._unsubscribe, 'raw', listener)

    def _count(self) -> None:
        self.received += 1

    def _subscribe(self, kind: type[Any], topic: str, callback: Any) -> Any:
        assert topic not in self.callbacks
        self.callbacks[topic] = callback
        return SimpleNamespace(topic_name=f'/{topic}')

    def _unsubscribe(self, subscription: Any) -> None:
        self.closed.append(subscription.topic_name)

    def image(self, stamp_s: int) -> None:
        message = CAMERA.raw(CAMERA.picture())
        message.header.stamp.sec = stamp_s
        self.callbacks['image'](message)

    def info(self, stamp_s: int) -> None:
        message = CAMERA.info()
        message.header.stamp.sec = stamp_s
        self.callbacks['camera_info'](message)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Stamps of what arrived, in s: of image and CameraInfo."""
        return [(a.image.header.stamp.sec, a.camera_info.header.stamp.sec) for a in self.arrived]


def test_an_image_goes_with_the_info_of_its_stamp_else_with_the_latest() -> None:
    bench = Bench()
    for stamp_s in (1, 2, 3):
        bench.info(stamp_s)
    for stamp_s in (2, 3, 9):
        bench.image(stamp_s)
    assert bench.pairs == [(2, 2), (3, 3), (9, 3)]


def test_an_image_before_any_info_waits_and_the_newest_is_served() -> None:
    bench = Bench()
    bench.image(1)
    assert not bench.dropped
    bench.image(2)
    assert (
        bench.dropped == ['no camera_info']
        and 'no CameraInfo on /camera_info' in bench.complaints[-1]
    )
    bench.info(2)
    assert bench.pairs == [(2, 2)] and bench.complaints[-1] == ''


def test_closing_drops_what_waits() -> None:
    bench = Bench()
    bench.image(1)
    bench.inputs.close()
    assert bench.dropped == ['no camera_info']


def test_odometry_is_subscribed_when_it_is_asked_for_and_once() -> None:
    bench = Bench()
    assert set(bench.callbacks) == {'image', 'camera_info'}
    for _ in range(2):
        bench.inputs.follow_odometry()
    message = Odometry()
    bench.callbacks['odom'](message)
    assert bench.odometry == [message]
    bench.inputs.close()
    assert sorted(bench.closed) == ['/camera_info', '/image', '/odom']


# ---- mounting ------------------------------------------------------------------------------


class TransformError(Exception):
    """As tf2_ros raises."""


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Any]:
    """Transforms that a stand-in for tf2_ros knows."""
    known: dict[tuple[str, str], Any] = {}

    class Buffer:
        def lookup_transform(self, target: str, source: str, _: Any) -> Any:
            if (target, source) not in known:
                raise TransformError(f'{target} is not linked to {source}')
            return SimpleNamespace(transform=known[target, source])

    stand_in = SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda *_: None, TransformException=TransformError
    )
    monkeypatch.setitem(sys.modules, 'tf2_ros', stand_in)
    return known


def logger(lines: list[str]) -> Any:
    def warning(text: str, **_: Any) -> None:
        lines.append(text)

    return SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=warning))


def test_the_cameras_own_odometry_needs_no_tf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)  # not to be imported
    for child in ('camera', ''):
        np.testing.assert_array_equal(Mounting(logger([])).find(child, 'camera'), np.eye(4))


def test_the_mounting_is_looked_up_as_child_from_camera(tf: dict[tuple[str, str], Any]) -> None:
    tf['base_link', 'camera'] = SimpleNamespace(
        translation=SimpleNamespace(x=1.0, y=2.0, z=3.0),
        rotation=SimpleNamespace(x=0.0, y=0.0, z=np.sqrt(0.5), w=np.sqrt(0.5)),
    )
    found = Mounting(logger([])).find('base_link', 'camera')
    assert found is not None
    np.testing.assert_allclose(found @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)


def test_frames_that_nothing_links_are_named_until_they_are(
    tf: dict[tuple[str, str], Any],
) -> None:
    lines: list[str] = []
    assert Mounting(logger(lines)).find('base_link', 'camera') is None
    assert 'base_link' in lines[0] and 'camera' in lines[0] and 'straight motion' in lines[0]


def test_without_tf2_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    lines: list[str] = []
    assert Mounting(logger(lines)).find('base_link', 'camera') is None
    assert 'tf2_ros' in lines[0]
