"""By whose motion a frame is matched: odometry in time and in line with the images, else those."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from tc_depth_ros.localisation import LocalisationConfig, Localiser, Location, explains
from tc_depth_ros.scale.odometry_buffer import OdometryPose
from tc_depth_ros.temporal.motion import Motion, Points

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
STEP_NS = 100_000_000
K = np.array([[200.0, 0, 128], [0, 200, 96], [0, 0, 1]])


def sideways(x: float) -> NDArray[np.float64]:
    """Motion later_T_earlier of a camera that has moved to the right."""
    motion = np.eye(4)
    motion[0, 3] = -x
    return motion


def seen(later_T_earlier: NDArray[np.float64], depth_error: float = 1.0) -> Motion:
    """A motion that images show, with points whose depth is off by a factor."""
    rng = np.random.default_rng(0)
    scene = np.stack([rng.uniform(-1, 1, 100), rng.uniform(-1, 1, 100), rng.uniform(1, 3, 100)], 1)
    moved = scene @ later_T_earlier[:3, :3].T + later_T_earlier[:3, 3]
    projected = moved @ K.T
    later = projected[:, :2] / projected[:, 2:]
    found = later_T_earlier.copy()
    found[:3, 3] *= depth_error
    return Motion(found, np.zeros((6, 6)), Points(depth_error * scene, later, K))


def odometry(index: float, x: float, deviation_m: float = 0.0) -> OdometryPose:
    stamp_ns = round((index + 10) * STEP_NS)
    return OdometryPose(stamp_ns, np.array([x, 0.0, 0.0]), UPRIGHT, deviation_m)


def stamp(index: float) -> int:
    return round((index + 10) * STEP_NS)


def localiser(config: LocalisationConfig | None = None) -> Localiser:
    localiser = Localiser(config or LocalisationConfig(odometry_wait_s=0.0))
    localiser.odometry.mount(np.eye(4))
    return localiser


def test_odometry_comes_first_and_is_of_the_camera() -> None:
    ours = localiser()
    forward_T_optical = np.eye(4)
    forward_T_optical[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    forward_T_optical[:3, 3] = [0.5, 0.0, 0.2]
    ours.odometry.mount(forward_T_optical)
    for index in range(3):
        ours.odometry.add(odometry(index, 0.1 * index))
    location = ours.locate(stamp(1), None, factor=2.0)
    assert location.source == 'odometry' and not location.refusal
    assert location.pose is not None and location.pose.unit == 0.5
    np.testing.assert_allclose(location.pose.track_T_camera[:3, 3], [0.6, 0.0, 0.2])


def test_between_two_poses_it_is_interpolated() -> None:
    ours = localiser()
    for index in range(2):
        ours.odometry.add(odometry(index, float(index)))
    location = ours.locate(stamp(0.25), None, factor=1.0)
    assert location.pose is not None
    assert location.pose.track_T_camera[0, 3] == pytest.approx(0.25)


def test_without_odometry_the_images_tell_once_there_are_two() -> None:
    ours = localiser()
    first = ours.locate(stamp(0), None, factor=1.0)
    second = ours.locate(stamp(1), seen(sideways(0.1)), factor=1.0)
    third = ours.locate(stamp(2), seen(sideways(0.1)), factor=1.0)
    assert (first.source, second.source, third.source) == ('none', 'images', 'images')
    assert first.refusal == 'no odometry'
    assert first.pose and second.pose and third.pose
    assert first.pose.track == second.pose.track == third.pose.track
    np.testing.assert_allclose(third.pose.past_T_this(first.pose.track_T_camera)[0, 3], 0.2)
    # A motion that is not known ends the track
    fourth = ours.locate(stamp(3), None, factor=1.0)
    assert fourth.pose and fourth.pose.track != third.pose.track


def test_odometry_is_of_no_use_to_depth_of_an_unknown_unit() -> None:
    ours = localiser()
    ours.odometry.add(odometry(0, 0.0))
    location = ours.locate(stamp(0), None, None)
    assert location.source == 'none' and 'not metric' in location.refusal


def test_late_odometry_is_waited_for_once() -> None:
    ours = localiser(LocalisationConfig(odometry_wait_s=0.2))
    ours.odometry.add(odometry(0, 0.0))
    began = time.monotonic()
    late = ours.locate(stamp(1), None, factor=1.0)
    waited = time.monotonic() - began
    again = ours.locate(stamp(2), None, factor=1.0)
    took = time.monotonic() - began - waited
    assert 'late' in late.refusal and 'late' in again.refusal
    assert waited > 0.15 and took < 0.1
    # Once it is in time again, it is waited for again
    ours.odometry.add(odometry(3, 0.3))
    assert ours.locate(stamp(3), None, factor=1.0).source == 'odometry'
    timer = threading.Timer(0.05, lambda: ours.odometry.add(odometry(4, 0.4)))
    timer.start()
    assert ours.locate(stamp(4), None, factor=1.0).source == 'odometry'
    timer.join()


def test_one_delay_does_not_end_the_waiting() -> None:
    """Odometry that always comes a little after its image is in time, also after a delay."""
    ours = localiser(LocalisationConfig(odometry_wait_s=0.5))
    ours.odometry.add(odometry(0, 0.0))
    assert 'late' in ours.locate(stamp(1), None, factor=1.0).refusal
    assert 'late' in ours.locate(stamp(2), None, factor=1.0).refusal  # not waited for
    ours.odometry.add(odometry(2, 0.2))  # at once, as far as the settings are concerned
    timer = threading.Timer(0.05, lambda: ours.odometry.add(odometry(3, 0.3)))
    timer.start()
    assert ours.locate(stamp(3), None, factor=1.0).source == 'odometry'
    timer.join()


def test_odometry_that_is_always_too_late_is_never_waited_for_again() -> None:
    ours = localiser(LocalisationConfig(odometry_wait_s=0.3))
    ours.odometry.add(odometry(0, 0.0))
    waited = []
    for index in range(1, 4):
        began = time.monotonic()
        assert 'late' in ours.locate(stamp(index), None, factor=1.0).refusal
        waited.append(time.monotonic() - began)
        time.sleep(0.35)
        ours.odometry.add(odometry(index, 0.1 * index))
    assert waited[0] > 0.25 and max(waited[1:]) < 0.25


def test_a_gap_in_odometry_is_not_bridged() -> None:
    ours = localiser()
    ours.odometry.add(odometry(0, 0.0))
    ours.odometry.add(odometry(20, 2.0))
    location = ours.locate(stamp(10), seen(sideways(0.1)), factor=1.0)
    assert location.source == 'images' and 'gap' in location.refusal


def test_odometry_that_is_not_sure_is_not_used() -> None:
    ours = localiser()
    ours.odometry.add(odometry(0, 0.0, deviation_m=500.0))
    location = ours.locate(stamp(0), None, factor=1.0)
    assert location.source == 'none' and '500 m' in location.refusal
    ours.odometry.add(odometry(1, 0.0, deviation_m=np.inf))
    assert 'does not know its position' in ours.locate(stamp(1), None, factor=1.0).refusal


def test_a_mounting_that_is_not_known_is_said() -> None:
    ours = Localiser()
    ours.odometry.add(odometry(0, 0.0))
    assert 'TF' in ours.locate(stamp(0), None, factor=1.0).refusal


def test_a_jump_of_odometry_begins_a_track_of_its_own() -> None:
    ours = localiser()
    found = located(ours, [0.0, 0.1, 0.2, 7.3, 7.4, 7.5, 7.6])
    sources = [location.source for location in found]
    # The second pose from elsewhere tells that it was no single mistake
    assert sources == ['odometry'] * 3 + ['images'] * 2 + ['odometry'] * 2
    assert 'does not fit the images' in found[3].refusal
    tracks = [location.pose.track for location in found if location.pose]
    assert tracks[0] == tracks[2] != tracks[5] == tracks[6]


def test_a_single_wrong_pose_is_passed_over() -> None:
    found = located(localiser(), [0.0, 0.1, 0.2, 2.9, 0.4, 0.5])
    sources = [location.source for location in found]
    assert sources == ['odometry'] * 3 + ['images'] + ['odometry'] * 2
    assert len({location.pose.track for location in found if location.source == 'odometry'}) == 1


@pytest.mark.parametrize('guess_ratio', [0.4, 1.0, 3.0])
def test_a_single_wrong_pose_is_passed_over_where_matching_mends_the_depth(
    guess_ratio: float,
) -> None:
    """The images tell motion in the unit of the single frame, odometry in that of depth."""
    ours, found = localiser(), []
    for index, x in enumerate([0.0, 0.1, 0.2, 2.9, 0.4, 0.5]):
        ours.odometry.add(odometry(index, x))
        motion = seen(sideways(0.1), guess_ratio) if index else None
        found.append(ours.locate(stamp(index), motion, 1.0, guess_ratio))
    tracks = [location.pose.track for location in found if location.source == 'odometry']
    assert len(tracks) == 5 and len(set(tracks)) == 1


def test_a_jump_counts_once_and_two_of_them_are_no_distrust() -> None:
    positions: list[float | None] = [0.1 * i + 7.0 * (i >= 4) + 7.0 * (i >= 8) for i in range(16)]
    sources = [location.source for location in located(localiser(), positions)]
    assert sources[4:6] == sources[8:10] == ['images'] * 2
    assert sources[6:8] == ['odometry'] * 2 and sources[10:] == ['odometry'] * 6


def test_a_reset_forgets_that_odometry_was_wrong() -> None:
    ours = localiser()
    backwards: list[float | None] = [-0.1 * index for index in range(12)]
    assert located(ours, backwards)[-1].source == 'images'
    ours.reset()
    assert {location.source for location in located(ours, [0.0, 0.1, 0.2])} == {'odometry'}


def test_the_motion_since_the_frame_before_is_told_where_odometry_knows_it() -> None:
    found = located(localiser(), [0.0, 0.1, 2.9, 0.3, 0.4])
    known = [location.pose.last_T_this is not None for location in found]
    # Not between two poses of which one was carried on by the images
    assert known == [False, True, False, False, True]
    np.testing.assert_allclose(found[1].pose.last_T_this, np.linalg.inv(sideways(0.1)))
    in_feet = found[1].pose.in_units_of(0.3048)
    assert in_feet.last_T_this[0, 3] == pytest.approx(0.1 / 0.3048)
    assert in_feet.past_T_this(found[0].pose.track_T_camera)[0, 3] == pytest.approx(0.1 / 0.3048)


def located(ours: Localiser, positions: list[float | None]) -> list[Location]:
    """Where frames were taken that are 0.1 m apart, while odometry says this, or nothing."""
    found = []
    for index, x in enumerate(positions):
        if x is not None:
            ours.odometry.add(odometry(index, x))
        found.append(ours.locate(stamp(index), seen(sideways(0.1)) if index else None, factor=1.0))
    return found


def test_odometry_that_was_away_goes_on_in_its_track() -> None:
    found = located(localiser(), [0.0, 0.1, None, None, 0.4, 0.5])
    sources = [location.source for location in found]
    assert sources == ['odometry'] * 2 + ['images'] * 2 + ['odometry'] * 2
    assert len({location.pose.track for location in found if location.source == 'odometry'}) == 1


def test_odometry_that_comes_back_elsewhere_is_not_compared_with_before() -> None:
    """As where its node was started again."""
    found = located(localiser(), [3.0, 3.1, None, None, 0.0, 0.1])
    sources = [location.source for location in found]
    assert sources == ['odometry'] * 2 + ['images'] * 3 + ['odometry']
    assert 'does not fit the images' in found[4].refusal
    assert found[1].pose.track != found[5].pose.track


def test_odometry_that_comes_back_begins_anew_where_nothing_can_be_compared() -> None:
    ours = localiser()
    ours.odometry.add(odometry(0, 0.0))
    first = ours.locate(stamp(0), None, factor=1.0)
    assert ours.locate(stamp(1), None, factor=1.0).source == 'none'
    ours.odometry.add(odometry(2, 0.2))
    again = ours.locate(stamp(2), seen(sideways(0.1)), factor=1.0)
    assert first.source == again.source == 'odometry'
    assert first.pose and again.pose and first.pose.track != again.pose.track


@pytest.mark.parametrize('depth_error', [0.5, 1.0, 2.5])
def test_a_right_motion_explains_the_images_whatever_the_unit_of_depth(depth_error: float) -> None:
    motion = seen(sideways(0.2), depth_error)
    assert explains(sideways(0.2), motion)


@pytest.mark.parametrize('x, y', [(-0.2, 0.0), (2.0, 0.0), (0.0, 0.0), (0.0, 0.2)])
def test_a_wrong_motion_does_not(x: float, y: float) -> None:
    wrong = sideways(x)
    wrong[1, 3] = -y
    assert not explains(wrong, seen(sideways(0.2)))


def test_images_that_show_nothing_refute_nothing() -> None:
    assert explains(sideways(5.0), Motion(np.eye(4), np.zeros((6, 6))))
    assert explains(sideways(0.0), seen(np.eye(4)))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match='max_odometry_gap_s is 0'):
        LocalisationConfig(max_odometry_gap_s=0.0)
    with pytest.raises(ValueError, match='sometimes'):
        LocalisationConfig(odometry='sometimes')  # type: ignore[arg-type]


def walked(odometry_step: float, images_step: float, count: int = 40) -> list[str]:
    """Sources of frames whose odometry and images tell of steps of different length."""
    ours = localiser()
    sources = []
    for index in range(count):
        ours.odometry.add(odometry(index, odometry_step * index))
        motion = seen(sideways(images_step)) if index else None
        sources.append(ours.locate(stamp(index), motion, factor=1.0).source)
    return sources


def test_steps_too_small_to_be_refuted_are_refuted_together() -> None:
    """Odometry ten times too long, of a camera whose points move by a pixel."""
    sources = walked(0.04, 0.004)
    assert sources.count('odometry') <= 8 and sources[10:] == ['images'] * 30
    assert walked(0.004, 0.004) == ['odometry'] * 40
    # A factor of two is the depth's own doubt
    assert walked(0.008, 0.004) == ['odometry'] * 40


def test_odometry_that_is_wrong_throughout_is_not_tried_at_every_second_frame() -> None:
    sources = walked(-0.1, 0.1, 30)
    assert sources.count('odometry') <= 4 and sources[8:] == ['images'] * 22


def test_odometry_is_trusted_again_after_a_while() -> None:
    ours = localiser()
    sources, x = [], 0.0
    for index in range(60):
        x += -0.1 if index < 8 else 0.1
        ours.odometry.add(odometry(index, x))
        motion = seen(sideways(0.1)) if index else None
        sources.append(ours.locate(stamp(index), motion, factor=1.0).source)
    assert sources[12] == 'images' and sources[-1] == 'odometry'


def test_a_motion_in_another_unit_is_the_same_motion() -> None:
    motion = seen(sideways(0.2))
    halved = motion.in_units_of(2.0)
    np.testing.assert_allclose(halved.later_T_earlier[:3, 3], motion.later_T_earlier[:3, 3] / 2)
    assert motion.evidence is not None and halved.evidence is not None
    for length in (0.1, 1.0, -1.0):  # what it refutes does not depend on the unit
        assert halved.evidence.residual_px(sideways(0.1 * length)) == pytest.approx(
            motion.evidence.residual_px(sideways(0.2 * length)), abs=1e-6
        )
