"""Pairs of predicted motion and odometry: which give a ratio, in whatever order they come."""

from __future__ import annotations

import numpy as np
import pytest
from scale_drive import BASE_T_CAMERA, STANDING, STRAIGHT, SURE, Drive, ns

from tc_depth_ros.scale.observation import Attempt
from tc_depth_ros.scale.odometry import (
    MAX_WAITING,
    NO_ODOMETRY,
    OdometryScale,
    OdometryScaleConfig,
)
from tc_depth_ros.scale.odometry_buffer import CAPACITY

FRAMES = np.arange(0.0, 4.0, 0.1).round(2)
ODOMETRY = np.arange(-0.1, 4.1, 0.05).round(2) + 0.013  # not at the frames' stamps
WINDING = Drive(lambda t: 0.5 * t, lambda t: 0.8 * np.sin(2 * t))
FACTOR = 1.7


def source(mounted: bool = True, **settings) -> OdometryScale:
    # A little less than four frames of 5 cm, so that rounding does not ask for a fifth
    scale = OdometryScale(OdometryScaleConfig(**{'min_translation_m': 0.19} | settings))
    if mounted:
        scale.mount(BASE_T_CAMERA)
    return scale


def events(drive: Drive, frames=FRAMES, odometry=ODOMETRY, covariance=SURE) -> list:
    """Frames and poses in the order of their stamps."""
    earlier = [None, *frames][: len(frames)]
    both = [
        (t, 'observe', drive.frame(t, e, FACTOR, covariance))
        for t, e in zip(frames, earlier, strict=True)
    ]
    both += [(t, 'add_odometry', drive.odometry(t)) for t in odometry]
    return sorted(both, key=lambda event: event[0])


def played(scale: OdometryScale, happenings: list) -> list[Attempt]:
    return [a for _, call, what in happenings for a in getattr(scale, call)(what)]


def ratios(attempts: list[Attempt]) -> list[float]:
    return [a.ratio for a in attempts if a.ratio is not None]


def due_s(attempts: list[Attempt]) -> float:
    return sum(a.due_s for a in attempts if a.ratio is None)


@pytest.mark.parametrize('drive', [STRAIGHT, WINDING], ids=['straight', 'winding'])
def test_exact_motion_gives_the_exact_factor(drive) -> None:
    found = ratios(played(source(), events(drive)))
    assert len(found) >= 9  # 39 steps make nine times four
    # The chord of a turn, interpolated between poses 50 ms apart, is a little short
    np.testing.assert_allclose(found, FACTOR, rtol=2e-3)


def test_each_pair_is_at_least_so_long_and_pairs_do_not_overlap() -> None:
    found = played(source(min_translation_m=0.49), events(STRAIGHT))
    assert len(ratios(found)) == 3
    assert [a.due_s for a in found if a.ratio] == pytest.approx([1.0] * 3)


def test_noisy_steps_are_averaged_by_a_longer_baseline() -> None:
    def spread(min_translation_m: float) -> float:
        rng = np.random.default_rng(0)
        happenings = events(STRAIGHT, np.arange(0, 40, 0.1).round(2), np.arange(-1, 41, 0.05))
        for _, call, frame in happenings:
            if call == 'observe' and frame.motion:
                frame.motion.later_T_earlier[:3, 3] += 0.005 * rng.normal(size=3)
        scale = source(min_translation_m=min_translation_m, max_direction_error_deg=180.0)
        return float(np.std(np.log(ratios(played(scale, happenings)))))

    assert spread(0.39) < spread(0.04) / 2  # of ten steps; a tenth, times their root


def test_odometry_that_comes_late_gives_the_same() -> None:
    late = [(t + 0.7 * (call == 'add_odometry'), call, x) for t, call, x in events(STRAIGHT)]
    late.sort(key=lambda event: event[0])
    in_time = played(source(), events(STRAIGHT))
    assert ratios(played(source(), late)) == ratios(in_time)


def test_odometry_out_of_order_and_twice_gives_the_same() -> None:
    happenings = events(STRAIGHT)
    poses = [i for i, (_, call, _) in enumerate(happenings) if call == 'add_odometry']
    for first, second in zip(poses[::2], poses[1::2], strict=False):
        happenings[first], happenings[second] = happenings[second], happenings[first]
    happenings = [h for h in happenings for _ in range(1 + (h[1] == 'add_odometry'))]
    found = ratios(played(source(), happenings))
    np.testing.assert_allclose(found, FACTOR, rtol=1e-6)
    assert len(found) == 9


