"""The ground under the camera: found to a percent, and not found where there is none."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scale_drive import K, ground_depth

from tc_depth_ros.scale.camera_height import (
    CameraHeightConfig,
    CameraHeightScale,
    ground_height,
    lower_points,
)
from tc_depth_ros.scale.observation import ObservedFrame

CONFIG = CameraHeightConfig(camera_height_m=1.2)


def frame(depth: NDArray[np.float32] | torch.Tensor, stamp_ns: int = 1) -> ObservedFrame:
    return ObservedFrame(stamp_ns, depth, K, None)


def noisy(depth: NDArray[np.float32], noise: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (depth * np.exp(noise * rng.normal(size=depth.shape))).astype(np.float32)


def with_obstacles(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """A box near on the left, a person on the right, a hole in the network's depth."""
    cluttered = depth.copy()
    cluttered[110:170, :90] = np.minimum(cluttered[110:170, :90], 1.5)
    cluttered[60:180, 190:230] = np.minimum(cluttered[60:180, 190:230], 1.1)
    cluttered[140:150, 120:140] = np.nan
    cluttered[170:180, 120:140] = np.inf
    return cluttered


@pytest.mark.parametrize('height', [0.25, 1.0, 40.0])
@pytest.mark.parametrize(('tilt', 'roll'), [(0, 0), (15, 0), (-10, 5), (5, -12)])
def test_a_bare_floor_gives_its_height(height, tilt, roll) -> None:
    found = ground_height(frame(ground_depth(height, tilt, roll)), CONFIG)
    assert found == pytest.approx(height, rel=1e-5)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('tilt', [0, 10])
def test_obstacles_and_noise_move_it_by_less_than_a_percent(tilt, seed) -> None:
    depth = with_obstacles(noisy(ground_depth(0.8, tilt), 0.03, seed))
    assert ground_height(frame(depth), CONFIG) == pytest.approx(0.8, rel=0.01)


def test_a_wall_is_no_ground() -> None:
    wall = np.full((192, 256), 2.0, dtype=np.float32)
    assert ground_height(frame(wall), CONFIG) is None
    assert ground_height(frame(noisy(wall, 0.03)), CONFIG) is None


def test_a_wall_with_a_strip_of_floor_is_no_ground() -> None:
    depth = np.minimum(ground_depth(1.0), 2.3)  # the last rows are floor
    assert ground_height(frame(depth), CONFIG) is None


def test_a_floor_before_a_larger_wall_is_found_only_where_that_is_allowed() -> None:
    depth = noisy(np.minimum(ground_depth(1.0), 3.45), 0.02)  # 40 % floor, 60 % wall
    assert ground_height(frame(depth), CONFIG) is None
    less = CameraHeightConfig(camera_height_m=1.2, min_ground_share=0.3)
    # The foot of the wall fits the plane to the tolerance, and tilts it
    assert ground_height(frame(depth), less) == pytest.approx(1.0, rel=0.05)


def test_a_floor_up_to_a_distant_wall_gives_its_height() -> None:
    depth = noisy(np.minimum(ground_depth(1.0, tilt_deg=5), 6.0), 0.02)
    assert ground_height(frame(depth), CONFIG) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(('columns', 'found'), [(100, None), (160, 1.0)])
def test_a_floor_must_fill_its_share(columns, found) -> None:
    depth = ground_depth(1.0)
    above = np.random.default_rng(0).uniform(0.1, 0.9, size=depth.shape).astype(np.float32)
    depth[:, columns:] *= above[:, columns:]
    assert ground_height(frame(depth), CONFIG) == (found and pytest.approx(found, rel=0.01))


def test_a_ceiling_is_no_ground() -> None:
    upside_down = np.ascontiguousarray(ground_depth(1.0, tilt_deg=-40)[::-1])
    assert ground_height(frame(upside_down), CONFIG) is None


def test_a_ramp_steeper_than_allowed_is_no_ground() -> None:
    ramp = ground_depth(1.0, tilt_deg=25)
    assert ground_height(frame(ramp), CONFIG) is None
    steeper = CameraHeightConfig(camera_height_m=1.2, max_tilt_deg=30.0)
    assert ground_height(frame(ramp), steeper) == pytest.approx(1.0, rel=1e-5)


def test_a_table_with_floor_beside_it_is_no_ground() -> None:
    depth = ground_depth(1.0)
    depth[:, :180] = ground_depth(0.5)[:, :180]
    assert ground_height(frame(depth), CONFIG) is None


def test_clutter_is_no_ground() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 5, size=(192, 256)).astype(np.float32)
    assert ground_height(frame(depth), CONFIG) is None


@pytest.mark.parametrize('value', [np.nan, np.inf, 0.0, -1.0])
def test_without_depth_there_is_no_ground(value) -> None:
    assert ground_height(frame(np.full((192, 256), value, dtype=np.float32)), CONFIG) is None


def test_the_same_frame_gives_the_same_answer_as_a_tensor_too() -> None:
    depth = with_obstacles(noisy(ground_depth(0.8), 0.03))
    heights = {ground_height(frame(d), CONFIG) for d in (depth, depth, torch.from_numpy(depth))}
    assert len(heights) == 1


@pytest.mark.parametrize('size', [(96, 128), (192, 640), (720, 1280)])
def test_large_depth_is_thinned_out(size) -> None:
    points = lower_points(frame(ground_depth(1.0, tilt_deg=10, size=size)))
    assert 1000 < len(points) <= 2300


def test_it_takes_a_few_milliseconds() -> None:
    observed = frame(with_obstacles(noisy(ground_depth(0.8), 0.03)))
    times = []
    for _ in range(20):
        start = time.process_time()
        ground_height(observed, CONFIG)
        times.append(time.process_time() - start)
    assert np.median(times) < 0.02  # it takes 3 ms; other work on the machine gets its share


def test_the_ratio_is_of_the_height_that_was_measured() -> None:
    source = CameraHeightScale(CONFIG)
    (attempt,) = source.observe(frame(ground_depth(0.6)))
    assert attempt.ratio == pytest.approx(2.0, rel=1e-5)
    (attempt,) = source.observe(frame(np.full((192, 256), 2.0, np.float32), 100_000_001))
    assert attempt.ratio is None
    assert attempt.due_s == pytest.approx(0.1)
    assert 'no ground' in attempt.refusal


@pytest.mark.parametrize(
    'settings',
    [{'camera_height_m': -1.0}, {'max_tilt_deg': 0.0}, {'ground_tolerance': 0.0}],
)
def test_settings_that_cannot_work_are_named(settings) -> None:
    with pytest.raises(ValueError, match=rf'scale\.{next(iter(settings))}'):
        CameraHeightConfig(**settings)
