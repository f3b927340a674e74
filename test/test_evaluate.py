"""``tc-depth evaluate``, front door: bags in; a table, JSON and a page of pictures out."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import shared_bag
from numpy.typing import NDArray
from test_data import merge
from test_evaluation_inputs import LIDAR, lidar_bag
from test_network import TINY, lively

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights, save_weights
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.predictor import DepthPredictor
from tc_depth_ros.temporal.tracker import TemporalConfig, TemporalTracker, motion_source
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.data.bag import Bag
from tc_depth_training.evaluation import predictions
from tc_depth_training.evaluation.depth_errors import DepthRange
from tc_depth_training.evaluation.depth_scores import (
    find_scales,
    score_depths,
    score_trivial,
)
from tc_depth_training.evaluation.predictions import predict_trajectory
from tc_depth_training.evaluation.sequence import FrameSequence, Topics, read_sequence
from tc_depth_training.evaluation.temporal_scores import score_temporal
from tc_depth_training.evaluation.trajectory_errors import score_poses
from tc_depth_training.synthetic import SyntheticView, render_recording

SECOND = 1_000_000_000
FRAMES, HEIGHT, WIDTH = 7, 96, 128
POSE_NET = PoseNetConfig()
ERRORS = {'abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'a1', 'a2', 'a3'}
DEPTH = '/camera/depth/image_rect_raw'


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope='module')
def bag(views: list[SyntheticView], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, views, image_format='png', depth_encoding='32FC1')
    return path


def write_weights(
    path: Path, pose: bool = True, height: int = 48, width: int = 64, metric: bool = True
) -> Path:
    torch.manual_seed(3)
    pose_net = PoseNet(POSE_NET).eval() if pose else None
    info = WeightsInfo(TINY, height, width, metric=metric, pose=POSE_NET if pose else None)
    save_weights(path, lively(TINY), info, pose_net)
    return path


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp('weights') / 'w.safetensors')


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Evaluate by command, which must succeed, and answer the JSON that it wrote."""

    def call(bag: Path, *options: str, weights: Path = weights) -> dict[str, Any]:
        file = tmp_path / 'numbers' / 'out.json'  # a folder that is not there yet
        command = ['evaluate', str(bag), '--weights', str(weights), '--json', str(file)]
        assert main([*command, *options]) == 0
        found: dict[str, Any] = json.loads(file.read_text(), parse_constant=pytest.fail)
        return found

    return call


# What is written


def test_the_json_has_exactly_these_keys(run, bag) -> None:
    numbers = run(bag)
    scores = {'frames', 'coverage', 'depth', 'scale', 'temporal'}
    matching = {'motions', 'without_motion'}
    assert numbers.keys() == scores | {'pose', 'single_frame', 'trivial'} | matching
    assert numbers['motions'] == {} and numbers['without_motion'] is None  # it does not match
    assert numbers['single_frame'].keys() == scores
    for part in (numbers, numbers['single_frame']):
        assert part['depth'].keys() == {'median', 'global', 'none'}
        assert all(errors.keys() == ERRORS for errors in part['depth'].values())
        assert part['scale'].keys() == {'mean', 'std'}
        assert part['temporal'].keys() == {'tcm_abs', 'tcm_rmse', 'tae', 'opw', 'scale_ratio_std'}
        assert part['frames'] == FRAMES
        assert part['coverage'] == 1
        numbers_of = [*part['scale'].values(), *part['temporal'].values()]
        assert all(value > 0 for value in numbers_of)
    assert numbers['pose'].keys() == {'ate5_mean', 'ate5_std', 'ate_rmse'}
    assert all(value > 0 for value in numbers['pose'].values())
    assert numbers['trivial'].keys() == {'constant', 'plane', 'pixel_mean'}
    assert all(errors.keys() == ERRORS for errors in numbers['trivial'].values())


def test_a_second_run_gives_the_same_to_the_last_digit(run, bag) -> None:
    assert json.dumps(run(bag)) == json.dumps(run(bag))