def test_a_frame_is_not_kept_waiting_by_odometry() -> None:
    scale = source()
    attempts = played(scale, events(STRAIGHT, odometry=[]))
    assert attempts == []
    assert len(ratios(played(scale, events(STRAIGHT, frames=np.array([]))))) == 9


def test_odometry_before_the_clock_jumped_back_is_not_used() -> None:
    scale = source()
    for t in (1000.0, 1000.1):
        scale.add_odometry(STRAIGHT.odometry(t))
    np.testing.assert_allclose(ratios(played(scale, events(STRAIGHT))), FACTOR, rtol=1e-6)


def test_standing_gives_no_ratio_and_none_is_due() -> None:
    jitter = Drive(lambda t: 0.003 * np.sin(37 * t))
    for drive in (STANDING, jitter):
        attempts = played(source(), events(drive, np.arange(0, 20, 0.1), np.arange(0, 21, 0.05)))
        assert ratios(attempts) == []
        assert due_s(attempts) == 0


def test_turning_on_the_spot_gives_no_ratio_and_none_is_due() -> None:
    spinning = Drive(lambda t: 0.0, lambda t: t)
    attempts = played(source(mounted=False), events(spinning))
    assert ratios(attempts) == []
    assert due_s(attempts) == 0


def test_creeping_counts_as_standing() -> None:
    creeping = Drive(lambda t: 0.05 * t)
    times = np.arange(0, 20, 0.1)
    attempts = played(source(max_pair_s=3.0), events(creeping, times, np.arange(0, 21, 0.05)))
    assert ratios(attempts) == []
    assert len(ratios(played(source(max_pair_s=5.0), events(creeping, times, times)))) > 2


def test_where_the_mounting_is_not_known_a_turn_gives_no_wrong_ratio() -> None:
    # On the spot it would be all lever arm; in a curve a part of it
    curve = Drive(lambda t: 0.5 * t, lambda t: 0.8 * t)
    attempts = played(source(mounted=False), events(curve))
    assert ratios(attempts) == []
    assert due_s(attempts) > 3
    assert {a.refusal for a in attempts} == {'', 'turned too far'}
    found = ratios(played(source(mounted=False), events(STRAIGHT)))
    np.testing.assert_allclose(found, FACTOR, rtol=1e-6)


def test_a_motion_that_is_not_determined_gives_no_ratio() -> None:
    vague = SURE.copy()
    vague[:3, :3] = np.eye(3) * 0.03**2  # of steps of 0.05 / 1.7
    attempts = played(source(), events(STRAIGHT, covariance=vague))
    assert ratios(attempts) == []
    assert any('not well determined' in a.refusal for a in attempts)
    assert due_s(attempts) > 3


def test_a_network_that_sees_no_motion_gives_no_ratio() -> None:
    happenings = [h for h in events(STANDING, covariance=0 * SURE) if h[1] == 'observe']
    happenings += [h for h in events(STRAIGHT) if h[1] == 'add_odometry']
    attempts = played(source(), happenings)
    assert ratios(attempts) == []
    assert any('not well determined' in a.refusal for a in attempts)


def test_a_pair_with_an_unknown_step_gives_no_ratio() -> None:
    happenings = events(STRAIGHT)
    at = next(i for i, (t, call, _) in enumerate(happenings) if t > 1.95 and call == 'observe')
    t = happenings[at][0]
    happenings[at] = (t, 'observe', STRAIGHT.frame(t, None, FACTOR))
    found = ratios(played(source(), happenings))
    assert len(found) == 8
    np.testing.assert_allclose(found, FACTOR, rtol=1e-6)


def test_motion_since_another_frame_than_the_last_is_an_unknown_step() -> None:
    happenings = [h for h in events(STRAIGHT) if not (h[1] == 'observe' and h[0] == 2.0)]
    found = ratios(played(source(), happenings))
    assert len(found) == 8
    np.testing.assert_allclose(found, FACTOR, rtol=1e-6)


