"""Motion, live consistency and confidence, on rendered rooms whose truth is known."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import shared_bag, tensor_of
from numpy.typing import NDArray
from test_predictor import frame, predictor

from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.predictor import DepthPredictor, PredictorConfig
from tc_depth_ros.temporal.confidence import PastView, confidence
from tc_depth_ros.temporal.consistency import Consistency, compare, scale_jump
from tc_depth_ros.temporal.motion import FlowMotion, Motion, PoseNetMotion
from tc_depth_ros.temporal.tracker import (
    KEPT,
    TemporalConfig,
    TemporalTracker,
    motion_source,
)
from tc_depth_ros.temporal.tracks import PointTracker, grey_image, textured_points
from tc_depth_ros.temporal.view import View
from tc_depth_training.synthetic import SyntheticView, render_recording

HEIGHT, WIDTH = 192, 256


@pytest.fixture(scope='module')
def rooms() -> list[list[SyntheticView]]:
    """Walks through two rooms, at the network's size, 3 cm per frame."""
    return [render_recording(13, HEIGHT, WIDTH, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope='module')
def views(rooms: list[list[SyntheticView]]) -> list[View]:
    return [view_of(one) for one in rooms[0]]


def view_of(rendered: SyntheticView, noise: NDArray[np.float32] | float = 1.0) -> View:
    """The truth as if it were predicted; noise multiplies the depth."""
    depth = tensor_of(rendered.depth * noise)
    return View(
        tensor_of(rendered.image), tensor_of(rendered.K)[0], depth.float(), rendered.stamp_ns
    )


def true_motion(earlier: SyntheticView, later: SyntheticView) -> NDArray[np.float64]:
    return np.linalg.inv(later.world_T_camera) @ earlier.world_T_camera


def patches(generator: np.random.Generator, deviation: float) -> NDArray[np.float32]:
    """Factors near 1 that are alike over a fifth of the image, as errors of networks are."""
    coarse = generator.standard_normal((6, 8)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.exp(deviation * smooth).astype(np.float32)


def error_of(motion: Motion, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """x, y, z and rotation from the true motion to the found one, in the covariance's order."""
    rotation = cv2.Rodrigues(motion.later_T_earlier[:3, :3] @ truth[:3, :3].T)[0]
    return np.concatenate([motion.later_T_earlier[:3, 3] - truth[:3, 3], rotation[:, 0]])


def errors(
    rooms: list[list[SyntheticView]], step: int, deviation: float = 0.0
) -> list[tuple[Motion, NDArray[np.float64], float]]:
    """Of all pairs a step apart: what flow says, how it errs, and how far the camera moved."""
    generator, source, found = np.random.default_rng(0), FlowMotion(), []
    for room in rooms:
        for earlier, later in zip(room, room[step:], strict=False):
            noisy = view_of(earlier, patches(generator, deviation) if deviation else 1.0)
            motion = source.between(noisy, view_of(later))
            assert motion is not None
            truth = true_motion(earlier, later)
            found.append((motion, error_of(motion, truth), float(np.linalg.norm(truth[:3, 3]))))
    return found


# Motion by optical flow


@pytest.mark.parametrize(
    ('step', 'degrees', 'share'), [(1, 0.06, 0.1), (3, 0.06, 0.04), (6, 0.04, 0.02)]
)
def test_flow_and_true_depth_give_the_true_motion(rooms, step, degrees, share) -> None:
    """
    3, 9 and 18 cm of way in a room 3 to 6 m deep. The median is asked of, then the worst thrice.

    At 3 cm things move by 2.5 pixels, most of it by rotation: 0.05 pixels of flow are 10 % of
    the way.
    """
    found = errors(rooms, step)
    rotation = np.degrees([np.linalg.norm(error[3:]) for _, error, _ in found])
    way = [np.linalg.norm(error[:3]) / moved for _, error, moved in found]
    assert np.median(rotation) < degrees and np.max(rotation) < 3 * degrees
    assert np.median(way) < share and np.max(way) < 3 * share


@pytest.mark.parametrize('step', [1, 3])
@pytest.mark.parametrize('deviation', [0.0, 0.05, 0.15])
def test_the_covariance_covers_the_true_error(rooms, step, deviation) -> None:
    """
    The squared Mahalanobis distance of six numbers has the median 5.3 and 95 % below 12.6.

    The covariance is made for real cameras, whose flow is worse than here, so it may be less.
    """
    squared = [e @ np.linalg.solve(m.covariance, e) for m, e, _ in errors(rooms, step, deviation)]
    assert 0.3 < np.median(squared) < 5.3
    assert np.quantile(squared, 0.95) < 12.6


def test_the_covariance_grows_with_the_noise(rooms) -> None:
    sizes = [
        np.median([np.trace(m.covariance[:3, :3]) for m, _, _ in errors(rooms, 3, deviation)])
        for deviation in (0.0, 0.1, 0.3)
    ]
    assert sizes[0] < 0.7 * sizes[1] < 0.5 * sizes[2]


def test_the_covariance_is_symmetric_and_positive(rooms) -> None:
    motion, _, _ = errors(rooms, 1)[0]
    np.testing.assert_allclose(motion.covariance, motion.covariance.T, rtol=1e-6, atol=1e-12)
    assert np.linalg.eigvalsh(motion.covariance).min() > 0


def test_the_way_is_in_the_depths_unit(views) -> None:
    source = FlowMotion()
    plain, tenfold = (
        source.between(replace(views[0], depth=factor * views[0].depth), views[3])
        for factor in (1, 10)
    )
    assert plain is not None and tenfold is not None
    way = plain.later_T_earlier[:3, 3]
    np.testing.assert_allclose(tenfold.later_T_earlier[:3, 3], 10 * way, rtol=1e-3)
    np.testing.assert_allclose(
        np.diag(tenfold.covariance) / np.diag(plain.covariance), [100] * 3 + [1] * 3, rtol=0.02
    )


def test_a_still_camera_stands_still(views) -> None:
    motion = FlowMotion().between(views[0], views[0])
    assert motion is not None
    np.testing.assert_allclose(motion.later_T_earlier, np.eye(4), atol=1e-5)


def test_the_same_twice_to_the_last_digit(views) -> None:
    first, second = (FlowMotion().between(views[0], views[3]) for _ in range(2))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.later_T_earlier, second.later_T_earlier)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_what_cannot_be_told_is_none(views) -> None:
    first = views[0]
    blank = replace(first, image=torch.full_like(first.image, 0.5))
    other = torch.rand(first.image.shape, generator=torch.manual_seed(0))
    nowhere = replace(first, depth=torch.full_like(first.depth, torch.nan))
    for pair in ((blank, blank), (first, blank), (first, replace(first, image=other))):
        assert FlowMotion().between(*pair) is None
    assert FlowMotion().between(nowhere, first) is None


def test_points_are_where_there_is_texture(views) -> None:
    grey = grey_image(views[0].image)
    grey[:, :130] = 128
    points = textured_points(grey)
    assert len(points) > 50 and points[:, 0].min() >= 127  # the corner's window reaches over


def test_what_has_gone_is_not_tracked(views) -> None:
    first, second = (grey_image(view.image) for view in views[:2])
    assert len(PointTracker().track(first, second).earlier) > 250
    second[:, :128] = np.random.default_rng(0).integers(0, 255, (HEIGHT, 128), dtype=np.uint8)
    kept = PointTracker().track(first, second).earlier
    assert (kept[:, 0] < 118).sum() < 0.3 * (kept[:, 0] > 138).sum()


# Motion by the pose network


@pytest.fixture(scope='module')
def pose_net() -> PoseNet:
    torch.manual_seed(3)
    return PoseNet(PoseNetConfig()).eval()


class ToldMotion(torch.nn.Module):
    """Stands for a pose network that has learned this motion."""

    def __init__(self, motion: NDArray[np.float64]) -> None:
        super().__init__()
        self._motion = torch.from_numpy(motion).float()[None]
        self.shown: tuple[torch.Tensor, ...] = ()

    def forward(self, earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
        self.shown = (earlier, later)
        return self._motion


def test_the_pose_networks_answer_is_taken_and_scaled(views, pose_net) -> None:
    motion = PoseNetMotion(pose_net, scale=2.0).between(views[0], views[1])
    with torch.inference_mode():
        images = torch.stack([views[0].image, views[1].image], dim=1)
        expected = pose_net.between(images, target=0, source=1)[0].double().numpy()
    assert motion is not None
    np.testing.assert_allclose(motion.later_T_earlier[:3, :3], expected[:3, :3], atol=1e-6)
    np.testing.assert_allclose(motion.later_T_earlier[:3, 3], 2 * expected[:3, 3], atol=1e-6)


def test_the_pose_network_is_asked_in_time_order(views) -> None:
    told = ToldMotion(np.eye(4))
    PoseNetMotion(told).between(views[0], views[1])  # type: ignore[arg-type]
    assert told.shown[0] is views[0].image and told.shown[1] is views[1].image


@pytest.mark.parametrize('wrong_m', [0.0, 0.02, 0.1])
def test_the_pose_networks_error_is_within_its_covariance(rooms, wrong_m) -> None:
    for earlier, later in zip(rooms[0][:4], rooms[0][3:], strict=False):
        truth = true_motion(earlier, later)
        told = truth.copy()
        told[0, 3] += wrong_m
        source = PoseNetMotion(ToldMotion(told))  # type: ignore[arg-type]
        motion = source.between(view_of(earlier), view_of(later))
        assert motion is not None
        error = error_of(motion, truth)
        assert error @ np.linalg.solve(motion.covariance, error) < 20
        deviation_m = np.sqrt(motion.covariance[0, 0])
        assert 0.5 * wrong_m < deviation_m < 2 * wrong_m + 0.02


def test_the_pose_network_too_is_silent_where_nothing_shows(views, pose_net) -> None:
    blank = replace(views[0], image=torch.full_like(views[0].image, 0.5))
    assert PoseNetMotion(pose_net).between(blank, blank) is None


# Live consistency


def compared(
    rooms: list[list[SyntheticView]],
    change: Callable[[View], View] = lambda view: view,
    factor: float = 1.0,
) -> Consistency:
    """Of two neighbours under the true motion, after a change to the later; all times a factor."""
    earlier, later = rooms[0][0], rooms[0][1]
    motion = true_motion(earlier, later)
    motion[:3, 3] *= factor
    first, second = (
        replace(view, depth=factor * view.depth)
        for view in (view_of(earlier), change(view_of(later)))
    )
    found = compare(first, second, Motion(motion, np.eye(6)), 0.1)
    assert found is not None
    return found


def test_the_truth_is_consistent(rooms) -> None:
    found = compared(rooms)
    assert found.disagreement < 1e-3
    assert found.scale_ratio == pytest.approx(1, abs=1e-3)
    assert found.inconsistent_share < 0.03  # what comes to be hidden


def test_a_scaled_frame_shows_its_scale(rooms) -> None:
    found = compared(rooms, lambda view: replace(view, depth=1.2 * view.depth))
    assert found.scale_ratio == pytest.approx(1.2, rel=1e-3)
    assert found.disagreement == pytest.approx(1 - 1 / 1.2, abs=1e-3)
    assert found.inconsistent_share > 0.97
    assert scale_jump(found, 1.1)


def test_a_scale_of_all_frames_changes_nothing(rooms) -> None:
    plain, scaled = compared(rooms), compared(rooms, factor=7.0)
    assert scaled.disagreement == pytest.approx(plain.disagreement, abs=1e-5)
    assert scaled.scale_ratio == pytest.approx(plain.scale_ratio, abs=1e-5)
    assert scaled.inconsistent_share == pytest.approx(plain.inconsistent_share, abs=1e-3)


def test_a_region_that_moved_has_its_share(rooms) -> None:
    def nearer(view: View) -> View:
        depth = view.depth.clone()
        depth[..., 48:96, 64:128] *= 0.7  # 48 x 64 of 192 x 256: a sixteenth
        return replace(view, depth=depth)

    added = compared(rooms, nearer).inconsistent_share - compared(rooms).inconsistent_share
    assert added == pytest.approx(1 / 16, rel=0.1)


def test_nothing_in_view_is_no_number(views) -> None:
    turned = np.diag([-1.0, 1, -1, 1])
    assert compare(views[0], views[1], Motion(turned, np.eye(6)), 0.1) is None


def test_a_pixel_that_is_no_number_is_not_compared(rooms) -> None:
    def broken(view: View) -> View:
        depth = view.depth.clone()
        depth[..., :40, :40] = torch.nan
        return replace(view, depth=depth)

    assert compared(rooms, broken).scale_ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ('ratio', 'jumps'), [(1.0, False), (1.09, False), (1.11, True), (0.92, False), (0.9, True)]
)
def test_a_jump_is_one_up_or_down(ratio, jumps) -> None:
    assert scale_jump(Consistency(0.0, ratio, 0.0), 1.1) is jumps


# Confidence


class TrueMotion:
    """A source that knows the rendered motion."""

    def __init__(self, room: list[SyntheticView]) -> None:
        self._poses = {one.stamp_ns: one.world_T_camera for one in room}

    def between(self, earlier: View, later: View) -> Motion:
        motion = np.linalg.inv(self._poses[later.stamp_ns]) @ self._poses[earlier.stamp_ns]
        return Motion(motion, np.eye(6))


def confidence_of(room: list[SyntheticView], views: list[View]) -> NDArray[np.float32]:
    """Of the last view, after the others."""
    tracker = TemporalTracker(TrueMotion(room))
    for view in views:
        estimate = tracker.push(view, wants_confidence=True)
    assert estimate.confidence is not None
    assert estimate.confidence.shape == view.size and estimate.confidence.dtype == np.float32
    return estimate.confidence


@pytest.fixture(scope='module')
def flat(rooms: list[list[SyntheticView]]) -> NDArray[np.bool_]:
    """Pixels of the last view of the first room whose surroundings have no edge."""
    depth = rooms[0][5].depth
    around = np.ones((11, 11), np.uint8)
    return np.asarray(cv2.dilate(depth, around) / cv2.erode(depth, around) < 1.1)


def test_the_truth_is_trusted(rooms, views, flat) -> None:
    certain = confidence_of(rooms[0], views[:6])
    assert certain.min() >= 0 and certain.max() <= 1
    assert np.median(certain[flat]) > 0.85


def test_what_was_corrupted_is_not(rooms, views, flat) -> None:
    depth = views[5].depth.clone()
    depth[..., 60:130, 60:200] *= 0.6
    certain = confidence_of(rooms[0], [*views[:5], replace(views[5], depth=depth)])
    wrong = np.zeros_like(flat)
    wrong[60:130, 60:200] = True
    plain = confidence_of(rooms[0], views[:6])
    assert np.median(certain[wrong]) < 0.45 < 0.8 < np.median(plain[wrong])
    assert np.median(certain[flat & ~wrong]) > 0.85


def test_edges_are_trusted_less(rooms, views, flat) -> None:
    depth = rooms[0][5].depth
    around = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(depth, around) / cv2.erode(depth, around) > 1.3
    certain = confidence_of(rooms[0], views[:6])
    alone = confidence_of(rooms[0], views[5:6])
    for found in (certain, alone):
        assert np.median(found[edge]) < np.median(found[flat]) - 0.3


def test_no_evidence_is_neither_for_nor_against(rooms, views) -> None:
    """The camera turns left: what is new at that side is judged by its edges alone."""
    turn = np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(np.array([0, np.radians(10), 0]))[0]

    class Turn:
        def between(self, earlier: View, later: View) -> Motion:
            return Motion(turn, np.eye(6))

    tracker = TemporalTracker(Turn())
    wall = replace(views[0], depth=torch.full_like(views[0].depth, 3.0))
    alone = tracker.push(wall, wants_confidence=True).confidence
    turned = tracker.push(replace(wall, stamp_ns=1), wants_confidence=True).confidence
    assert alone is not None and turned is not None
    new = np.s_[:, :25]  # 10 degrees are 37 pixels
    np.testing.assert_array_equal(turned[new], alone[new])
    assert (turned[:, 60:200] != alone[:, 60:200]).mean() > 0.9


def test_what_was_hidden_has_no_evidence(views) -> None:
    """The past saw a near board where the newest sees the wall behind: no disagreement."""

    class Still:
        def between(self, earlier: View, later: View) -> Motion:
            return Motion(np.eye(4), np.eye(6))

    wall = replace(views[0], depth=torch.full_like(views[0].depth, 3.0))
    depth = wall.depth.clone()
    depth[..., 50:100, 50:100] = 1.0
    board = replace(wall, depth=depth)
    hidden = np.s_[60:90, 60:90]

    def after(first: View, second: View) -> Any:
        tracker = TemporalTracker(Still())
        tracker.push(first, wants_confidence=False)
        return tracker.push(second, wants_confidence=True).confidence

    alone = TemporalTracker(None).push(wall, wants_confidence=True).confidence
    np.testing.assert_array_equal(after(board, wall)[hidden], alone[hidden])  # type: ignore[index]
    assert (after(wall, board)[hidden] < 0.5).all()  # came nearer: that is a disagreement


def test_a_common_factor_is_not_the_business_of_confidence(rooms, views) -> None:
    scaled = replace(views[5], depth=1.15 * views[5].depth)
    changed = confidence_of(rooms[0], [*views[:5], scaled])
    assert np.abs(changed - confidence_of(rooms[0], views[:6])).mean() < 0.02


def test_a_sharp_match_is_trusted_more_than_a_blunt_one(rooms, views) -> None:
    deviation = torch.full_like(views[5].depth[..., ::4, ::4], 0.05)
    deviation[..., deviation.shape[-1] // 2 :] = 0.5
    matched = [*views[:5], replace(views[5], deviation=deviation)]
    certain = confidence_of(rooms[0], matched)
    half = certain.shape[1] // 2
    blunt = [*views[:5], replace(views[5], deviation=torch.full_like(deviation, 0.5))]
    worse = confidence_of(rooms[0], blunt)
    assert certain[:, : half - 4].mean() > worse[:, : half - 4].mean() + 0.02
    np.testing.assert_allclose(certain[:, half + 4 :], worse[:, half + 4 :], atol=1e-6)


def test_what_is_no_number_is_not_trusted(rooms, views) -> None:
    depth = views[5].depth.clone()
    depth[..., 20:40, 20:40] = torch.nan
    certain = confidence_of(rooms[0], [*views[:5], replace(views[5], depth=depth)])
    assert (certain[20:40, 20:40] == 0).all() and np.isfinite(certain).all()


# The tracker


def test_only_what_is_asked_for_is_made(views) -> None:
    tracker = TemporalTracker(FlowMotion())
    first = tracker.push(views[0], wants_confidence=False)
    assert first.motion is None and first.consistency is None and first.confidence is None
    second = tracker.push(views[1], wants_confidence=False)
    assert second.motion is not None and second.consistency is not None
    assert second.confidence is None
    assert tracker.push(views[2], wants_confidence=True).confidence is not None


def test_without_motion_there_are_the_edges(views) -> None:
    tracker = TemporalTracker(motion_source(TemporalConfig(motion='none')))
    first, second = (tracker.push(views[0], wants_confidence=True) for _ in range(2))
    assert second.motion is None and second.consistency is None
    assert first.confidence is not None and second.confidence is not None
    np.testing.assert_array_equal(first.confidence, second.confidence)


@pytest.mark.parametrize('why', ['reset', 'size', 'K', 'no motion'])
def test_the_past_ends(views, why) -> None:
    tracker = TemporalTracker(FlowMotion())
    for view in views[:3]:
        tracker.push(view, wants_confidence=False)
    view = views[3]
    if why == 'reset':
        tracker.reset()
    elif why == 'size':
        view = replace(
            view, image=view.image[..., :160, :].contiguous(), depth=view.depth[..., :160, :]
        )
    elif why == 'K':
        view = replace(view, K=view.K * 1.01)
    else:
        view = replace(view, image=torch.full_like(view.image, 0.5))
    estimate = tracker.push(view, wants_confidence=True)
    fresh = TemporalTracker(FlowMotion()).push(view, wants_confidence=True)
    assert estimate.motion is None and estimate.consistency is None
    np.testing.assert_array_equal(estimate.confidence, fresh.confidence)  # type: ignore[arg-type]


@pytest.mark.parametrize('count', [4, 6, 13])
def test_confidence_is_of_the_last_view_and_of_one_from_elsewhere(rooms, views, count) -> None:
    """From more than 5 % of the depth away, else the oldest, carried by all motions between."""
    newest = views[count - 1]
    kept = [
        PastView(view.depth, TrueMotion(rooms[0]).between(view, newest).later_T_earlier)
        for view in views[max(count - 1 - KEPT, 0) : count - 1]
    ]
    away = 0.05 * float(newest.depth.median())
    elsewhere = [p for p in kept[:-1] if np.linalg.norm(p.newest_T_past[:3, 3]) > away]
    assert len(elsewhere) < len(kept) - 1 and bool(elsewhere) == (count == 13)
    wanted = [kept[-1], elsewhere[-1] if elsewhere else kept[0]]
    found = confidence_of(rooms[0], views[:count])
    np.testing.assert_allclose(found, confidence(newest, wanted), atol=1e-3)


def test_a_mistake_of_two_frames_is_found_by_those_before(rooms, views) -> None:
    """A mistake that the last view shares is found by the one before it."""
    wrong = []
    for view in views[4:6]:
        depth = view.depth.clone()
        depth[..., 60:130, 60:200] *= 0.6
        wrong.append(replace(view, depth=depth))
    middle = np.s_[80:110, 80:180]
    shared = confidence_of(rooms[0], wrong)[middle]
    found = confidence_of(rooms[0], [*views[:4], *wrong])[middle]
    assert np.median(found) < np.median(shared) - 0.15


def test_what_is_kept_does_not_grow(rooms) -> None:
    tracker, alive = TemporalTracker(TrueMotion(rooms[0])), []
    for rendered in rooms[0] * 3:
        view = view_of(rendered)
        alive.append(weakref.ref(view.depth))
        tracker.push(view, wants_confidence=True)
        del view
    gc.collect()
    assert sum(depth() is not None for depth in alive) == KEPT + 1


def test_the_source_follows_the_weights(pose_net) -> None:
    assert isinstance(motion_source(TemporalConfig()), FlowMotion)
    assert isinstance(motion_source(TemporalConfig(), pose_net), PoseNetMotion)
    assert isinstance(motion_source(TemporalConfig(motion='flow'), pose_net), FlowMotion)
    assert motion_source(TemporalConfig(motion='none'), pose_net) is None
    with pytest.raises(ValueError, match='no pose network'):
        motion_source(TemporalConfig(motion='pose_network'))


@pytest.mark.parametrize(
    'values', [{'max_difference': 0.0}, {'max_difference': 1.0}, {'max_scale_step': 1.0}]
)
def test_settings_that_mean_nothing_are_refused(values) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        TemporalConfig(**values)


# What the predictor hands out


def test_the_view_is_the_answered_frame_in_the_depths_unit() -> None:
    size = (48, 64)  # that the network takes as it is
    for output in ('newest', 'centre'):
        streaming = predictor(PredictorConfig(output=output))
        answers = [streaming.push(frame(index, size)) for index in range(3)]
        for answer in answers[1:]:
            assert answer is not None
            view = answer.view
            assert view.stamp_ns == answer.frame.stamp_ns
            np.testing.assert_allclose(view.depth[0, 0].numpy(), answer.depth, rtol=1e-5)
            np.testing.assert_array_equal(
                (view.image[0] * 255).round().byte().permute(1, 2, 0).numpy(), answer.frame.image
            )
            np.testing.assert_allclose(view.K[0].numpy(), answer.frame.K)


# A real recording


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'step', 'count'), [('kitchen_eval', 2, 40)])
def test_the_error_falls_with_confidence(name, step, count) -> None:
    """The order of pixels by confidence is that of their error, with the embedded weights."""
    from tc_depth_training.data.bag import Bag

    bag = shared_bag(name)
    with Bag(bag) as opened:
        truths = {m.stamp_ns: m.depth for m in opened.depth_maps('/camera/depth/image_rect_raw')}
        frames = list(opened.frames(opened.find_camera()))[::step][:count]
    streaming = DepthPredictor.from_weights(device='cpu')
    tracker = TemporalTracker(FlowMotion())
    certain, wrong = [], []
    for one in frames:
        prediction = streaming.push(one)
        assert prediction is not None
        estimate = tracker.push(prediction.view, wants_confidence=True)
        nearest = min(truths, key=lambda stamp: abs(stamp - one.stamp_ns))
        depth = prediction.view.depth[0, 0].numpy()
        truth = cv2.resize(truths[nearest], depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
        known = np.isfinite(truth)
        scaled = depth * np.median(truth[known]) / np.median(depth[known])
        certain.append(estimate.confidence[known])  # type: ignore[index]
        wrong.append((np.abs(scaled - truth) / truth)[known])
    confidence, error = np.concatenate(certain), np.concatenate(wrong)
    bins = np.searchsorted(np.quantile(confidence, [0.2, 0.4, 0.6, 0.8]), confidence)
    of_bins = [float(error[bins == index].mean()) for index in range(5)]
    print(of_bins)
    assert all(high > low for high, low in zip(of_bins, of_bins[1:], strict=False))
    assert of_bins[0] > 1.5 * of_bins[-1]
    good = [float((error[bins == index] < 0.25).mean()) for index in range(5)]
    claimed = [float(confidence[bins == index].mean()) for index in range(5)]
    np.testing.assert_allclose(claimed, good, atol=0.08)
