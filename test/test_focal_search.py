"""A focal length that is off is found by weights that know depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import batch_of, recording_of_views, shared_bag
from oracle import Oracle

from tc_depth_ros.network.checkpoint import load_weights
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training.data.load import read_recording
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.windows import WindowDataset, find_windows
from tc_depth_training.focal_search import (
    FACTORS,
    GIVEN,
    best_factor,
    errors_by_factor,
    find_focal_factors,
)
from tc_depth_training.losses.objective import ObjectiveConfig
from tc_depth_training.processes import Processes
from tc_depth_training.step import TrainingModel
from tc_depth_training.synthetic import SyntheticView, render_recording

ALONE = Processes(0, 1, torch.device('cpu'))
LOSS = ObjectiveConfig(scales=(0,))


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(24, 96, 128)


@pytest.fixture
def model(views: list[SyntheticView]) -> TrainingModel:
    return TrainingModel(Oracle(views), None, LOSS, 'odometry').train()


def recorded(views: list[SyntheticView], factor: float) -> Recording:
    """A CameraInfo whose focal length is so many times the true one."""
    wrong = np.array([[factor, 1, 1], [1, factor, 1], [1, 1, 1]])
    return recording_of_views([replace(view, K=view.K * wrong) for view in views])


def windows_of(*recordings: Recording) -> WindowDataset:
    return WindowDataset(
        recordings, [find_windows(r, (0.1, 0.2), False, True) for r in recordings]
    )


def test_each_recording_has_its_factor(views, model) -> None:
    unposed = replace(recorded(views, 1.12), world_T_camera=None)
    recordings = recorded(views, 1.12), recorded(views, 1.0), unposed, recorded(views, 0.9)
    first, right, without, last = find_focal_factors(model, windows_of(*recordings), ALONE)
    assert first == pytest.approx(1 / 1.12, abs=0.03)
    assert last == pytest.approx(1 / 0.9, abs=0.03)
    assert right == pytest.approx(1, abs=0.03)
    assert without == 1


def test_what_rectification_left_black_does_not_count(views, model) -> None:
    batch = batch_of(recorded(views, 1.12), (3, 4, 5), (8, 9, 10))
    seen = batch.seen.clone()
    seen[..., :40] = False
    spoiled = batch.images.clone()
    clean = errors_by_factor(model, replace(batch, seen=seen), FACTORS)
    spoiled[:, ::2, :, :, :16] = 0  # the sources' columns that no seen pixel comes from
    same = errors_by_factor(model, replace(batch, seen=seen), FACTORS[GIVEN : GIVEN + 1])
    assert same[:, 0] == pytest.approx(clean[:, GIVEN])
    assert errors_by_factor(model, batch, FACTORS) != pytest.approx(clean)


def test_the_least_of_a_parabola_is_between_those_tried() -> None:
    apart = np.log(FACTORS / 0.87)
    assert best_factor(0.05 + 0.6 * apart[None] ** 2) == pytest.approx(0.87)


@pytest.mark.parametrize('at', [0.6, 1.6])
def test_a_least_beyond_those_tried_is_not_guessed(at: float) -> None:
    assert best_factor(0.05 + np.log(FACTORS / at)[None] ** 2) == 1


def test_a_difference_that_chance_may_bring_is_none() -> None:
    apart = np.log(FACTORS / 0.87)
    assert best_factor(0.2 + 0.1 * apart[None] ** 2) == 1


def test_windows_that_fit_badly_do_not_outweigh_the_others() -> None:
    good = np.tile(0.05 + 0.6 * np.log(FACTORS / 0.87) ** 2, (9, 1))
    bad = np.tile(0.4 + 0.6 * np.log(FACTORS / 1.3) ** 2, (9, 1))
    assert best_factor(np.r_[good, bad]) == pytest.approx(best_factor(good), abs=0.05)


@pytest.mark.slow
def test_the_focal_length_of_a_real_recording_is_found() -> None:
    """519 px fit kitchen_train best, where its CameraInfo says 585: see the model card."""
    recording = read_recording(shared_bag('kitchen_train'), (192, 256), odometry=True)
    windows = windows_of(recording)
    loaded = load_weights(DEFAULT_WEIGHTS)
    model = TrainingModel(loaded.network, None, LOSS, 'odometry')
    (factor,) = find_focal_factors(model, windows, ALONE)
    assert factor == pytest.approx(519 / 585, abs=0.03)