@pytest.mark.parametrize('farthest', [80, 4])
def test_the_numbers_are_those_of_the_predictor(run, bag, views, weights, farthest) -> None:
    """
    Each scaling worked out here from what the predictor says of each frame.

    The room ends at 8 m: beyond 4 m truth is left out, and predictions are clamped.
    """
    numbers = run(bag, '--max-depth', str(farthest))
    with Bag(bag) as opened:
        frames = list(opened.frames(opened.find_camera()))
    for part, alone in ((numbers, False), (numbers['single_frame'], True)):
        predictor, depths = DepthPredictor.from_weights(weights, 'cpu'), []
        for frame in frames:
            if alone:
                predictor.reset()
            depths.append(predictor.push(frame).depth.astype(float))
        kept = [view.depth < farthest for view in views]
        truths = [view.depth[k].astype(float) for view, k in zip(views, kept, strict=True)]
        depths = [depth[k] for depth, k in zip(depths, kept, strict=True)]
        scales = [np.median(t) / np.median(d) for t, d in zip(truths, depths, strict=True)]
        assert part['scale']['mean'] == pytest.approx(np.mean(scales), rel=1e-6)
        assert part['scale']['std'] == pytest.approx(np.std(scales), rel=1e-6)
        chosen = {'median': scales, 'global': [np.median(scales)] * FRAMES, 'none': [1] * FRAMES}
        for name, factors in chosen.items():
            errors = [
                np.mean(np.abs((f * d).clip(1e-3, farthest) - t) / t)
                for f, d, t in zip(factors, depths, truths, strict=True)
            ]
            assert part['depth'][name]['abs_rel'] == pytest.approx(np.mean(errors), rel=1e-5)
        ratios = np.array(scales[1:]) / np.array(scales[:-1])
        assert part['temporal']['scale_ratio_std'] == pytest.approx(np.std(ratios), rel=1e-5)
    assert numbers['depth'] != numbers['single_frame']['depth']


def test_the_page_of_pictures(run, bag, tmp_path, capsys) -> None:
    report = tmp_path / 'a' / 'report'
    run(bag, '--report', str(report))
    assert str(report / 'index.html') in capsys.readouterr().out
    page = (report / 'index.html').read_text()
    for name in ('best.png', 'worst.png', 'over_time.png'):
        assert f'src="{name}"' in page
        picture = cv2.imread(str(report / name))
        assert picture is not None and picture.std() > 5, name
    assert 'each image scaled by its own factor' in page
    assert {int(x) for x in re.findall(r'frame (\d+):', page)} == set(range(FRAMES))  # 4 and 4
    best, worst = (
        [float(x) for x in re.findall(r'frame \d+: ([\d.]+)', p)] for p in page.split('The worst')
    )
    assert best == sorted(best) and worst == sorted(worst, reverse=True)
    assert best[0] <= worst[0]


def test_the_table_says_all_numbers(run, bag, capsys) -> None:
    numbers = run(bag)
    text = capsys.readouterr().out
    values = [numbers['depth'][s]['abs_rel'] for s in ('median', 'global', 'none')]
    values += [*numbers['temporal'].values(), *numbers['pose'].values()]
    values += [numbers['trivial'][name]['rmse'] for name in ('constant', 'plane', 'pixel_mean')]
    for value in values:
        assert f'{value:.4f}' in text
    assert f'{FRAMES} frames, truth {DEPTH}, coverage 100.0 %' in text


# Confidence, where it is asked for


