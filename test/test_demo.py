"""The demo whole: a bag into the node and pictures out, three processes over DDS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from ros_harness import ros_world, running, write_weights
from test_matching import TINY_MATCHING
from test_node_matching import write_weights as write_matching_weights

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.synthetic import render_recording

pytestmark = [pytest.mark.ros, pytest.mark.slow]

COUNT = 12
DEMO = ['-m', 'tc_depth_training.cli', 'demo']


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp('demo')
    write_weights(folder / 'tiny.safetensors')
    with ros_world(folder):
        yield folder


@pytest.mark.parametrize('compressed', [True, False])
def test_every_image_played_becomes_depth_and_the_pictures_are_there(
    world: Path, compressed: bool
) -> None:
    bag, out = world / f'bag_{compressed}', world / f'out_{compressed}'
    write_bag(bag, render_recording(COUNT, 120, 160), compressed=compressed)
    weights = str(world / 'tiny.safetensors')
    command = [*DEMO, str(bag), '--out', str(out), '--rate', '10', '--weights', weights]
    with running(command, world / 'demo.txt') as demo:
        assert demo.wait(120) == 0, demo.output
        assert f'{COUNT} played, {COUNT} reached the node' in demo.output
    summary = json.loads((out / 'summary.json').read_text())
    dropped = sum(int(v) for k, v in summary['node'].items() if k.startswith('dropped'))
    assert summary['depths'] == summary['clouds'] == COUNT - dropped
    assert summary['unmatched'] == 0
    sheet = cv2.imread(str(out / 'contact_sheet.png'))
    assert sheet is not None and sheet.shape[1] == 2 * 160
    # Neither half of the sheet is blank
    assert sheet[40:, :160].std() > 10 and sheet[40:, 160:].std() > 10
    assert cv2.imread(str(out / 'cloud.png')).std() > 1
    header, _, body = (out / 'cloud.ply').read_bytes().partition(b'end_header\n')
    (count,) = [int(w.split()[2]) for w in header.splitlines() if w.startswith(b'element vertex')]
    points = np.frombuffer(body, dtype=[('xyz', '<f4', 3), ('rgb', 'u1', 3)])
    assert len(points) == count == 120 * 160
    assert np.isfinite(points['xyz']).all() and points['rgb'].std() > 10


def test_weights_that_match_are_given_the_odometry_of_the_bag(world: Path) -> None:
    bag, out = world / 'walk', world / 'out_walk'
    write_bag(bag, render_recording(3 * COUNT, 120, 160)[::3])  # with /odom and /tf_static
    write_matching_weights(world / 'matching.safetensors', TINY_MATCHING)
    command = [*DEMO, str(bag), '--out', str(out), '--rate', '5']
    command += ['--weights', str(world / 'matching.safetensors')]
    with running(command, world / 'walk.txt') as demo:
        assert demo.wait(120) == 0, demo.output
    node = json.loads((out / 'summary.json').read_text())['node']
    assert node['motion source'] == 'odometry', node


def test_weights_that_cannot_be_used_end_the_demo_with_the_reason(world: Path) -> None:
    bag = world / 'bag_True'
    if not bag.exists():
        write_bag(bag, render_recording(COUNT, 120, 160))
    command = [*DEMO, str(bag), '--out', str(world / 'none'), '--weights', 'nowhere.safetensors']
    with running(command, world / 'failing.txt') as demo:
        assert demo.wait(120) == 1
        assert 'nowhere.safetensors do not exist' in demo.output
