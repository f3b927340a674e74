"""Judging weights on windows that were held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_network import TINY, lively

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_ros.network.config import SMALL
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config_file import load_config
from tc_depth_training.data.windows import WindowDataset
from tc_depth_training.examination import examine
from tc_depth_training.finish import metres_in_doubt
from tc_depth_training.focal_search import find_focal_factors
from tc_depth_training.losses.objective import ObjectiveConfig
from tc_depth_training.odometry_trust import hold_against_images
from tc_depth_training.processes import Processes
from tc_depth_training.step import FocalFactor, TrainingModel
from tc_depth_training.synthetic import render_recording
from tc_depth_training.training_data import TrainingData, load_training_data
from tc_depth_training.validation import NEWEST, judge, spread_windows, validate

CPU = torch.device('cpu')
ALONE = Processes(0, 1, CPU)


def data_of(folder: Path, depth: bool) -> TrainingData:
    write_bag(folder / 'room', render_recording(24, 96, 128), depth=depth)
    settings = ('data.height=48', 'data.width=64', 'data.cache=ram', 'pose=odometry')
    more = ('data.time_steps_s=[0.1]', 'validation.share=0.3')
    return load_training_data([folder / 'room'], load_config(None, [*settings, *more]), quiet=True)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return data_of(tmp_path_factory.mktemp('data'), depth=True)


@pytest.fixture(scope='module')
def model() -> TrainingModel:
    return TrainingModel(lively(TINY), None, ObjectiveConfig(scales=(0,)), 'odometry')


def test_held_out_windows_share_no_frame_with_the_others(data: TrainingData) -> None:
    learned, held_out = (
        set(part.windows[0].indices.ravel().tolist()) for part in (data.learned, data.held_out)
    )
    assert len(held_out) >= 3 and not learned & held_out


def test_weights_are_scored_by_measured_depth_where_there_is_any(data, model) -> None:
    score = validate(model, data.held_out, 100, 0.1, ALONE)
    errors = []
    for number in range(len(data.held_out)):
        batch, truth = data.held_out[number].to('cpu'), data.held_out.truth(number, 2)
        with torch.no_grad():
            disparity = model.network(batch.images, batch.K).disparities[0][0, 2, 0]
        depth = depth_from_disparity(disparity, 0.1, 100).numpy()
        known = np.isfinite(truth)
        scaled = depth[known] * np.median(truth[known]) / np.median(depth[known])
        errors.append(np.mean(np.abs(scaled - truth[known]) / truth[known]))
    assert score.name == 'Abs Rel (per image)'
    assert score.value == pytest.approx(np.mean(errors), rel=1e-4)
    assert set(score.figures) == {'Abs Rel (per image)', 'photometric + consistency'}


def test_without_depth_the_losses_that_need_none_say_how_good_weights_are(tmp_path, model) -> None:
    score = validate(model, data_of(tmp_path, depth=False).held_out, 100, 0.1, ALONE)
    assert score.name == 'photometric + consistency' and set(score.figures) == {score.name}


def test_nothing_held_out_is_no_score(data, model) -> None:
    nothing = data.held_out.only(np.zeros(len(data.held_out), dtype=bool))
    assert validate(model, nothing, 100, 0.1, ALONE) is None
    assert examine(model, 1.0, nothing, 100, CPU).scores == ()


def test_each_window_is_judged_by_itself(data, model) -> None:
    numbers = list(range(len(data.held_out)))
    together = {one.window: one for one in judge(model, data.held_out, numbers, CPU)}
    (alone,) = judge(model, data.held_out, [numbers[-1]], CPU)
    assert together[numbers[-1]].geometric == alone.geometric > 0
    assert together[numbers[-1]].photometric == alone.photometric > 0


def test_a_scale_is_in_the_scores_and_not_yet_in_the_samples(data, model) -> None:
    plain, scaled = (examine(model, scale, data.held_out, 100, CPU) for scale in (1.0, 2.0))
    np.testing.assert_array_equal(plain.samples[0].depth, scaled.samples[0].depth)
    (before,), (after,) = plain.scores, scaled.scores
    assert before.depth.median.abs_rel == pytest.approx(after.depth.median.abs_rel)
    assert before.depth.none.abs_rel != pytest.approx(after.depth.none.abs_rel, rel=1e-3)
    assert before.constant == after.constant
    assert before.scale == pytest.approx(2 * after.scale)
    truths = [data.held_out.truth(n, NEWEST) for n in range(len(data.held_out))]
    depths = [one.depth for one in judge(model, data.held_out, list(range(len(truths))), CPU)]
    own = [
        np.nanmedian(t) / np.median(d[np.isfinite(t)]) for t, d in zip(truths, depths, strict=True)
    ]
    assert before.scale == pytest.approx(np.median(own), rel=1e-3)


def test_metres_that_measured_depth_does_not_have_are_doubted(data, model) -> None:
    score = examine(model, 1.0, data.held_out, 100, CPU).scores[0]
    info = WeightsInfo(SMALL, 48, 64, metric=True, scale_source='poses of /odom')

    def doubts(scale: float | None, metric: bool = True) -> tuple[str, ...]:
        return metres_in_doubt(replace(info, metric=metric), [replace(score, scale=scale)])

    for scale in (0.001, 0.66, 1.51):
        (doubt,) = doubts(scale)
        assert f'depth is {scale} times' in doubt and 'poses of /odom' in doubt
        assert score.recording in doubt
        assert not doubts(scale, metric=False)
    assert not doubts(0.67) and not doubts(1.49) and not doubts(None)


def test_the_constant_compared_with_is_the_best_there_is(data, model) -> None:
    (score,) = examine(model, 1.0, data.held_out, 100, CPU).scores
    truths = [data.held_out.truth(n, NEWEST) for n in range(len(data.held_out))]
    known = [t[np.isfinite(t)].astype(np.float64) for t in truths]
    others = [np.mean([np.mean(np.abs(c - t) / t) for t in known]) for c in np.linspace(1, 9, 400)]
    assert score.constant.abs_rel == pytest.approx(min(others), rel=2e-3)


def test_asked_to_end_it_looks_at_no_more_windows(data, model, monkeypatch) -> None:
    looked_at: list[int] = []
    count = len(data.held_out)

    def after_two() -> bool:
        return len(looked_at) == 2

    for one in judge(model, data.held_out, list(range(count)), CPU, stop=after_two):
        looked_at.append(one.window)
    assert looked_at == [0, 1] and count > 2
    asked = replace(ALONE, asked=lambda: True)
    monkeypatch.delattr(WindowDataset, '__getitems__')
    assert validate(model, data.held_out, 100, 0.1, asked) is None
    assert not hold_against_images(model, data.held_out, 100, asked).told
    assert find_focal_factors(model, data.held_out, asked) == [1.0]


def test_windows_are_spread_evenly_and_none_comes_twice() -> None:
    assert spread_windows(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_windows(3, 100).tolist() == [0, 1, 2]
    assert spread_windows(0, 4).tolist() == []


def test_focal_factors_come_back() -> None:
    assert FocalFactor.of([0.9, 1.1]).factors() == [0.9, 1.1]
