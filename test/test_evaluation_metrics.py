"""The metrics of an evaluation against values worked out by hand, and against rendered truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_training.evaluation.depth_errors import (
    ANY_DEPTH,
    BLOCK,
    DepthErrors,
    DepthRange,
    KnownPixels,
    ScaledErrors,
    common_scale,
    depth_errors,
    mean_errors,
    median,
    scaled_errors,
)
from tc_depth_training.evaluation.temporal import (
    Camera,
    Flow,
    TrueMotion,
    fill_gaps,
    flow_warp_error,
    optical_flow,
    tcm_errors,
    temporal_alignment_error,
    true_motion,
)
from tc_depth_training.evaluation.trajectory_errors import snippet_errors, trajectory_rmse
from tc_depth_training.evaluation.trivial import TrivialAnswers, fit_trivial_answers
from tc_depth_training.synthetic import SyntheticView

# Depth of single images


def test_the_seven_errors_are_those_worked_out_by_hand() -> None:
    # Differences 0.1, 0, 1; ratios 1.1, 1, 1.25, of which the last is no longer below 1.25
    errors = depth_errors(np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.0, 5.0]))
    expected = DepthErrors(
        abs_rel=(0.1 + 0 + 0.25) / 3,
        sq_rel=(0.01 + 0 + 0.25) / 3,
        rmse=math.sqrt((0.01 + 0 + 1) / 3),
        rmse_log=math.sqrt((math.log(1.1) ** 2 + 0 + math.log(1.25) ** 2) / 3),
        a1=2 / 3,
        a2=1.0,
        a3=1.0,
    )
    assert astuple(errors) == pytest.approx(astuple(expected))


def published_errors(truth: Sequence[float], prediction: Sequence[float]) -> list[float]:
    """Eigen et al., section 4.2, sum by sum."""
    n, pairs = len(truth), list(zip(truth, prediction, strict=True))
    log_squares = [(math.log(d) - math.log(t)) ** 2 for t, d in pairs]
    return [
        sum(abs(d - t) / t for t, d in pairs) / n,
        sum((d - t) ** 2 / t for t, d in pairs) / n,
        (sum((d - t) ** 2 for t, d in pairs) / n) ** 0.5,
        (sum(log_squares) / n) ** 0.5,
        *(sum(max(d / t, t / d) < 1.25**k for t, d in pairs) / n for k in (1, 2, 3)),
    ]


@pytest.mark.parametrize('count', [500, 2 * BLOCK, 2 * BLOCK + 1])
def test_the_seven_errors_are_the_published_ones(count) -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 60, count)
    prediction = truth * np.exp(rng.normal(0, 0.4, count))
    expected = published_errors(truth.tolist(), prediction.tolist())
    assert astuple(depth_errors(truth, prediction)) == pytest.approx(expected, rel=1e-12)
    assert 0.1 < expected[4] < expected[5] < expected[6] < 0.99


def test_truth_itself_has_no_error_and_is_not_scaled() -> None:
    truth = np.array([1.0, 3.0, 9.0])
    assert astuple(depth_errors(truth, truth)) == (0, 0, 0, 0, 1, 1, 1)
    assert KnownPixels.of(truth, truth).own_scale() == 1


def test_the_scale_is_the_ratio_of_medians_where_both_are_known() -> None:
    # Medians 3 and 6; the median of the ratios would be 1, the ratio of the means 4.2 / 5
    truth = np.array([[1.0, 3.0, 8.6], [np.nan, 90.0, np.inf]])
    pixels = KnownPixels.of(truth, np.array([[1.0, 8.0, 6.0], [70.0, np.nan, 70.0]]))
    assert len(pixels.truth) == 3 and pixels.own_scale() == 0.5


@pytest.mark.parametrize('count', [1, 2, 3, 1000, 1001])
def test_the_median_is_numpys(count) -> None:
    values = np.random.default_rng(0).permutation(np.repeat(np.geomspace(1, 9, count), 3)[:count])
    assert median(values) == np.median(values)


def test_the_common_scale_is_the_median_of_the_images_own() -> None:
    assert common_scale([1.0, 2.0, 9.0]) == 2
    assert common_scale([]) == 1


@pytest.mark.parametrize(
    ('depth_range', 'expected'),
    [
        (ANY_DEPTH, [[0, 0.125, 0.5], [0, 0.1, 0.6]]),
        # Scaled first, then clamped
        (DepthRange(0.9, 2.1), [[0, 0.05, 0.5], [0, 0.1, 0.55]]),
    ],
)
def test_images_are_scaled_by_their_own_factor_by_the_common_one_and_not(
    depth_range, expected
) -> None:
    images = [KnownPixels.of(np.full(3, 2.0), np.full(3, depth)) for depth in (1.0, 0.8)]
    found = scaled_errors(images, [image.own_scale() for image in images], depth_range)
    for one, errors in zip((*found, ScaledErrors.mean(found)), (*expected, None), strict=True):
        of_each = np.array([one.median.abs_rel, one.overall.abs_rel, one.none.abs_rel])
        np.testing.assert_allclose(of_each, errors or np.mean(expected, axis=0), atol=1e-12)


def test_every_image_counts_once_however_many_pixels_it_has() -> None:
    few = depth_errors(np.array([1.0]), np.array([1.3]))
    many = depth_errors(np.full(99, 1.0), np.full(99, 1.1))
    mean = mean_errors([few, many])
    assert mean.abs_rel == pytest.approx(0.2)
    assert mean.rmse == pytest.approx(0.2)  # of the roots, not the root of the mean
    assert mean.a1 == 0.5


# TCM


def pinhole(
    height: int, width: int, f: float, cx: float = 0.0, cy: float = 0.0
) -> tuple[NDArray[np.float64], Camera]:
    K = np.array([[f, 0, cx], [0, f, cy], [0, 0, 1]])
    return K, Camera.build(K, (height, width))


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Tensor:
    """``b_T_a`` of a camera that went by this much from a to b."""
    b_T_a = torch.eye(4)
    b_T_a[:3, 3] = -torch.tensor([x, y, z])
    return b_T_a


def wall(*depth: float) -> Tensor:
    """One row of depths."""
    return torch.tensor([depth])


def test_tcm_of_a_wall_passed_by_is_the_one_worked_out_by_hand() -> None:
    # f 2, wall at 4 m, camera goes 2 m to the right: every pixel moves by 2 * 2 / 4 = 1 to the
    # left, so pixels 1 to 4 of 5 stay in view. |K^-1 p|^2 there: 1.25, 2, 3.25, 5. The neighbour
    # is 10 % off: its 4.4 m against 4 m carried over. The best 80 % of four pixels are three.
    _, camera = pinhole(1, 5, 2.0)
    motion = true_motion(wall(*[4.0] * 5), wall(*[4.0] * 5), moved(x=2.0), camera)
    assert motion.seen.tolist() == [[False, True, True, True, True]]
    assert motion.track[motion.seen].abs().max() == 0
    (error,) = tcm_errors(wall(*[4.0] * 5), [motion], wall(*[4.0] * 5), [wall(*[4.4] * 5)], camera)
    by_hand = 0.4 * (math.sqrt(1.25) + math.sqrt(2) + math.sqrt(3.25)) / 3
    assert error.absolute == pytest.approx(by_hand, rel=1e-6)
    assert error.squared == pytest.approx(0.16 * (1.25 + 2 + 3.25) / 3, rel=1e-6)
    assert error.rmse == pytest.approx(math.sqrt(0.16 * 6.5 / 3), rel=1e-6)


def test_tcm_of_a_wall_approached_is_the_one_worked_out_by_hand() -> None:
    # f 2, c 2, a wall at 5 m, camera goes 1 m ahead: pixels move away from the middle by 5/4, so
    # 1, 2 and 3 of 0 to 4 stay in view, and truly lie at 4 m. The neighbour says 5 m there,
    # in a unit of 0.5 m, as does the target: 1 m off. |K^-1 p|^2: 1.25, 1, 1.25.
    _, camera = pinhole(1, 5, 2.0, cx=2.0)
    truth = wall(*[5.0] * 5)
    motion = true_motion(truth, wall(*[4.0] * 5), moved(z=1.0), camera)
    (error,) = tcm_errors(truth, [motion], 2 * truth, [wall(*[10.0] * 5)], camera)
    assert motion.seen.tolist() == [[False, True, True, True, False]]
    assert error.absolute == pytest.approx((1 + math.sqrt(1.25)) / 2, rel=1e-6)
    assert error.squared == pytest.approx((1 + 1.25) / 2, rel=1e-6)


def tele() -> Camera:
    """So narrow a view that every |K^-1 p| is 1."""
    return pinhole(1, 5, 1e6)[1]


def still(truth: Tensor, neighbour_truth: Tensor) -> TrueMotion:
    return true_motion(truth, neighbour_truth, torch.eye(4), tele())


def test_tcm_leaves_out_what_truly_moves_and_the_worst_fifth() -> None:
    truth = wall(5.0, 5.0, 5.0, 5.0, 5.0)
    # Pixel 2 moves by 0.35 m, more than a static point may; pixel 1 by 0.25 m, and stays
    motion = still(truth, wall(5.0, 5.25, 5.35, 5.0, 5.0))
    predicted = wall(5.1, 5.5, 9.0, 5.0, 5.0)
    (error,) = tcm_errors(truth, [motion], truth, [predicted], tele())
    # |track of truth - track of prediction|: 0.1, 0.25, (left out), 0, 0; the best three of four
    assert error.absolute == pytest.approx(0.1 / 3, rel=1e-5)
    assert error.squared == pytest.approx(0.01 / 3, rel=1e-5)


def test_tcm_keeps_exactly_the_best_80_percent() -> None:
    camera = pinhole(1, 10, 1e6)[1]
    truth = torch.full((1, 10), 5.0)
    motion = true_motion(truth, truth, torch.eye(4), camera)
    predicted = truth + 0.1 * torch.tensor([9.0, 0, 8, 1, 7, 2, 6, 3, 5, 4])  # pixel by pixel
    (error,) = tcm_errors(truth, [motion], truth, [predicted], camera)
    assert error.absolute == pytest.approx(0.1 * sum(range(8)) / 8, rel=1e-5)


def test_tcm_narrows_the_pixels_from_neighbour_to_neighbour() -> None:
    truth = wall(5.0, 5.0, 5.0, 5.0, 5.0)
    moving, static = still(truth, wall(9.0, 5.0, 5.0, 5.0, 5.0)), still(truth, truth)
    predicted = wall(5.0, 5.4, 5.4, 5.4, 5.4)  # right at pixel 0 alone
    one, two = tcm_errors(truth, [moving, static], truth, [predicted, predicted], tele())
    assert one.absolute == pytest.approx(0.4, rel=1e-5)
    assert two.absolute == pytest.approx(0.4, rel=1e-5)
    one, two = tcm_errors(truth, [static, moving], truth, [predicted, predicted], tele())
    assert one.absolute == pytest.approx(0.3, rel=1e-5)  # 0, 0.4, 0.4, 0.4
    assert two.absolute == pytest.approx(0.4, rel=1e-5)


def test_tcm_clamps_predictions_at_50_m_and_takes_nearer_truth_only() -> None:
    truth = wall(40.0, 40.0, 40.0, 60.0, 60.0)
    motion = still(truth, truth)
    (error,) = tcm_errors(truth, [motion], truth, [wall(90.0, 90.0, 90.0, 1.0, 1.0)], tele())
    assert error.absolute == pytest.approx(10, rel=1e-6)


def test_tcm_of_frames_with_nothing_in_common_is_left_out() -> None:
    truth = wall(5.0, 5.0, 5.0, 5.0, 5.0)
    nothing = torch.full((1, 5), torch.nan)
    away = true_motion(truth, truth, moved(x=1e9), tele())
    for motion, prediction, there in (
        (away, truth, truth),
        (still(truth, nothing), truth, truth),
        (still(truth, truth), nothing, truth),
        (still(truth, truth), truth, nothing),
    ):
        assert tcm_errors(truth, [motion], prediction, [there], tele()) == []
    assert tcm_errors(nothing, [still(nothing, truth)], truth, [truth], tele()) == []


# The rendered room, whose depth, poses and images are exact


@pytest.fixture(scope='module')
def room(synthetic_views: list[SyntheticView]) -> list[SyntheticView]:
    return synthetic_views


def camera_of(view: SyntheticView) -> Camera:
    return Camera.build(view.K, view.depth.shape)


def depth_of(view: SyntheticView) -> Tensor:
    return torch.from_numpy(view.depth)


def motion_between(source: SyntheticView, target: SyntheticView) -> Tensor:
    """``target_T_source``."""
    motion = np.linalg.inv(target.world_T_camera) @ source.world_T_camera
    return torch.from_numpy(motion).float()


def room_tcm(
    room: list[SyntheticView], factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> list[float]:
    """TCM of view 4 with views 0 and 8, each truth rescaled: target, earlier, later."""
    target, camera = room[4], camera_of(room[4])
    neighbours = room[0], room[8]
    motions = [
        true_motion(depth_of(target), depth_of(n), motion_between(target, n), camera)
        for n in neighbours
    ]
    there = [f * depth_of(n) for f, n in zip(factors[1:], neighbours, strict=True)]
    prediction = factors[0] * depth_of(target)
    errors = tcm_errors(depth_of(target), motions, prediction, there, camera)
    return [error.absolute for error in errors]


def test_tcm_of_the_truth_is_zero(room) -> None:
    assert room_tcm(room) == [0.0, 0.0]


def test_tcm_of_the_pixels_with_truth_is_that_of_the_map(room) -> None:
    """Pixels as one row are the map without what is not known."""
    target, neighbour, camera = room[4], room[8], camera_of(room[4])
    known = np.random.default_rng(0).random(target.depth.shape) < 0.1
    truth = torch.from_numpy(np.where(known, target.depth, np.float32(np.nan)))
    there, step = depth_of(neighbour), motion_between(target, neighbour)
    prediction = 1.1 * depth_of(target)
    motion = true_motion(truth, there, step, camera)
    (expected,) = tcm_errors(truth, [motion], prediction, [there], camera)
    row, some = truth[known][None], camera.at(known)
    motion = true_motion(row, there, step, some)
    assert motion.seen.shape == (1, known.sum())
    assert tcm_errors(row, [motion], prediction[known][None], [there], some) == [expected]
    assert expected.absolute > 0.1


@pytest.mark.parametrize('factor', [0.13, 3.7, 100.0])
def test_tcm_does_not_depend_on_the_scale_of_all_predictions(room, factor) -> None:
    flicker = np.array([1.0, 1.1, 0.95])
    expected = room_tcm(room, tuple(flicker))
    assert room_tcm(room, tuple(factor * flicker)) == pytest.approx(expected, rel=1e-5)


def test_tcm_grows_when_one_frame_alone_is_rescaled(room) -> None:
    earlier = [room_tcm(room, (1.0, factor, 1.0)) for factor in (1.0, 1.02, 1.1, 1.2)]
    assert [pair[1] for pair in earlier] == [0.0] * 4  # the later one is not touched
    values = [pair[0] for pair in earlier]
    assert values == sorted(values)
    # 10 % of a depth of some 4 m, along rays somewhat longer than that
    assert values[2] == pytest.approx(0.4, abs=0.15)
    assert min(room_tcm(room, (1.1, 1.0, 1.0))) > 0.2


def test_the_true_motion_finds_the_same_surfaces_again(room) -> None:
    target, source = room[4], room[0]
    motion = true_motion(
        depth_of(target), depth_of(source), motion_between(target, source), camera_of(target)
    )
    assert motion.seen.float().mean() > 0.9
    track = motion.track[motion.seen]
    assert track.nanmedian() < 0.003
    assert (track < 0.02).float().mean() > 0.9


def test_usual_mistakes_lose_the_surfaces(synthetic_pair, wrong) -> None:
    def track(K: Tensor, source_T_target: Tensor) -> float:
        camera = Camera.build(K[0].double().numpy(), synthetic_pair.target_depth.shape[-2:])
        depths = synthetic_pair.target_depth[0, 0], synthetic_pair.source_depth[0, 0]
        motion = true_motion(*depths, source_T_target[0], camera)
        return float(motion.track[motion.seen].nanmedian())

    right = track(synthetic_pair.K, synthetic_pair.source_T_target)
    assert not track(*wrong(synthetic_pair)) < 5 * right


# TAE


def test_tae_of_a_wall_approached_is_the_one_worked_out_by_hand() -> None:
    _, camera = pinhole(1, 5, 2.0, cx=2.0)
    five, four = wall(*[5.0] * 5), wall(*[4.0] * 5)
    assert temporal_alignment_error(five, four, moved(z=1.0), camera) == pytest.approx(0, abs=1e-6)
    # 4.4 m in place of 4: 4 m carried there against it, and 5.4 m carried back against 5 m
    error = temporal_alignment_error(five, 1.1 * four, moved(z=1.0), camera)
    assert error == pytest.approx((0.4 / 4.4 + 0.4 / 5) / 2, rel=1e-5)


@pytest.mark.parametrize('side', [1, -1])
def test_tae_sees_the_nearest_of_two_points_on_one_pixel(side) -> None:
    # f 1, camera goes by 4 m: what is 4 m away moves by one pixel, what is 2 m away by two. Both
    # meet on pixel 2, where b sees the nearer. On both sides, whatever the order of the pixels.
    _, camera = pinhole(1, 5, 1.0)
    nan = math.nan
    a = wall(nan, nan, nan, 4.0, 2.0) if side > 0 else wall(2.0, 4.0, nan, nan, nan)
    b = wall(nan, nan, 2.0, nan, nan)
    assert temporal_alignment_error(a, b, moved(x=4.0 * side), camera) == 0


def test_tae_of_frames_with_nothing_in_common_is_not_a_number() -> None:
    depth = wall(1.0, 1.0, 1.0, 1.0, 1.0)
    assert math.isnan(temporal_alignment_error(depth, depth, moved(x=1e9), tele()))


def room_tae(room: list[SyntheticView], step: int, motion: Tensor, flicker: float = 1.0) -> float:
    a, b = room[0], room[step]
    return temporal_alignment_error(depth_of(a), flicker * depth_of(b), motion, camera_of(a))


def test_tae_of_the_truth_is_small_and_grows_with_flicker(room) -> None:
    motion = motion_between(room[0], room[1])
    values = [room_tae(room, 1, motion, flicker) for flicker in (1.0, 1.02, 1.05, 1.2)]
    print(f'TAE of the truth, 3 cm apart: {values[0]:.5f}')
    assert values[0] < 0.005  # what remains is the rounding to pixels, and edges
    assert values == sorted(values)
    assert values[2] == pytest.approx(0.05, abs=0.005)


def test_tae_notices_a_motion_of_the_wrong_sign(room) -> None:
    motion = motion_between(room[0], room[8])
    right, backward = (room_tae(room, 8, m) for m in (motion, torch.linalg.inv(motion)))
    print(f'TAE of the truth, 24 cm apart: {right:.5f}; of the wrong sign {backward:.5f}')
    assert right < 0.03
    assert backward > 3 * right


# OPW


def texture(width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).uniform(0, 255, (64, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, None, 2)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), dtype=np.uint8)


def test_flow_leads_from_the_first_image_to_the_second() -> None:
    wide = texture(120)
    flow = optical_flow(wide[:, 10:106], wide[:, 7:103])  # what is at u is at u + 3 in the second
    v, u = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing='ij')
    trusted = flow.trusted
    assert trusted.float().mean() > 0.9
    assert not trusted[:, -3:].any()  # these have left the second image
    assert (flow.pixels[0, 0] - u - 3)[trusted].abs().mean() < 0.2
    assert (flow.pixels[0, 1] - v)[trusted].abs().mean() < 0.2


def test_flow_between_images_of_other_things_is_not_trusted() -> None:
    wide = texture(200)
    assert optical_flow(wide[:, :96], wide[:, 104:]).trusted.float().mean() < 0.3


def test_opw_is_the_one_worked_out_by_hand() -> None:
    # Every pixel goes one to the right, where b is 10 % farther; the last leaves the image
    a, b = wall(1.0, 2.0, 3.0, 4.0), wall(9.0, 1.1, 2.2, 3.3)
    pixels = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    flow = Flow(pixels, torch.tensor([[True, True, True, False]]))
    assert flow_warp_error(a, b, flow) == pytest.approx(0.1, rel=1e-5)
    assert math.isnan(flow_warp_error(a, b, flow._replace(trusted=flow.trusted & False)))


def test_opw_of_the_truth_is_small_and_grows_with_flicker(room) -> None:
    a, b = room[0], room[1]
    flow = optical_flow(a.image, b.image)
    values = [
        flow_warp_error(depth_of(a), factor * depth_of(b), flow) for factor in (1, 1.02, 1.05, 1.2)
    ]
    backward = flow_warp_error(depth_of(a), depth_of(b), optical_flow(b.image, a.image))
    print(f'OPW of the truth, 3 cm apart: {values[0]:.5f}; against the flow {backward:.5f}')
    assert flow.trusted.float().mean() > 0.9
    assert values[0] < 0.015  # the walk changes depth by up to 3 cm of 4 m; and edges
    assert values == sorted(values)
    assert backward > 2.5 * values[0]


def test_gaps_take_the_nearest_depth_within_reach() -> None:
    sparse = np.full((1, 9), np.nan, np.float32)
    sparse[0, 1], sparse[0, 8] = 2.0, 7.0
    filled = fill_gaps(sparse, 2.0)[0]
    nan = math.nan
    np.testing.assert_array_equal(filled, np.float32([2, 2, 2, 2, nan, nan, 7, 7, 7]))
    np.testing.assert_array_equal(fill_gaps(sparse, 0.0), sparse)
    assert np.isnan(fill_gaps(np.full((2, 2), np.nan, np.float32), 3.0)).all()


# Trajectories


def poses_at(
    positions: object, rotation: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    points = np.asarray(positions, dtype=np.float64)
    poses = np.tile(np.eye(4), (len(points), 1, 1))
    poses[:, :3, 3] = points
    if rotation is not None:
        poses[:, :3, :3] = rotation
    return poses


def walk(frames: int = 12, seed: int = 0) -> NDArray[np.float64]:
    """World_T_camera of an unsteady walk, with rotations."""
    rng, poses = np.random.default_rng(seed), [np.eye(4)]
    for _ in range(frames - 1):
        step = np.eye(4)
        step[:3, :3] = cv2.Rodrigues(rng.normal(0, 0.2, 3))[0]
        step[:3, 3] = rng.normal([0, 0, 1], 0.3)
        poses.append(poses[-1] @ step)
    return np.stack(poses)


ROTATION = np.asarray(cv2.Rodrigues(np.array([0.3, -0.5, 0.9]))[0])
LINE = [[k, 0, 0] for k in range(5)]
BENT = [*LINE[:4], [4, 1, 0]]


def test_the_error_over_five_frames_is_the_one_worked_out_by_hand() -> None:
    # true . predicted = 30, predicted . predicted = 31: scale 30/31. What remains is k/31 along
    # the line, together 30/961, and 30/31 across it: 930/961 = 30/31. Published is its root over 5
    error = snippet_errors(poses_at(LINE), poses_at(BENT))
    assert error == pytest.approx((math.sqrt(30 / 31) / 5, 0), abs=1e-12)


def test_snippets_start_at_their_first_pose_and_are_averaged() -> None:
    truth, prediction = walk(seed=0)[:6], walk(seed=1)[:6]
    parts = [snippet_errors(truth[i : i + 5], prediction[i : i + 5]).mean for i in (0, 1)]
    both = snippet_errors(truth, prediction)
    assert both.mean == pytest.approx(sum(parts) / 2)
    assert both.std == pytest.approx(abs(parts[0] - parts[1]) / 2)
    assert min(parts) > 0.01
    elsewhere = np.eye(4)
    elsewhere[:3, :3], elsewhere[:3, 3] = ROTATION, [50, -7, 3]
    assert snippet_errors(elsewhere @ truth, prediction) == pytest.approx(both)


def test_a_trajectory_has_no_error_to_itself_nor_to_its_own_scale() -> None:
    truth = walk()
    assert snippet_errors(truth, truth).mean == pytest.approx(0, abs=1e-12)
    assert trajectory_rmse(truth, truth) == pytest.approx(0, abs=1e-12)
    similar = truth.copy()
    similar[:, :3, 3] *= 0.37
    assert snippet_errors(truth, similar).mean == pytest.approx(0, abs=1e-12)
    elsewhere = np.eye(4)
    elsewhere[:3, :3], elsewhere[:3, 3] = ROTATION, [50, -7, 3]
    assert trajectory_rmse(truth, elsewhere @ similar) == pytest.approx(0, abs=1e-12)


def test_the_rmse_after_alignment_is_the_one_worked_out_by_hand() -> None:
    # A square whose corners are predicted 1 m above and below it in turns. No turn helps; the
    # best scale is 8 / (8 + 4) = 2/3. Squares: 8 (1/3)^2 in the plane, 4 (2/3)^2 across, over 4
    square = [[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]]
    warped = [[x, y, 1 if x == y else -1] for x, y, _ in square]
    found = trajectory_rmse(poses_at(square), poses_at(warped, ROTATION))
    assert found == pytest.approx(math.sqrt(2 / 3))


def test_a_mirrored_trajectory_is_not_brought_back_by_a_reflection() -> None:
    truth = walk()
    mirrored = truth.copy()
    mirrored[:, 0, 3] *= -1
    assert trajectory_rmse(truth, mirrored) > 0.1


def test_unknown_poses_are_skipped() -> None:
    truth, prediction = walk(12), walk(12, seed=1)
    truth[5] = np.nan
    assert snippet_errors(truth, prediction).mean == pytest.approx(
        (
            snippet_errors(truth[:5], prediction[:5]).mean
            + 2 * snippet_errors(truth[6:], prediction[6:]).mean
        )
        / 3
    )
    kept = np.arange(12) != 5
    assert trajectory_rmse(truth, prediction) == pytest.approx(
        trajectory_rmse(truth[kept], prediction[kept])
    )
    truth[4:8] = np.nan
    assert snippet_errors(truth, prediction) is None
    truth[2:] = np.nan
    assert trajectory_rmse(truth, prediction) is None


def test_a_camera_that_stands_still_has_the_error_of_the_way_not_seen() -> None:
    stands = poses_at([[2, 2, 2]] * 5)
    assert snippet_errors(stands, stands) == (0, 0)
    assert trajectory_rmse(stands, stands) == 0
    assert snippet_errors(poses_at(LINE), stands).mean == pytest.approx(math.sqrt(30) / 5)
    assert trajectory_rmse(poses_at(LINE), stands) == pytest.approx(math.sqrt(2))
    assert snippet_errors(stands, poses_at(LINE)).mean == 0  # scaled away, as published


# Answers that look at no image


def answers(
    *truths: NDArray[np.float64], shape: tuple[int, int] = (4, 6), cell: int = 1
) -> TrivialAnswers:
    return fit_trivial_answers(lambda: truths, shape, cell)


def test_the_constant_is_that_of_the_least_abs_rel() -> None:
    # |c - t| / t weighs 1, 2 and 4 m by 1, 1/2 and 1/4: their weighted median is 1, and not 2
    truth = np.array([[1.0, 2.0, 4.0, np.nan]])
    constant = answers(truth, shape=(1, 4)).constant
    assert np.unique(constant) == pytest.approx([1.0], rel=1e-3)
    # Farther and a little farther: 3 and 4 m weigh 1/3 and 1/4, together more than 2 m alone
    truth = np.array([[2.0, 3.0, 4.0, np.nan]])
    assert np.unique(answers(truth, shape=(1, 4)).constant) == pytest.approx([3.0], rel=1e-3)


def test_no_other_factor_of_an_answer_errs_less() -> None:
    rng = np.random.default_rng(0)
    truths = rng.uniform(0.5, 30, (5, 20, 30))
    found = answers(*truths, shape=(20, 30))
    for answer in (found.constant, found.plane, found.pixel_mean):
        errors = [(np.abs(f * answer - truths) / truths).mean() for f in (0.98, 1, 1.02)]
        assert errors[1] < min(errors[0], errors[2])


def test_a_plane_in_inverse_depth_is_recovered() -> None:
    v, u = np.mgrid[:20, :30]
    truth = 1 / (0.1 + 0.004 * u + 0.011 * v)
    seen = truth.copy()
    seen[::3] = np.nan
    np.testing.assert_allclose(answers(seen, shape=(20, 30)).plane, truth, rtol=1e-3)


def test_a_plane_beyond_infinity_stays_finite() -> None:
    v, _ = np.mgrid[:20, :30]
    inverse = 0.02 * (v - 10.0)
    truth = np.where(inverse > 0, 1 / np.where(inverse > 0, inverse, 1), np.nan)
    plane = answers(truth, shape=(20, 30)).plane
    assert np.isfinite(plane).all() and (plane > 0).all()


def test_the_pixel_mean_is_the_mean_inverse_depth_in_its_best_size() -> None:
    # 2 m and 4 m: mean inverse 3/8, so 8/3 m. Of the factors 3/4 and 3/2, weighing 4/3 and 2/3,
    # the former is best: 2 m. Where nothing was ever seen there is no answer.
    two, four = np.full((4, 6), 2.0), np.full((4, 6), 4.0)
    two[0, 0] = four[0, 0] = np.nan
    mean = answers(two, four).pixel_mean
    assert np.isnan(mean[0, 0])
    np.testing.assert_allclose(mean[~np.isnan(mean)], 2.0, rtol=1e-3)


def test_sparse_truth_is_averaged_over_cells() -> None:
    truth = np.full((4, 6), np.nan)
    truth[1, 0], truth[0, 5] = 2.0, 8.0
    mean = answers(truth, cell=4).pixel_mean
    # Cells of 4 x 4 from the top left, so the second is cut short by the edge
    np.testing.assert_allclose(mean[:, :4], 2.0, rtol=1e-3)
    np.testing.assert_allclose(mean[:, 4:], 8.0, rtol=1e-3)