def test_confidence_is_that_of_the_nodes_tracker(run, bag, views, weights, capsys) -> None:
    """The bins hold every pixel once, with errors worked out here; the other numbers stay."""
    numbers = run(bag, '--confidence')
    text = capsys.readouterr().out
    found = numbers.pop('confidence')
    assert numbers == run(bag)
    with Bag(bag) as opened:
        frames = list(opened.frames(opened.find_camera()))
    loaded = load_weights(weights)
    predictor = DepthPredictor(loaded)
    tracker = TemporalTracker(motion_source(TemporalConfig(), loaded.pose_net))
    certain, errors, pairs = [], [], []
    for frame, view in zip(frames, views, strict=True):
        prediction = predictor.push(frame)
        estimate = tracker.push(prediction.view, wants_confidence=True)
        depth = prediction.view.depth[0, 0].double().numpy()
        truth = cv2.resize(view.depth, depth.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        certain.append(estimate.confidence.ravel())
        scale = np.median(truth) / np.median(depth)
        errors.append((np.abs(scale * depth - truth) / truth).ravel())
        pairs += [estimate.consistency] if estimate.consistency else []
    certain, errors = np.concatenate(certain), np.concatenate(errors)
    bins = found['bins']
    assert sum(one['share'] for one in bins) == pytest.approx(1)
    assert found['mean'] == pytest.approx(certain.mean(), rel=1e-5)
    for one in bins:
        inside = (certain >= one['lowest']) & (certain < one['highest'])
        assert one['share'] == pytest.approx(inside.mean(), abs=1e-3)
        if one['share']:
            assert one['abs_rel'] == pytest.approx(errors[inside].mean(), rel=1e-2)
            assert one['good'] == pytest.approx((errors[inside] < 0.25).mean(), abs=1e-2)
            assert f'{one["abs_rel"]:.4f}' in text
    live = found['live']
    assert live['pairs'] == len(pairs) > 0
    assert live['disagreement'] == pytest.approx(np.mean([p.disagreement for p in pairs]))
    assert f'live consistency of {len(pairs)} pairs' in text


def test_confidence_without_truth_still_tells_consistency(run, bag) -> None:
    found = run(bag, '--confidence', '--depth', 'none')['confidence']
    assert found['bins'] == [] and found['mean'] is None
    assert found['live']['pairs'] > 0


def test_confidence_of_files_is_refused(bag, weights, tmp_path, capsys) -> None:
    command = ['evaluate', str(bag), '--weights', str(weights), '--confidence']
    assert main([*command, '--predictions', str(tmp_path)]) == 1
    assert 'leave out --predictions' in capsys.readouterr().err


# What a bag or the weights may lack


def test_without_truth_what_needs_none_is_there(run, bag, tmp_path) -> None:
    numbers = run(bag, '--depth', 'none', '--report', str(tmp_path / 'report'))
    whole = run(bag)
    for key in ('coverage', 'depth', 'scale', 'trivial'):
        assert numbers[key] is None
    assert numbers['frames'] == FRAMES
    temporal = numbers['temporal']
    assert {name for name, value in temporal.items() if value is None} == {
        'tcm_abs',
        'tcm_rmse',
        'scale_ratio_std',
    }
    assert temporal['tae'] > 0
    assert temporal['opw'] == pytest.approx(whole['temporal']['opw'], rel=1e-4)  # of no scale
    assert numbers['pose'] == whole['pose']
    assert cv2.imread(str(tmp_path / 'report' / 'frames.png')) is not None
    assert '<img' in (tmp_path / 'report' / 'index.html').read_text()


def test_without_odometry_what_needs_none_is_there(run, bag) -> None:
    numbers, whole = run(bag, '--odom', 'none'), run(bag)
    assert set(numbers['pose'].values()) == {None}
    temporal = whole['temporal'] | {'tcm_abs': None, 'tcm_rmse': None, 'tae': None}
    assert numbers['temporal'] == temporal
    assert numbers['depth'] == whole['depth']


def test_the_odometry_says_nothing_of_depths_in_another_unit(run, bag, tmp_path) -> None:
    relative = write_weights(tmp_path / 'relative.safetensors', metric=False)
    assert run(bag, '--depth', 'none', weights=relative)['temporal']['tae'] is None
    # The truth gives them their unit
    assert run(bag, weights=relative)['temporal']['tae'] > 0


def test_weights_without_a_pose_network_have_no_pose_errors(run, bag, tmp_path) -> None:
    numbers = run(bag, weights=write_weights(tmp_path / 'w.safetensors', pose=False))
    assert set(numbers['pose'].values()) == {None}
    assert numbers['temporal']['tae'] > 0


def test_a_single_frame_can_be_scored(run, views, tmp_path) -> None:
    write_bag(tmp_path / 'one', views[:1])
    numbers = run(tmp_path / 'one', '--report', str(tmp_path / 'report'))
    assert numbers['frames'] == 1
    assert set(numbers['temporal'].values()) == {None}
    assert set(numbers['pose'].values()) == {None}
    assert numbers['depth'] == numbers['single_frame']['depth']


def test_frames_after_a_gap_are_no_neighbours(run, views, tmp_path) -> None:
    far = [replace(v, stamp_ns=v.stamp_ns + i * SECOND) for i, v in enumerate(views[:4])]
    write_bag(tmp_path / 'bag', far)
    assert set(run(tmp_path / 'bag')['temporal'].values()) == {None}


def test_frames_twice_and_out_of_order_change_nothing(run, bag, views, tmp_path) -> None:
    order = (2, 0, 1, 1, 5, 3, 4, 6, 2)
    write_bag(
        tmp_path / 'bag',
        [views[i] for i in order],
        image_format='png',
        depth_encoding='32FC1',
    )
    assert run(tmp_path / 'bag') == run(bag)


def test_frames_without_truth_are_left_out_of_the_depth_errors(run, views, tmp_path) -> None:
    holes = [
        replace(v, depth=np.full_like(v.depth, np.nan)) if i in (1, 4) else v
        for i, v in enumerate(views)
    ]
    write_bag(tmp_path / 'bag', holes)
    numbers = run(tmp_path / 'bag')
    assert numbers['frames'] == FRAMES - 2
    assert numbers['coverage'] == 1
    assert all(map(math.isfinite, numbers['temporal'].values()))


def test_frames_beyond_the_odometry_have_no_pose(run, views, tmp_path) -> None:
    write_bag(tmp_path / 'camera', views, odometry=False)
    write_bag(tmp_path / 'odometry', views[:5])
    path = merge(tmp_path / 'bag', (tmp_path / 'camera', ''), (tmp_path / 'odometry', '/odom'))
    numbers = run(path)
    assert numbers['pose']['ate5_std'] == 0  # one snippet of five
    assert numbers['temporal']['tcm_abs'] > 0


def test_a_lidar_is_truth_too(run, bag, views, tmp_path) -> None:
    numbers = run(lidar_bag(tmp_path, views), '--report', str(tmp_path / 'report'))
    assert numbers['frames'] == FRAMES
    assert numbers['temporal']['tcm_abs'] > 0
    # Of cells, not pixels: worse than where every pixel is known, better than a constant
    errors = {name: score['abs_rel'] for name, score in numbers['trivial'].items()}
    assert 2 * run(bag)['trivial']['pixel_mean']['abs_rel'] < errors['pixel_mean']
    assert errors['pixel_mean'] < errors['constant']
    assert cv2.imread(str(tmp_path / 'report' / 'worst.png')) is not None


# The truth in place of a network: every number at its best


class Oracle:
    """Predicts the truth of each frame times a factor of its own."""

    def __init__(self, views: list[SyntheticView], factors: list[float]) -> None:
        self._depth = {
            v.stamp_ns: np.float32(f) * v.depth for v, f in zip(views, factors, strict=True)
        }

    def reset(self) -> None:
        """Nothing to forget."""

    def add_odometry(self, pose: object) -> None:
        """Of no use to it."""

    def push(self, frame: Frame, *, wants_confidence: bool) -> SimpleNamespace:
        return SimpleNamespace(depth=self._depth[frame.stamp_ns], keyframes_used=0)


@pytest.fixture
def ask_oracle(run, bag, views, monkeypatch) -> Callable[..., dict[str, Any]]:
    """Evaluate the truth, each frame times a factor."""

    def call(
        factors: list[float], bag: Path = bag, views: list[SyntheticView] = views
    ) -> dict[str, Any]:
        oracle = Oracle(views, factors)
        monkeypatch.setattr(predictions, 'recorded_pipeline', lambda *_, **__: oracle)
        return run(bag)

    return call


def test_the_truth_has_no_errors(ask_oracle) -> None:
    numbers = ask_oracle([0.25] * FRAMES)
    assert numbers['depth']['median']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert numbers['depth']['global']['rmse'] == pytest.approx(0, abs=1e-6)
    assert numbers['depth']['none']['abs_rel'] == pytest.approx(0.75)
    assert numbers['scale'] == pytest.approx({'mean': 4, 'std': 0}, abs=1e-6)
    temporal = numbers['temporal']
    print(temporal)
    assert temporal['tcm_abs'] == pytest.approx(0, abs=1e-6)
    assert temporal['tae'] < 0.009
    assert temporal['opw'] < 0.02
    assert temporal['scale_ratio_std'] == pytest.approx(0, abs=1e-6)


def test_flicker_is_seen(ask_oracle) -> None:
    factors = [(1.1, 1.0)[i % 2] for i in range(FRAMES)]  # seven frames: four and three
    steady, numbers = ask_oracle([1.0] * FRAMES), ask_oracle(factors)
    assert numbers['depth']['median']['abs_rel'] == pytest.approx(0, abs=1e-6)
    # One factor, that of the four: the three are 1/1.1 of their size
    assert numbers['depth']['global']['abs_rel'] == pytest.approx(3 / 7 * (1 - 1 / 1.1), rel=1e-4)
    assert numbers['depth']['none']['abs_rel'] == pytest.approx(4 / 7 * 0.1, rel=1e-4)
    ratios = [1.1, 1 / 1.1] * 3
    temporal = numbers['temporal']
    assert temporal['scale_ratio_std'] == pytest.approx(np.std(ratios), rel=1e-4)
    assert temporal['tcm_abs'] > 0.1
    # Each way the one is carried into the other: 0.1 and 1 - 1/1.1 in turns
    assert temporal['tae'] == pytest.approx((0.1 + 0.1 / 1.1) / 2, abs=0.006)
    assert temporal['opw'] > steady['temporal']['opw'] + 0.08


@pytest.mark.parametrize('alone', [0, 2])
def test_tcm_does_not_reach_across_a_gap(ask_oracle, views, tmp_path, alone) -> None:
    """Three frames, one of them a second off and of another scale."""
    away_ns = (alone - 1) * SECOND
    three = list(views[:3])
    three[alone] = replace(three[alone], stamp_ns=three[alone].stamp_ns + away_ns)
    write_bag(tmp_path / 'bag', three, depth_encoding='32FC1')
    factors = [1.5 if i == alone else 1.0 for i in range(3)]
    temporal = ask_oracle(factors, tmp_path / 'bag', three)['temporal']
    assert temporal['tcm_abs'] == pytest.approx(0, abs=1e-6)
    assert temporal['scale_ratio_std'] == 0


def test_a_pose_network_that_is_right_has_no_errors(bag, views, weights, tmp_path) -> None:
    sequence = read_sequence(bag, Topics(), tmp_path)

    def errors(motion: Callable[[int], NDArray[np.float64]]) -> list[float]:
        """Of a network that answers ``later_T_earlier`` by the index of the later."""
        motions = (torch.from_numpy(motion(i))[None] for i in range(1, FRAMES))
        told = load_weights(weights)._replace(pose_net=lambda earlier, later: next(motions))
        found = score_poses(sequence.world_T_camera, predict_trajectory(sequence, told))
        return [found.ate5_mean, found.ate_rmse]

    def true_motion(later: int) -> NDArray[np.float64]:
        return np.linalg.inv(views[later].world_T_camera) @ views[later - 1].world_T_camera

    def in_its_unit(later: int) -> NDArray[np.float64]:
        motion = true_motion(later)
        motion[:3, 3] *= 7
        return motion

    assert errors(true_motion) == pytest.approx([0, 0], abs=1e-9)
    assert errors(in_its_unit) == pytest.approx([0, 0], abs=1e-9)
    backward = errors(lambda later: np.linalg.inv(true_motion(later)))
    assert min(backward) > 1e-4


# Several columns at once


def sequence_of(views: list[SyntheticView], frames: int, sparse: bool = False) -> FrameSequence:
    """The rendered frames, again and again, with their truth."""
    truth = np.stack([views[i % FRAMES].depth for i in range(frames)])
    if sparse:
        truth[np.random.default_rng(0).random(truth.shape) > 0.1] = np.nan
    return FrameSequence(
        images=np.stack([views[i % FRAMES].image for i in range(frames)]),
        K=np.stack([views[0].K] * frames),
        stamps_ns=np.arange(frames) * SECOND // 10,
        frame_id='camera',
        truth=truth,
        truth_topic='/depth',
        sparse=sparse,
        world_T_camera=np.stack([views[i % FRAMES].world_T_camera for i in range(frames)]),
    )


@pytest.mark.parametrize('sparse', [False, True])
def test_columns_followed_together_are_as_if_each_were_followed_alone(views, sparse) -> None:
    sequence = sequence_of(views, FRAMES, sparse)
    rng = np.random.default_rng(1)
    depth = np.stack([view.depth for view in views])
    columns = [depth * f for f in rng.uniform(0.8, 1.2, (3, FRAMES, 1, 1)).astype(np.float32)]
    columns[1][2, :10] = np.nan
    scales = [find_scales(sequence, column) for column in columns]
    together = score_temporal(sequence, columns, scales, metric=True)
    for column, frames, found in zip(columns, scales, together, strict=True):
        assert score_temporal(sequence, [column], [frames], metric=True) == [found]
    assert len({one.tcm_abs for one in together}) == len({one.opw for one in together}) == 3


# Long bags


def peak_bytes(views: list[SyntheticView], frames: int) -> int:
    """Memory that scoring takes beside the sequence itself, which is on the disk in practice."""
    sequence = sequence_of(views, frames)
    depth = np.stack([views[i % FRAMES].depth for i in range(frames)])
    tracemalloc.start()
    try:
        scales = find_scales(sequence, depth)
        (temporal,) = score_temporal(sequence, [depth], [scales], metric=True)
        score_depths(sequence, depth, scales, temporal, DepthRange())
        score_trivial(sequence, DepthRange())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_length_of_the_bag(views) -> None:
    one_frame = views[0].depth.size * 8
    peak_bytes(views, 6)  # what is made once and kept is made here
    short, long = (peak_bytes(views, frames) for frames in (6, 24))
    assert long < short + 3 * one_frame


# Predictions of files


def test_files_are_scored_in_place_of_predictions(run, bag, views, tmp_path) -> None:
    for view in views[1:]:
        np.save(tmp_path / f'{view.stamp_ns}.npy', 2 * view.depth.astype(np.float32))
    numbers = run(bag, '--predictions', str(tmp_path))
    assert numbers['frames'] == FRAMES - 1
    assert numbers['coverage'] == pytest.approx((FRAMES - 1) / FRAMES)
    assert numbers['depth']['global']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert numbers['scale']['mean'] == pytest.approx(0.5)
    single_frame = run(bag)['single_frame']
    assert numbers['single_frame'] == single_frame


def test_files_of_another_bag_or_size_are_refused(bag, views, tmp_path, capsys) -> None:
    command = ['evaluate', str(bag), '--predictions', str(tmp_path)]
    assert main(command) == 1
    assert f'first stamp is {views[0].stamp_ns} ns' in capsys.readouterr().err
    np.save(tmp_path / f'{views[0].stamp_ns}.npy', np.ones((10, 20), np.float32))
    assert main(command) == 1
    assert '(10, 20)' in capsys.readouterr().err


# Bags and weights that cannot be scored


def failing(folder: Path, views: list[SyntheticView], kind: str) -> tuple[Path, list[str]]:
    """A bag with a fault, and the options to evaluate it with."""
    path = folder / 'bag'
    match kind:
        case 'all depth is zero':
            write_bag(path, [replace(v, depth=np.zeros_like(v.depth)) for v in views])
        case 'depth of another time':
            later = [replace(v, stamp_ns=v.stamp_ns + 60 * SECOND) for v in views]
            write_bag(folder / 'camera', views, depth=False)
            write_bag(folder / 'later', later)
            merge(path, (folder / 'camera', ''), (folder / 'later', 'depth'))
        case 'odometry of another time':
            later = [replace(v, stamp_ns=v.stamp_ns + 60 * SECOND) for v in views]
            write_bag(folder / 'camera', views, odometry=False)
            write_bag(folder / 'later', later)
            merge(path, (folder / 'camera', ''), (folder / 'later', '/odom'))
        case 'depth of another shape':
            write_bag(folder / 'camera', views, depth=False)
            write_bag(folder / 'square', render_recording(FRAMES, 96, 96))
            merge(path, (folder / 'camera', ''), (folder / 'square', 'depth'))
        case 'images of two sizes':
            large = render_recording(2, 2 * HEIGHT, 2 * WIDTH)
            after = [replace(v, stamp_ns=v.stamp_ns + 5 * SECOND) for v in large]
            write_bag(path, [*views, *after])
        case 'depth of another camera':
            write_bag(folder / 'camera', views, depth=False)
            write_bag(folder / 'other', views, camera='/other')
            merge(path, (folder / 'camera', ''), (folder / 'other', 'depth'))
        case 'a lidar that nothing links':
            return lidar_bag(folder, views, linked=False), []
        case 'no bag':
            pass
        case _:
            write_bag(path, views)
    return path, kind.split() if kind.startswith('--') else []


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('all depth is zero', [DEPTH, 'no depth between 0.001 and 80 m', 'is the topic right']),
        ('depth of another time', [DEPTH, 'does not overlap', '1700000060.000']),
        ('odometry of another time', ['/odom', 'does not overlap', '1700000060.000']),
        ('depth of another shape', [DEPTH, '96x96', '128x96', '--depth none']),
        ('images of two sizes', ['128x96', '256x192', 'split the bag']),
        ('depth of another camera', ['/other/depth', "'other_color_", 'align_depth', '--depth']),
        ('a lidar that nothing links', [LIDAR, "'velodyne'", 'record /tf_static']),
        ('no bag', ['does not exist']),
        ('--image /nowhere', ["no image topic '/nowhere'", '/camera/color']),
        ('--camera-info /nowhere', ["no camera_info topic '/nowhere'", '/camera/color']),
        ('--depth /nowhere', ["no depth topic '/nowhere'", DEPTH]),
        ('--lidar /nowhere', ["no lidar topic '/nowhere'", 'there are: none']),
        ('--odom /nowhere', ["no odom topic '/nowhere'", '/odom']),
        ('--max-depth 0.5', ['no depth between 0.001 and 0.5 m']),
        ('--weights nowhere', ['nowhere do not exist: give --weights a file']),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(
    views, weights, tmp_path, capsys, kind, words
) -> None:
    bag, options = failing(tmp_path, views, kind)
    if '--weights' not in options:
        options += ['--weights', str(weights)]
    json_file = tmp_path / 'out.json'
    assert main(['evaluate', str(bag), *options, '--json', str(json_file)]) == 1
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith('tc-depth: ')]
    assert len(said) == 1
    for word in words:
        assert word in said[0]
    assert not json_file.exists()


def test_weights_that_answer_nan_are_refused(bag, weights, tmp_path, capsys) -> None:
    loaded = load_weights(weights)
    with torch.no_grad():
        for parameter in loaded.network.parameters():
            parameter.fill_(math.nan)
    save_weights(tmp_path / 'nan', loaded.network, replace(loaded.info, pose=None))
    assert main(['evaluate', str(bag), '--weights', str(tmp_path / 'nan')]) == 1
    assert 'predict no finite depth' in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said_before_the_work(bag, tmp_path, capsys) -> None:
    (tmp_path / 'file').write_text('')
    command = ['evaluate', str(bag), '--json', str(tmp_path / 'file' / 'out.json')]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / 'file') in said and 'reading' not in said


# A real recording


def test_the_trivial_answers_on_the_kitchen(tmp_path) -> None:
    sequence = read_sequence(shared_bag('kitchen_eval'), Topics(odom='none'), tmp_path)
    scores = score_trivial(sequence, DepthRange())
    print(scores)
    assert scores.constant.abs_rel == pytest.approx(0.264, abs=0.0006)
    assert scores.plane.abs_rel == pytest.approx(0.2135, abs=0.001)
    assert scores.pixel_mean.abs_rel == pytest.approx(0.137, abs=0.0006)
