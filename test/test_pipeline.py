"""The pipeline without ROS: what joins depth, motion, confidence and scale."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_matching import TINY_MATCHING
from test_network import TINY, lively

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo
from tc_depth_ros.pipeline import DepthPipeline, Estimate, PipelineConfig
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor, PredictorConfig
from tc_depth_ros.scale.camera_height import CameraHeightConfig
from tc_depth_ros.scale.estimator import ScaleConfig, ScaleState
from tc_depth_training.synthetic import SyntheticView

INFO = WeightsInfo(TINY, 48, 64, metric=False)
NETWORK = lively(TINY)


def pipeline(config: PipelineConfig | None = None) -> DepthPipeline:
    config = config or PipelineConfig()
    return DepthPipeline(DepthPredictor(Weights(NETWORK, None, INFO), config.predictor), config)


def frames(views: list[SyntheticView], start_s: float = 1.0) -> list[Frame]:
    return [
        Frame(view.image, view.K, round((start_s + 0.1 * index) * 1e9), 'optical')
        for index, view in enumerate(views)
    ]


def push(pipe: DepthPipeline, frame: Frame, wants_confidence: bool = False) -> Estimate:
    estimate = pipe.push(frame, wants_confidence=wants_confidence)
    assert estimate is not None
    return estimate


def test_a_first_frame_has_depth_but_no_motion(synthetic_views: list[SyntheticView]) -> None:
    estimate = push(pipeline(), frames(synthetic_views)[0], wants_confidence=True)
    assert estimate.pose is None and estimate.consistency is None
    assert estimate.confidence is not None
    assert estimate.confidence.shape == estimate.depth.shape
    assert estimate.scale.state is ScaleState.UNKNOWN and not estimate.scale.metric
    assert not estimate.scale_jumped


def test_a_centre_frame_that_memory_ran_out_for_is_compared_with_nothing(
    synthetic_views: list[SyntheticView], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame has no answer, so the next one must not be moved on from the one before it."""
    info = replace(INFO, network=TINY_MATCHING)
    config = PipelineConfig(predictor=PredictorConfig(output='centre'))
    weights = Weights(lively(TINY_MATCHING), None, info)
    pipe = DepthPipeline(DepthPredictor(weights, config.predictor), config)
    sources, answer = [], pipe.predictor._stream.push
    for index, frame in enumerate(frames(synthetic_views[:6])):
        calls = 0

        def stream(*arguments: Any, fails: bool = index == 3) -> Any:
            nonlocal calls
            calls += 1
            if fails and calls == 1:
                raise torch.cuda.OutOfMemoryError
            return answer(*arguments)

        monkeypatch.setattr(pipe.predictor._stream, 'push', stream)
        estimate = pipe.push(frame, wants_confidence=False)
        sources.append(None if estimate is None else estimate.location.source)
    assert sources == [None, 'none', 'images', None, 'none', 'images']


def test_then_motion_and_consistency_follow(synthetic_views: list[SyntheticView]) -> None:
    predictor = DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu')
    pipe = DepthPipeline(predictor)
    estimates = [push(pipe, frame) for frame in frames(synthetic_views[:4])]
    assert all(e.pose is not None and e.consistency is not None for e in estimates[1:])
    assert all(e.confidence is None for e in estimates)  # nobody asked
    assert estimates[-1].frames_used == 3


@pytest.mark.parametrize(
    'break_',
    [
        lambda f: replace(f, stamp_ns=f.stamp_ns + 10**10),
        lambda f: replace(f, K=f.K * np.array([[1.1], [1.1], [1.0]])),
        lambda f: replace(f, frame_id='other'),
    ],
    ids=['gap', 'intrinsics', 'frame_id'],
)
@pytest.mark.parametrize('output', ['newest', 'centre'])
def test_what_breaks_the_stream_breaks_the_comparison(
    synthetic_views: list[SyntheticView], break_, output
) -> None:
    """Also where the first answer of the new window comes a frame later."""
    config = PipelineConfig(predictor=PredictorConfig(output=output))
    pipe, shown = pipeline(config), frames(synthetic_views)
    for frame in shown[:4]:
        before = pipe.push(frame, wants_confidence=False)
    assert before is not None and before.continuity == 'continued'
    broken = [pipe.push(break_(frame), wants_confidence=False) for frame in shown[4:6]]
    if output == 'centre':
        assert broken.pop(0) is None
    estimate = broken[0]
    assert estimate is not None and estimate.continuity != 'continued'
    assert estimate.pose is None and estimate.consistency is None
    # Its neighbours, the one after it too, are all of the new window
    assert estimate.frames_used == (1 if output == 'newest' else 2)


