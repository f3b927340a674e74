"""Metres per network unit: right, whatever slips; refused where answers are few or disagree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_network import TINY, lively
from test_step import LOSS, windows_of_a_room
from torch import Tensor

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.pipeline import DepthPipeline
from tc_depth_ros.predictor import DepthPredictor
from tc_depth_training.data.windows import Batch
from tc_depth_training.scale_fit import (
    FittedScale,
    NoScale,
    depth_ratio,
    fit_scale,
    measure_motion_ratios,
    motion_ratios,
)
from tc_depth_training.step import TrainingModel, known_motion
from tc_depth_training.synthetic import render_recording


def walks(count: int = 40) -> np.ndarray:
    """Translations of about 10 cm, (N, 3) in m."""
    random = np.random.default_rng(0)
    return random.normal(size=(count, 3)) * 0.01 + np.array([0, 0, 0.1])


def test_motions_made_s_times_as_long_give_one_over_s() -> None:
    moved = walks()
    found = fit_scale(motion_ratios(moved, 4.0 * moved), 'odometry of /odom')
    assert found == FittedScale(pytest.approx(0.25), pytest.approx(0), 'odometry of /odom', 40)


def test_slipping_wheels_do_not_move_the_scale() -> None:
    moved = walks()
    slipped = moved.copy()
    slipped[:8] *= 3
    found = fit_scale(motion_ratios(slipped, 4.0 * moved), 'odometry of /odom')
    assert isinstance(found, FittedScale) and found.scale == pytest.approx(0.25, rel=0.02)


def test_standing_still_is_left_out() -> None:
    moved, noise = walks(), np.random.default_rng(1).normal(size=(15, 3)) * 1e-3
    odometry = np.concatenate([moved, noise])
    network = np.concatenate([4.0 * moved, noise[::-1]])
    ratios = motion_ratios(odometry, network)
    assert len(ratios) == 40 and np.allclose(ratios, 0.25)
    assert len(motion_ratios(noise, noise)) == 0  # a millimetre is never enough
    assert len(motion_ratios(np.empty((0, 3)), np.empty((0, 3)))) == 0


def test_few_answers_and_answers_that_disagree_give_none() -> None:
    few = fit_scale(np.full(9, 2.0), 'depth of /d')
    assert few == NoScale('depth of /d: 9 windows to fit on; 10 are needed')
    wild = fit_scale(np.geomspace(0.1, 10, 50), 'depth of /d')
    assert isinstance(wild, NoScale) and 'spread by' in wild.reason and '50 %' in wild.reason
    with_gaps = fit_scale(np.r_[np.full(10, 2.0), np.nan], 'depth of /d')
    assert isinstance(with_gaps, FittedScale) and with_gaps.windows == 10


def test_the_ratio_of_depths_is_of_the_pixels_that_are_known() -> None:
    truth = np.array([[2.0, 4.0, np.nan, np.nan]], dtype=np.float32)
    prediction = np.array([[1.0, 2.0, 9.0, 9.0]], dtype=np.float32)
    assert depth_ratio(truth, prediction) == pytest.approx(2.0)
    assert np.isnan(depth_ratio(np.full_like(truth, np.nan), prediction))


class ScaledOdometry(TrainingModel):
    """A model whose pose network knows the motion of a batch, in its own unit."""

    def __init__(self, batch: Batch, factor: float) -> None:
        super().__init__(lively(TINY), PoseNet(PoseNetConfig()), LOSS)
        self.batch, self.factor = batch, factor

    def learned_motion(self, images: Tensor, target: int, source: int) -> Tensor:
        motion = known_motion(self.batch, target, source).clone()
        motion[:, :3, 3] *= self.factor
        return motion


def test_the_scale_is_fitted_on_windows() -> None:
    batch = windows_of_a_room(6, 32, 48)
    model = ScaledOdometry(batch, 5.0).train()
    ratios = measure_motion_ratios(model, [batch], 'cpu')
    assert len(ratios) == 12 and model.training
    assert fit_scale(ratios, 'odometry').scale == pytest.approx(0.2, rel=1e-4)
    unposed = replace(batch, posed=torch.tensor([True, False] * 3))
    model.batch = unposed
    assert len(measure_motion_ratios(model, [unposed], 'cpu')) == 6


def test_the_node_gives_depth_and_motion_in_the_fitted_unit() -> None:
    """WeightsInfo.scale multiplies both, or a chained pose would not fit its depth."""
    network, pose_net = lively(TINY), PoseNet(PoseNetConfig()).eval()
    views = render_recording(2, 96, 128)
    given = [Frame(v.image, v.K, v.stamp_ns, 'camera') for v in views]
    estimates = []
    for scale in (1.0, 2.5):
        info = WeightsInfo(TINY, 96, 128, metric=True, scale=scale, pose=PoseNetConfig())
        pipeline = DepthPipeline(DepthPredictor(Weights(network, pose_net, info)))
        estimates.append([pipeline.push(frame, wants_confidence=False) for frame in given][-1])
    plain, scaled = estimates
    np.testing.assert_allclose(scaled.depth, 2.5 * plain.depth, rtol=1e-5)
    moved = [np.asarray(e.pose.odom_T_camera[:3, 3]) for e in estimates]
    assert np.linalg.norm(moved[0]) > 0
    np.testing.assert_allclose(moved[1], 2.5 * moved[0], rtol=1e-4)
