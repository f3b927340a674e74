"""Test-time refinement: what it changes, what it leaves alone, and what it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import batch_of
from test_network import TINY, lively

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.geometry.reprojection import warp
from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights, save_weights
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.load import read_recording
from tc_depth_training.data.windows import find_windows
from tc_depth_training.losses.photometric import photometric_error
from tc_depth_training.refine import RefineConfig, refine_frames, refine_sequence, window_around
from tc_depth_training.starting_model import start_at_depth
from tc_depth_training.synthetic import SyntheticView, render_recording

SIZE = (48, 64)
VIEWS = 9


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return list(render_recording(frames=VIEWS, height=96, width=128))


@pytest.fixture(scope='module')
def bag(views: list[SyntheticView], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, views)
    return path


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = lively(TINY)
    start_at_depth(network, 4.5)
    path = tmp_path_factory.mktemp('weights') / 'w.safetensors'
    save_weights(path, network, WeightsInfo(TINY, *SIZE, metric=True, training_data='a room'))
    return path


def rebuilding_error(bag: Path, weights: Path) -> float:
    """Mean photometric error of the middle frames rebuilt from the ones after."""
    loaded = load_weights(weights)
    size = (loaded.info.input_height, loaded.info.input_width)
    recording = read_recording(bag, size, odometry=True)
    batch = batch_of(recording, *find_windows(recording, [0.1]).indices)
    assert batch.posed.all()
    poses = batch.world_T_camera
    with torch.no_grad():
        disparity = loaded.network(batch.images, batch.K).disparities[0][:, 1]
        depth = depth_from_disparity(disparity, TINY.min_depth, TINY.max_depth)
        warped = warp(batch.images[:, 2], depth, batch.K, poses[:, 2].inverse() @ poses[:, 1])
        return float(photometric_error(warped, batch.images[:, 1]).mean())


@pytest.mark.slow
def test_a_sequence_is_rebuilt_better_by_refined_weights(tmp_path: Path) -> None:
    unseen = tmp_path / 'unseen'
    write_bag(unseen, render_recording(frames=VIEWS, height=96, width=128, seed=5))
    trained = load_weights(DEFAULT_WEIGHTS)
    start, out = tmp_path / 'start.safetensors', tmp_path / 'refined.safetensors'
    info = replace(trained.info, input_height=96, input_width=128)
    save_weights(start, trained.network, info)
    refine_sequence(unseen, start, out, RefineConfig(steps=10, learning_rate=1e-4))
    # 10 steps gave 0.969; weights that only drift give about 1.00
    assert rebuilding_error(unseen, out) < 0.98 * rebuilding_error(unseen, start)
    refined = load_weights(out).info
    assert refined.metric and refined.training_data.endswith('refined on unseen')
    assert refined.notes['refined_steps'] == 10


def test_batch_norm_stays_as_it_was_and_the_rest_learns(
    bag: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'refined.safetensors'
    refine_sequence(bag, weights, out, RefineConfig(steps=2))
    before, after = load_weights(weights).network, load_weights(out).network
    frozen = {
        f'{name}.{key}'
        for name, module in before.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict()
    }
    changed = {
        key
        for key, value in before.state_dict().items()
        if not torch.equal(value, after.state_dict()[key])
    }
    assert not changed & frozen
    for part in ('encoder', 'blocks', 'decoder', 'coarse_depth'):
        assert any(key.startswith(part) for key in changed), part


def test_the_pose_network_learns_along(bag: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start, out = tmp_path / 'start.safetensors', tmp_path / 'refined.safetensors'
    info = WeightsInfo(TINY, *SIZE, metric=False, pose=PoseNetConfig())
    save_weights(start, lively(TINY), info, PoseNet(PoseNetConfig()))
    refine_sequence(bag, start, out, RefineConfig(steps=1))
    before, after = load_weights(start).pose_net, load_weights(out).pose_net
    assert before is not None and after is not None
    assert not torch.equal(before.motion.weight, after.motion.weight)


def test_without_a_step_each_frame_is_as_its_window_says(
    bag: Path, views: list[SyntheticView], weights: Path, tmp_path: Path
) -> None:
    count = refine_frames(bag, weights, tmp_path, RefineConfig(steps=0))
    files = sorted((tmp_path / 'depth').iterdir(), key=lambda path: int(path.stem))
    assert count == VIEWS and [int(f.stem) for f in files] == [v.stamp_ns for v in views]
    recording = read_recording(bag, SIZE, odometry=False)
    batch = batch_of(recording, (3, 4, 5))
    with torch.inference_mode():
        disparity = load_weights(weights).network(batch.images, batch.K).disparities[0][0, 1, 0]
    depth = np.load(files[4])
    assert depth.dtype == np.float32 and depth.shape == (96, 128)
    # Disparity was enlarged to the camera's size; its ends stay about where they were
    expected = 1 / (0.01 + 9.99 * disparity.numpy())
    assert np.median(depth) == pytest.approx(np.median(expected), rel=0.01)


def test_each_frame_starts_from_the_trained_weights(
    bag: Path, views: list[SyntheticView], weights: Path, tmp_path: Path
) -> None:
    short = tmp_path / 'short'
    write_bag(short, views[-3:])
    config = RefineConfig(steps=2, learning_rate=1e-3)
    refine_frames(bag, weights, tmp_path / 'long_out', config)
    refine_frames(short, weights, tmp_path / 'short_out', config)
    name = f'{views[-2].stamp_ns}.npy'
    alone, after_others = (
        np.load(tmp_path / out / 'depth' / name) for out in ('short_out', 'long_out')
    )
    np.testing.assert_array_equal(alone, after_others)
    untouched = tmp_path / 'untouched'
    refine_frames(short, weights, untouched, RefineConfig(steps=0))
    assert np.abs(np.load(untouched / 'depth' / name) / alone - 1).max() > 0.03


@pytest.mark.parametrize(
    ('target', 'window'),
    [(0, (0, 3, 6)), (1, (0, 1, 4)), (5, (2, 5, 8)), (9, (6, 9, 10)), (10, (4, 7, 10))],
)
def test_a_window_is_about_a_step_wide_on_either_side(
    target: int, window: tuple[int, ...]
) -> None:
    stamps_ns = np.arange(11) * 33_333_333
    assert tuple(window_around(stamps_ns, target, 0.1)) == window


def test_a_window_of_a_slow_bag_takes_the_next_frames() -> None:
    stamps_ns = np.arange(5) * 1_000_000_000
    assert [tuple(window_around(stamps_ns, t, 0.1)) for t in (0, 2, 4)] == [
        (0, 1, 2),
        (1, 2, 3),
        (2, 3, 4),
    ]


def test_what_is_missing_is_named(
    views: list[SyntheticView], bag: Path, weights: Path, tmp_path: Path
) -> None:
    short = tmp_path / 'short'
    write_bag(short, views[:2])
    with pytest.raises(BagError, match='has 2 frames'):
        refine_frames(short, weights, tmp_path / 'out', RefineConfig())
    with pytest.raises(BagError, match='time-step'):
        refine_sequence(bag, weights, tmp_path / 'w', RefineConfig(time_step_s=60.0))


def test_weights_without_pose_network_need_odometry(
    views: list[SyntheticView], weights: Path, tmp_path: Path
) -> None:
    silent = tmp_path / 'silent'
    write_bag(silent, views, odometry=False)
    with pytest.raises(BagError, match='no odometry'):
        refine_sequence(silent, weights, tmp_path / 'w', RefineConfig())


def test_the_command_writes_weights_or_depths(bag: Path, weights: Path, tmp_path: Path) -> None:
    command = ['refine', str(bag), '--weights', str(weights), '--steps', '1']
    assert main([*command, '--out', str(tmp_path / 'w.safetensors')]) == 0
    assert load_weights(tmp_path / 'w.safetensors').info.network == TINY
    assert main([*command, '--per-frame', '--out', str(tmp_path / 'frames')]) == 0
    assert len(list((tmp_path / 'frames' / 'depth').iterdir())) == VIEWS
