"""The estimator whole: states in order, what is said to be metric, faults of odometry, threads."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from threading import Thread

import numpy as np
import pytest
from scale_drive import BASE_T_CAMERA, NO_DEPTH, STRAIGHT, Drive, K, ground_depth, ns

from tc_depth_ros.scale.camera_height import CameraHeightConfig
from tc_depth_ros.scale.estimator import Scale, ScaleConfig, ScaleEstimator, ScaleState
from tc_depth_ros.scale.observation import ObservedFrame
from tc_depth_ros.scale.odometry import OdometryScaleConfig
from tc_depth_ros.scale.ratio_filter import FilterConfig

UNKNOWN, INITIALISING = ScaleState.UNKNOWN, ScaleState.INITIALISING
TRACKING, STALE = ScaleState.TRACKING, ScaleState.STALE
FACTOR = 1.7
ODOMETRY = ScaleConfig(
    source='odometry',
    odometry=OdometryScaleConfig(min_translation_m=0.19),
    filter=FilterConfig(stale_after_s=10.0),
)
HEIGHT = ScaleConfig(
    source='camera_height',
    ground=CameraHeightConfig(camera_height_m=1.2),
    filter=FilterConfig(stale_after_s=1.0),
)


class Robot:
    """Drives with its camera at 10 Hz and odometry at 20 Hz, which comes 0.2 s late."""

    def __init__(self, estimator: ScaleEstimator, drive: Drive = STRAIGHT) -> None:
        self.estimator, self.drive = estimator, drive
        self.factor, self.slip, self.odometry_works = FACTOR, 1.0, True
        self.tick = 0
        self._slipped_m = 0.0
        estimator.mount(BASE_T_CAMERA)

    def run(self, seconds: float, moving: bool = True) -> list[Scale]:
        """Drive on, or stand; the scale after each frame."""
        return [self._step(moving) for _ in range(round(seconds * 10))]

    def _step(self, moving: bool) -> Scale:
        self.tick += 1
        now, earlier = self.tick / 10, (self.tick - 1) / 10
        step = Drive(lambda t: 0.5 * t if moving else 0.0)
        frame = step.frame(now, earlier if self.tick > 1 else None, self.factor)
        self.estimator.observe(frame)
        for part in (0.5, 1.0):
            self._slipped_m += 0.025 * self.slip * moving
            if self.odometry_works:
                at = earlier + 0.1 * part
                pose = replace(self.drive.odometry(at), position=np.array([self._slipped_m, 0, 0]))
                self.estimator.add_odometry(pose)
        return self.estimator.current(frame.stamp_ns)


def states(scales: list[Scale]) -> list[ScaleState]:
    """The states that were passed, each once."""
    found = [s.state for s in scales]
    return [a for a, before in zip(found, [None, *found], strict=False) if a != before]


def tracking_robot(weights_metric: bool = False) -> Robot:
    robot = Robot(ScaleEstimator(ODOMETRY, weights_metric))
    robot.run(20)
    return robot


# Odometry


def test_states_come_in_order_and_the_factor_with_the_third() -> None:
    robot = Robot(ScaleEstimator(ODOMETRY))
    scales = robot.run(10)
    assert states(scales) == [UNKNOWN, INITIALISING, TRACKING]
    for scale in scales:
        assert scale.factor == pytest.approx(FACTOR if scale.state is TRACKING else 1.0)
        assert scale.metric is (scale.state is TRACKING)
    assert scales[-1].deviation < 1e-6
    assert scales[-1].ratios >= 20


def test_a_standing_robot_keeps_its_scale() -> None:
    robot = tracking_robot()
    before = robot.run(0.1)[0]
    standing = robot.run(120, moving=False)
    assert states(standing) == [TRACKING]
    assert {s.factor for s in standing} == {before.factor}
    assert states(robot.run(5)) == [TRACKING]


def test_odometry_that_stops_makes_it_stale_and_held() -> None:
    robot = tracking_robot()
    robot.odometry_works = False
    scales = robot.run(12)
    assert states(scales) == [TRACKING, STALE]
    stale = [s.state for s in scales].index(STALE)
    assert stale / 10 == pytest.approx(10, abs=0.2)
    assert scales[-1].factor == pytest.approx(FACTOR)
    assert scales[-1].metric
    assert scales[-1].refusal == 'odometry is silent'
    robot.odometry_works = True
    back = robot.run(2)
    assert back[0].state is STALE  # no longer silent, but nobody has confirmed it
    assert back[-1].state is TRACKING


def test_driving_without_an_accepted_ratio_makes_it_stale() -> None:
    robot = tracking_robot()
    robot.factor = float('nan')  # the predicted motion is of no use
    scales = robot.run(12)
    assert states(scales) == [TRACKING, STALE]
    assert scales[-1].factor == pytest.approx(FACTOR)
    assert 'not well determined' in scales[-1].refusal
    robot.factor = FACTOR
    assert states(robot.run(2)) == [STALE, TRACKING]


def test_slip_is_refused_and_said() -> None:
    robot = tracking_robot()
    robot.slip = 1.2
    scales = robot.run(2)
    assert {round(s.factor, 6) for s in scales} == {FACTOR}
    assert 'outlier' in scales[-1].refusal
    robot.slip = 1.0
    assert robot.run(1)[-1].refusal == ''


def test_a_new_factor_is_followed_without_a_jump() -> None:
    robot = tracking_robot()
    robot.factor = 1.3 * FACTOR
    scales = robot.run(15)
    assert scales[-1].factor == pytest.approx(1.3 * FACTOR, rel=1e-3)
    assert np.abs(np.diff(np.log([s.factor for s in scales]))).max() < 0.0051
    assert states(scales) == [TRACKING]


def test_odometry_whose_clock_jumped_back_leaves_the_factor() -> None:
    robot = tracking_robot()
    robot.estimator.add_odometry(STRAIGHT.odometry(1.0))
    assert states(robot.run(8)) == [TRACKING]


def test_a_frame_that_is_not_newer_asks_for_a_reset() -> None:
    robot = tracking_robot()
    for stamp in (robot.tick / 10, 1.0):
        with pytest.raises(ValueError, match='reset the scale'):
            robot.estimator.observe(STRAIGHT.frame(stamp, None, FACTOR))


def test_reset_begins_anew() -> None:
    robot = tracking_robot()
    robot.estimator.reset()
    scale = robot.estimator.current(0)
    assert (scale.state, scale.factor, scale.metric) == (UNKNOWN, 1.0, False)
    robot.tick = 0
    assert states(robot.run(10)) == [UNKNOWN, INITIALISING, TRACKING]


def test_reset_forgets_the_odometry() -> None:
    robot = tracking_robot()
    robot.estimator.reset()
    robot.tick, robot.odometry_works = 0, False
    last = robot.run(5)[-1]
    assert (last.state, last.refusal) == (UNKNOWN, 'no odometry yet')


def test_it_says_what_it_waits_for() -> None:
    estimator = ScaleEstimator(ODOMETRY)
    estimator.observe(STRAIGHT.frame(0.1, None, FACTOR))
    assert estimator.current(ns(0.1)).refusal == 'no odometry yet'
    robot = Robot(ScaleEstimator(ODOMETRY))
    assert robot.run(10, moving=False)[-1].refusal == 'not moved far enough'


def test_asking_changes_nothing() -> None:
    asked, silent = tracking_robot(), tracking_robot()
    for robot in (asked, silent):
        robot.factor = 2 * FACTOR
        robot.run(3)
    for _ in range(10):
        asked.estimator.current(ns(1e6))
    assert asked.run(1) == silent.run(1)


def test_threads_lose_nothing() -> None:
    estimator = ScaleEstimator(ODOMETRY)
    estimator.mount(BASE_T_CAMERA)
    frames = [STRAIGHT.frame(t / 10, (t - 1) / 10, FACTOR) for t in range(1, 100)]
    poses = [STRAIGHT.odometry(t / 20) for t in range(250)]
    threads = [
        Thread(target=lambda: [estimator.observe(f) for f in frames]),
        Thread(target=lambda: [estimator.add_odometry(p) for p in poses]),
        Thread(target=lambda: [estimator.current(ns(1.0)) for _ in range(300)]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    scale = estimator.current(ns(10))
    assert scale.state is TRACKING
    assert scale.factor == pytest.approx(FACTOR)
    assert scale.ratios == 24


# Camera height


def ground(stamp_s: float, height: float = 0.8) -> ObservedFrame:
    return ObservedFrame(ns(stamp_s), ground_depth(height), K, None)


def test_camera_height_gives_the_factor_standing_too() -> None:
    estimator, scales = ScaleEstimator(HEIGHT), []
    scales.append(estimator.current(0))
    for tick in range(1, 11):
        estimator.observe(ground(tick / 10))
        scales.append(estimator.current(ns(tick / 10)))
    assert states(scales) == [UNKNOWN, INITIALISING, TRACKING]
    assert scales[-1].factor == pytest.approx(1.2 / 0.8, rel=1e-5)


def test_without_ground_in_view_it_becomes_stale() -> None:
    estimator, scales = ScaleEstimator(HEIGHT), []
    for tick in range(1, 31):
        wall = ObservedFrame(ns(tick / 10), np.full((192, 256), 2.0, np.float32), K, None)
        estimator.observe(ground(tick / 10) if tick <= 10 else wall)
        scales.append(estimator.current(ns(tick / 10)))
    assert states(scales) == [INITIALISING, TRACKING, STALE]
    assert scales[-1].factor == pytest.approx(1.5, rel=1e-5)
    assert 'no ground' in scales[-1].refusal


# What is metric, and the rest


def estimator_in(state: ScaleState, weights_metric: bool) -> tuple[ScaleEstimator, int]:
    robot = Robot(ScaleEstimator(ODOMETRY, weights_metric))
    if state is INITIALISING:
        robot.run(1)
    elif state in (TRACKING, STALE):
        robot.run(5)
    if state is STALE:
        robot.odometry_works = False
        robot.run(12)
    return robot.estimator, ns(robot.tick / 10)


@pytest.mark.parametrize('weights_metric', [False, True])
@pytest.mark.parametrize(
    ('state', 'metric'),
    [(UNKNOWN, None), (INITIALISING, None), (TRACKING, True), (STALE, True)],
)
def test_what_is_metric_with_odometry(state, metric, weights_metric) -> None:
    estimator, stamp_ns = estimator_in(state, weights_metric)
    scale = estimator.current(stamp_ns)
    assert scale.state is state
    assert scale.metric is (weights_metric if metric is None else metric)
    assert isnan(scale.deviation) is (state is UNKNOWN)


@pytest.mark.parametrize('weights_metric', [False, True])
def test_what_is_metric_without_a_measurement(weights_metric) -> None:
    none = ScaleEstimator(ScaleConfig(), weights_metric).current(1)
    fixed = ScaleEstimator(ScaleConfig('fixed', 2.5), weights_metric).current(1)
    assert (none.factor, none.metric, none.state) == (1.0, weights_metric, UNKNOWN)
    assert (fixed.factor, fixed.metric, fixed.state) == (2.5, True, TRACKING)


@pytest.mark.parametrize('config', [ScaleConfig(), ScaleConfig('fixed'), ODOMETRY])
def test_the_ground_is_fitted_only_where_it_is_asked_for(config, monkeypatch) -> None:
    def fitted(*_) -> None:
        raise AssertionError('nobody asked for the ground')

    monkeypatch.setattr('tc_depth_ros.scale.camera_height.ground_height', fitted)
    ScaleEstimator(config).observe(ObservedFrame(1, NO_DEPTH, K, None))
    with pytest.raises(AssertionError, match='nobody asked'):
        ScaleEstimator(HEIGHT).observe(ObservedFrame(1, NO_DEPTH, K, None))


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        ({'source': 'gps'}, r'scale\.source'),
        ({'source': 'fixed', 'factor': 0.0}, r'scale\.factor'),
        ({'source': 'fixed', 'factor': float('nan')}, r'scale\.factor'),
        ({'source': 'camera_height'}, r'scale\.camera_height_m'),
        (
            {'source': 'odometry', 'filter': FilterConfig(stale_after_s=2.0)},
            r'scale\.stale_after_s',
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, named) -> None:
    with pytest.raises(ValueError, match=named):
        ScaleConfig(**settings)