@pytest.mark.parametrize('output', ['newest', 'centre'])
def test_a_bag_that_loops_is_no_fault_of_the_scale(
    synthetic_views: list[SyntheticView], output
) -> None:
    config = PipelineConfig(
        predictor=PredictorConfig(output=output),
        scale=ScaleConfig(source='camera_height', ground=CameraHeightConfig(camera_height_m=1.2)),
    )
    pipe = pipeline(config)
    for _ in range(2):
        for frame in frames(synthetic_views):
            pipe.push(frame, wants_confidence=False)


def test_a_failure_after_the_network_leaves_no_false_link(
    synthetic_views: list[SyntheticView], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = DepthPipeline(DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu'))
    shown = frames(synthetic_views)
    for frame in shown[:3]:
        push(pipe, frame)
    with monkeypatch.context() as patch:
        patch.setattr(pipe, '_compare', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipe.push(shown[3], wants_confidence=False)
    assert push(pipe, shown[4]).pose is None  # with what should it be compared?
    after = push(pipe, shown[5]).pose
    assert after is not None and after.covariance[0, 0] > 0.9


def test_the_odometry_begins_anew_where_its_unit_becomes_known(
    synthetic_views: list[SyntheticView], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = DepthPipeline(DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu'))
    shown = frames(synthetic_views)
    for frame in shown[:4]:
        push(pipe, frame)
    unknown = pipe._scale.current(0)
    tracking = replace(unknown, state=ScaleState.TRACKING, factor=2.0)
    monkeypatch.setattr(pipe._scale, 'current', lambda _: tracking)
    pose = push(pipe, shown[4]).pose
    assert pose is not None
    step = np.linalg.norm(pose.linear) * 0.1
    assert np.linalg.norm(pose.odom_T_camera[:3, 3]) == pytest.approx(step)  # one link long


def test_reset_starts_the_odometry_at_the_origin(synthetic_views: list[SyntheticView]) -> None:
    pipe = DepthPipeline(DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu'))
    shown = frames(synthetic_views)
    poses = [push(pipe, frame).pose for frame in shown[:3]]
    pipe.reset()
    again = [push(pipe, frame).pose for frame in shown[:3]]
    assert poses[2] is not None and again[2] is not None
    np.testing.assert_allclose(poses[2].odom_T_camera, again[2].odom_T_camera)
    np.testing.assert_allclose(poses[2].covariance, again[2].covariance)


def test_a_successor_goes_on_with_the_odometry_and_is_less_sure(
    synthetic_views: list[SyntheticView],
) -> None:
    old, new = (
        DepthPipeline(DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu')) for _ in range(2)
    )
    shown = frames(synthetic_views)
    for frame in shown[:4]:
        before = push(old, frame).pose
    new.succeed(old)
    push(new, shown[4])
    after = push(new, shown[5]).pose
    assert before is not None and after is not None
    moved = np.linalg.norm(after.odom_T_camera[:3, 3] - before.odom_T_camera[:3, 3])
    assert moved < 0.3  # and not back at the origin, where it is certain
    assert after.covariance[0, 0] > 0.9


def test_a_clock_that_jumps_back_after_a_failure_is_no_fault_for_ever(
    synthetic_views: list[SyntheticView],
) -> None:
    config = PipelineConfig(
        scale=ScaleConfig(source='camera_height', ground=CameraHeightConfig(camera_height_m=1.2))
    )
    pipe, shown = pipeline(config), frames(synthetic_views)
    for frame in shown[2:4]:
        push(pipe, frame)
    pipe.predictor.reset()  # as after a failure
    for frame in shown[:2]:
        push(pipe, frame)


def test_settings_change_while_frames_come_in(synthetic_views: list[SyntheticView]) -> None:
    pipe, shown = pipeline(), frames(synthetic_views)
    depth = push(pipe, shown[0]).depth
    limit = float(np.median(depth))
    pipe.configure(PipelineConfig(predictor=PredictorConfig(max_range=limit)))
    assert 0.2 < np.isposinf(push(pipe, shown[1]).depth).mean() < 0.8
    pipe.configure(PipelineConfig(min_confidence=1.0))
    assert np.isnan(push(pipe, shown[2]).depth).all()


def test_a_fixed_factor_is_there_from_the_first_frame(
    synthetic_views: list[SyntheticView],
) -> None:
    shown = frames(synthetic_views)[0]
    plain = push(pipeline(), shown)
    fixed = push(pipeline(PipelineConfig(scale=ScaleConfig(source='fixed', factor=4.0))), shown)
    np.testing.assert_allclose(fixed.depth, 4 * plain.depth, rtol=1e-6)
    assert fixed.scale.metric and not plain.scale.metric


def test_pixels_that_are_no_numbers_end_the_comparison_not_the_stream(
    synthetic_views: list[SyntheticView], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, shown = pipeline(), frames(synthetic_views)
    push(pipe, shown[0])
    whole = DepthPredictor._forward

    def spoilt(self: DepthPredictor, *given: object) -> object:
        answer = whole(self, *given)  # type: ignore[arg-type]
        assert answer is not None
        disparity = answer.disparity.clone()
        disparity[..., :4, :] = torch.nan
        return replace(answer, disparity=disparity)

    with monkeypatch.context() as patch:
        patch.setattr(DepthPredictor, '_forward', spoilt)
        estimate = push(pipe, shown[1], wants_confidence=True)
    assert estimate.consistency is None
    assert estimate.confidence is not None and not estimate.confidence.any()  # sure of nothing
    assert np.isnan(estimate.depth).any() and np.isfinite(estimate.depth).any()
    assert push(pipe, shown[2]).consistency is None
    assert push(pipe, shown[3]).frames_used == 2


def test_what_the_rectified_image_does_not_show_has_no_depth(
    synthetic_views: list[SyntheticView],
) -> None:
    shown = frames(synthetic_views)[0]
    seen = np.ones(shown.size, dtype=bool)
    seen[:20, :30] = False
    estimate = push(pipeline(), replace(shown, seen=seen), wants_confidence=True)
    assert np.array_equal(np.isnan(estimate.depth), ~seen)
    assert estimate.confidence is not None
    assert np.array_equal(estimate.confidence == 0, ~seen)


def test_warming_up_leaves_no_trace(synthetic_views: list[SyntheticView]) -> None:
    warm, cold = pipeline(), pipeline()
    warm.warm_up()
    a, b = (push(pipe, frames(synthetic_views)[0]) for pipe in (warm, cold))
    assert a.continuity == 'first' and a.consistency is None
    np.testing.assert_array_equal(a.depth, b.depth)


@pytest.mark.slow
def test_the_first_frame_is_as_fast_as_the_others() -> None:
    """At most twice the median, once warmed up; the best of three tries on a busy machine."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 480, 640, 3), dtype=np.uint8)
    K = np.array([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])
    ratios = []
    for _ in range(3):
        pipe = DepthPipeline(DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu'))
        pipe.warm_up()
        times_s = []
        for index, image in enumerate(images):
            started = time.perf_counter()
            push(pipe, Frame(image, K, (index + 1) * 10**8, ''), wants_confidence=True)
            times_s.append(time.perf_counter() - started)
        ratios.append(times_s[0] / float(np.median(times_s)))
    assert min(ratios) <= 2, ratios
