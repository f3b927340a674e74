"""A real recording through real DDS into the node with the embedded weights, as its users do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from conftest import shared_bag
from ros_harness import OUTPUTS, Client, node_command, ros_world, running

from tc_depth_ros.frames.frame import decode_depth, stamp_ns
from tc_depth_training.data.bag import Bag

pytestmark = [pytest.mark.ros, pytest.mark.slow]

IMAGE, INFO = '/camera/color/image_raw', '/camera/color/camera_info'
RATE_HZ, RECORDED_HZ = 4, 30  # so slow that a busy machine keeps up
FX = FY = 585.0
CX, CY = 320.0, 240.0


@pytest.fixture(autouse=True)
def world(tmp_path: Path) -> Iterator[Path]:
    with ros_world(tmp_path):
        yield tmp_path


def test_the_kitchen_at_4_hz(world: Path) -> None:
    """Every frame that the node accepts has its depth and its cloud, to the letter of REP 118."""
    # Of half a second in which a busy machine lets the client stand, outputs may be lost to it;
    # what is lost on the way of itself is for test_large_messages
    bag = shared_bag('kitchen_eval')
    with Bag(bag) as opened:
        stamps = [frame.stamp_ns for frame in opened.frames(opened.find_camera())]
    remaps = {'image/compressed': f'{IMAGE}/compressed', 'camera_info': INFO}
    node = node_command({'image_transport': 'compressed'}, remaps)
    player = ['-m', 'tc_depth_ros.ros.bag_player', str(bag), '--rate', str(RATE_HZ / RECORDED_HZ)]
    player += ['--topics', f'{IMAGE}/compressed', INFO, '--delay', '2']
    player += ['--wait-for', f'{IMAGE}/compressed=1', f'{INFO}=1']
    client = Client()
    try:
        client.listen(*OUTPUTS)
        with running(node, world / 'node.txt'):
            client.until(client.met, 'the outputs are there')
            with running(player, world / 'player.txt') as playing:
                client.until(lambda: not playing.alive, 'the bag ends', timeout_s=90)
                assert playing.wait() == 0, playing.output
            health = client.settled()
        accepted = health.count('frames received') - sum(health.dropped.values())
        depths = client.heard['depth/image']
        print(f'{len(stamps)} played, {accepted} accepted, {len(depths)} depths; {health.values}')
        assert accepted == health.count('frames published') > 0.8 * len(stamps)
        assert health.dropped.keys() <= {'superseded'}
        clouds = {stamp_ns(m.header): m for m in client.heard['points']}
        heard = {stamp_ns(m.header): m for m in depths}
        assert len(heard) == len(depths) <= accepted
        both = heard.keys() & clouds.keys()
        assert both <= set(stamps) and len(both) > 0.7 * accepted
        for stamp in both:
            message = heard[stamp]
            assert message.header.frame_id == 'camera_color_optical_frame'
            assert (message.encoding, message.height, message.width) == ('32FC1', 480, 640)
            check_cloud(decode_depth(message), clouds[stamp])
    finally:
        client.close()


def check_cloud(depth: np.ndarray, message: object) -> None:
    """The cloud is organised, its z the depth, its x and y by the pinhole; NaN, never zero."""
    assert (message.height, message.width) == (480, 640)  # type: ignore[attr-defined]
    data = np.frombuffer(message.data, np.float32)  # type: ignore[attr-defined]
    x, y, z, _ = np.moveaxis(data.reshape(480, 640, 4), -1, 0)
    valid = np.isfinite(depth)
    assert np.array_equal(z[valid], depth[valid])
    assert np.isnan(z[~valid]).all() and (z[valid] > 0).all()
    v, u = np.indices(depth.shape)
    tolerance = {'rtol': 1e-4, 'atol': 1e-6}
    np.testing.assert_allclose(x[valid], ((u - CX) * depth / FX)[valid], **tolerance)
    np.testing.assert_allclose(y[valid], ((v - CY) * depth / FY)[valid], **tolerance)