def test_motion_the_other_way_gives_no_ratio() -> None:
    back = Drive(lambda t: -0.5 * t)
    happenings = [h for h in events(STRAIGHT) if h[1] == 'observe']
    happenings += [h for h in events(back) if h[1] == 'add_odometry']
    attempts = played(source(), happenings)
    assert ratios(attempts) == []
    assert any('different directions' in a.refusal for a in attempts)


def test_frames_without_odometry_are_due() -> None:
    attempts = played(source(), events(STRAIGHT, odometry=[-1.0, 10.0]))
    assert {a.refusal for a in attempts} == {NO_ODOMETRY}
    assert due_s(attempts) == pytest.approx(3.9)


def test_after_a_gap_of_odometry_it_goes_on() -> None:
    odometry = [t for t in ODOMETRY if not 1.0 < t < 2.0]
    attempts = played(source(), events(STRAIGHT, odometry=odometry))
    found = ratios(attempts)
    assert 4 <= len(found) <= 7
    np.testing.assert_allclose(found, FACTOR, rtol=1e-6)
    assert due_s(attempts) == pytest.approx(1.0, abs=0.11)


def test_memory_is_bounded_when_odometry_stops_and_when_frames_do() -> None:
    scale = source()
    for t, earlier in zip(range(1, 1000), range(1000), strict=False):
        scale.observe(STRAIGHT.frame(t / 10, earlier / 10, FACTOR))
    assert scale.held == MAX_WAITING
    for t in range(5000):
        scale.add_odometry(STRAIGHT.odometry(100 + t / 100))
    assert scale.held == CAPACITY


def test_waiting_frames_hold_no_depth() -> None:
    scale = source()
    frame = STRAIGHT.frame(1.0, 0.9, FACTOR)
    scale.observe(frame)
    assert not any(hasattr(waiting, 'depth') for waiting in scale._waiting)


def test_a_mounting_that_becomes_known_ends_the_pair_at_work() -> None:
    scale = source(mounted=False, max_rotation_deg=180.0, max_direction_error_deg=180.0)
    happenings = events(STRAIGHT)
    middle = next(i for i, (t, *_) in enumerate(happenings) if t > 2.15)
    played(scale, happenings[:middle])
    scale.mount(BASE_T_CAMERA)
    # Else one end would be the base's pose and the other the camera's
    np.testing.assert_allclose(ratios(played(scale, happenings[middle:])), FACTOR, rtol=1e-6)


def test_reset_forgets_all_but_the_mounting() -> None:
    scale = source()
    played(scale, events(WINDING))
    scale.reset()
    assert scale.held == 0
    assert scale.newest_odometry_ns is None
    np.testing.assert_allclose(ratios(played(scale, events(WINDING))), FACTOR, rtol=2e-3)


def test_uncertainty_grows_along_the_chain_as_samples_do() -> None:
    # Long steps, hard turns, and a noise of its own in each axis
    drive = Drive(lambda t: 5 * t, lambda t: 3 * t)
    deviations = np.array([0.02, 0.04, 0.01, 0.02, 0.05, 0.01])
    times = np.arange(0, 0.6, 0.1)
    pairs = list(zip(times[:-1], times[1:], strict=True))
    scale = source(min_translation_m=100.0, max_pair_s=100.0)
    played(scale, events(drive, times, np.arange(0, 1, 0.05), np.diag(deviations**2)))
    rng, ends = np.random.default_rng(0), []
    for _ in range(4000):
        chained = np.eye(4)
        for earlier, later in pairs:
            step = drive.later_T_earlier(earlier, later)
            step[:3, 3] /= FACTOR
            shift, (x, y, z) = np.split(deviations * rng.normal(size=6), 2)
            step[:3, :3] = (np.eye(3) + [[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ step[:3, :3]
            step[:3, 3] += shift
            chained = step @ chained
        ends.append(chained[:3, 3])
    sampled = np.cov(np.array(ends).T)
    computed = scale._chain.covariance[:3, :3]
    np.testing.assert_allclose(computed, sampled, atol=0.06 * sampled.max())
    assert scale._chain.anchor.stamp_ns == ns(0)


def test_limits_that_nothing_could_keep_are_named() -> None:
    with pytest.raises(ValueError, match=r'scale\.min_translation_m'):
        OdometryScaleConfig(min_translation_m=0.0)
    with pytest.raises(ValueError, match=r'scale\.max_odometry_gap_s'):
        OdometryScaleConfig(max_odometry_gap_s=-1.0)
