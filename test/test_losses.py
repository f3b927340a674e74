"""Every loss worked out by hand, and all of them together on a scene whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ViewPair, batch_of, one_by_one, recording_of_views, tensor_of
from torch import Tensor, nn

from tc_depth_ros.geometry.depth import disparity_from_depth, inverse_depth_from_disparity
from tc_depth_ros.network.config import SMALL
from tc_depth_ros.network.output import DepthOutput
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.losses.consistency import coarse_loss, geometric_loss
from tc_depth_training.losses.masks import auto_mask, cycle_error, cycle_mask
from tc_depth_training.losses.motion import motion_loss, static_mask
from tc_depth_training.losses.objective import Objective, ObjectiveConfig, objective
from tc_depth_training.losses.photometric import photometric_error, reprojection_loss, ssim
from tc_depth_training.losses.rebuilding import SourceView
from tc_depth_training.losses.smoothness import smoothness_loss
from tc_depth_training.step import TrainingModel
from tc_depth_training.synthetic import SyntheticView

C1, C2 = 1e-4, 9e-4
DEPTH_RANGE = (0.1, 100.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def grey(value: float, *size: int) -> Tensor:
    return torch.full((1, 3, *size), value, dtype=torch.float64)


def a_map(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


IMAGES = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1)
DISPARITY = 0.1 + noise(2, 1, 4, 5, seed=2)
MAPS = {'ssim': (ssim, IMAGES), 'photometric_error': (photometric_error, IMAGES)}
SCALARS = {
    'reprojection_loss': (lambda a: reprojection_loss(a, (a > 0.4).double()), (DISPARITY,)),
    'smoothness_loss': (smoothness_loss, (DISPARITY, IMAGES[0])),
    'geometric_loss': (
        lambda a, b: geometric_loss([a, b], [a, b], a, torch.tensor(40.0)),
        (DISPARITY, DISPARITY + 1),
    ),
}


@pytest.mark.parametrize(
    ('loss', 'inputs'), [*MAPS.values(), *SCALARS.values()], ids=[*MAPS, *SCALARS]
)
def test_gradients_are_those_of_finite_differences(loss, inputs) -> None:
    assert torch.autograd.gradcheck(loss, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize(('loss', 'inputs'), MAPS.values(), ids=MAPS)
def test_a_batch_is_its_members_one_by_one(loss, inputs) -> None:
    torch.testing.assert_close(loss(*inputs), one_by_one(loss, *inputs))


def test_maps_keep_the_size_of_the_image_and_scalars_have_none() -> None:
    assert ssim(*IMAGES).shape == (2, 3, 4, 5)
    assert photometric_error(*IMAGES).shape == (2, 1, 4, 5)
    assert all(loss(*inputs).shape == () for loss, inputs in SCALARS.values())


# How much images differ


def test_equal_images_are_wholly_similar() -> None:
    torch.testing.assert_close(ssim(IMAGES[0], IMAGES[0]), torch.ones(2, 3, 4, 5).double())
    assert not photometric_error(IMAGES[0], IMAGES[0]).any()


def test_constant_images_differ_by_luminance_alone() -> None:
    similarity = (2 * 0.2 * 0.6 + C1) / (0.2**2 + 0.6**2 + C1)
    torch.testing.assert_close(ssim(grey(0.2, 4, 5), grey(0.6, 4, 5)), grey(similarity, 4, 5))
    error = photometric_error(grey(0.2, 4, 5), grey(0.6, 4, 5))
    expected = 0.85 * (1 - similarity) / 2 + 0.15 * 0.4
    torch.testing.assert_close(error, grey(expected, 4, 5)[:, :1])


@pytest.mark.parametrize(('row', 'column', 'times'), [(2, 2, 1), (0, 0, 4), (0, 1, 2), (3, 3, 1)])
def test_a_white_pixel_on_black_by_hand(row, column, times) -> None:
    """The reflected border shows the pixel at (1, 1) several times to its neighbours outside."""
    image = grey(0.0, 5, 5)
    image[..., 1, 1] = 1
    mean = times / 9 if row < 3 else 0.0
    luminance = C1 / (mean**2 + C1)
    structure = C2 / (mean - mean**2 + C2)
    similarity = ssim(image, grey(0.0, 5, 5))[0, 0, row, column]
    assert similarity.item() == pytest.approx(luminance * structure, rel=1e-9)


def test_a_chessboard_and_its_negative_are_as_unlike_as_can_be() -> None:
    board = ((torch.arange(6)[:, None] + torch.arange(6)) % 2).double().expand(1, 3, 6, 6)
    error = photometric_error(board, 1 - board)
    assert error.min() > 0.9
    assert error.max() <= 1


def test_the_error_is_the_mean_of_the_colours() -> None:
    red_differs = grey(0.2, 4, 5)
    red_differs[:, 0] = 0.6
    one, three = (photometric_error(x, grey(0.2, 4, 5)) for x in (red_differs, grey(0.6, 4, 5)))
    torch.testing.assert_close(3 * one, three)


def test_the_reprojection_loss_is_the_mean_of_the_pixels_kept() -> None:
    loss = reprojection_loss(a_map([0.1, 0.2, 0.9, 0.9]), a_map([1, 1, 0, 0]))
    assert loss.item() == pytest.approx(0.15)
    assert reprojection_loss(a_map([0.1, 0.2]), a_map([0, 0])) == 0  # and not NaN


# Which pixels are used


def test_the_auto_mask_uses_the_pixels_that_warping_improves() -> None:
    error = a_map([0.1, 0.3, 0.2]).requires_grad_()
    used = auto_mask(error, a_map([0.2, 0.2, 0.2]))
    assert used.tolist() == [[[[1, 0, 0]]]]
    assert not used.requires_grad


def test_the_cycle_mask_keeps_the_best_seventy_per_cent_of_every_image() -> None:
    errors = torch.cat([noise(1, 1, 10, 20), 10 + noise(1, 1, 10, 20, seed=1)])
    kept = cycle_mask(errors) > 0
    assert kept.flatten(1).sum(dim=1).tolist() == [140, 140]
    for error, mask in zip(errors, kept, strict=True):
        assert error[mask].max() < error[~mask].min()


def test_over_the_batch_a_bad_image_loses_more() -> None:
    errors = torch.cat([noise(1, 1, 10, 20), 10 + noise(1, 1, 10, 20, seed=1)])
    kept = cycle_mask(errors, per_image=False)
    assert kept.flatten(1).sum(dim=1).tolist() == [200, 80]


@pytest.mark.parametrize(('share', 'count'), [(1.0, 10), (0.5, 5), (0.01, 1)])
def test_the_share_that_the_cycle_mask_keeps_can_be_chosen(share, count) -> None:
    assert cycle_mask(noise(1, 1, 2, 5), kept=share).sum() == count


@pytest.mark.parametrize('per_image', [True, False])
def test_the_cycle_mask_ranks_the_usable_pixels_among_themselves(per_image) -> None:
    errors, usable = noise(2, 1, 10, 20), torch.ones(2, 1, 10, 20).double()
    usable[..., :10] = 0
    usable[1] = 0
    errors = torch.where(usable > 0, errors, 0.0)  # black on black
    kept = cycle_mask(errors, per_image=per_image, usable=usable)
    assert kept.flatten(1).sum(dim=1).tolist() == [70, 0]
    assert errors[kept > 0].max() < errors[(kept == 0) & (usable > 0)].min()


def cycle_of_a_wall(source_depth: float) -> Tensor:
    """Cycle error by column; the wall is at 2 m, the source one pixel to the right."""
    K = torch.tensor([[[4.0, 0, 4], [0, 4, 2], [0, 0, 1]]], dtype=torch.float64)
    source_T_target, target_T_source = torch.eye(4).double()[None], torch.eye(4).double()[None]
    source_T_target[0, 0, 3], target_T_source[0, 0, 3] = -0.5, 0.5
    target = noise(1, 3, 5, 9).requires_grad_()
    target_depth, own = (grey(z, 5, 9)[:, :1] for z in (2.0, source_depth))
    error = cycle_error(target, target_depth, own, K, source_T_target, target_T_source)
    assert not error.requires_grad
    return error.mean(dim=(0, 1, 2))


def test_a_cycle_returns_what_both_see_and_nothing_of_what_the_source_misses() -> None:
    columns = cycle_of_a_wall(2.0)
    torch.testing.assert_close(columns[2:], torch.zeros(7).double())
    assert columns[0] > 0.3


def test_a_cycle_goes_out_by_the_sources_own_depth() -> None:
    assert cycle_of_a_wall(4.0)[2:].min() > 0.05


def test_a_cycle_through_true_depth_returns_the_image(synthetic_pair: ViewPair) -> None:
    p = synthetic_pair
    forth, back = p.source_T_target, p.source_T_target.inverse()
    depths = p.target_depth, p.source_depth
    error = cycle_error(p.target, *depths, p.K, forth, back)[p.visible]
    assert error.median() < 0.01
    wrong = cycle_error(p.target, p.target_depth, 1.3 * p.source_depth, p.K, forth, back)
    assert wrong[p.visible].median() > 10 * error.median()


# Student against teacher


def test_static_is_where_student_and_teacher_differ_by_less_than_a_factor_of_1_6() -> None:
    student, teacher = a_map([1.59, 1.61, 1.0, 1.0, 2.0]), a_map([1.0, 1.0, 1.59, 1.61, 2.0])
    assert static_mask(student, teacher).flatten().tolist() == [1, 0, 1, 0, 1]
    assert static_mask(student, teacher, threshold=1.0).all()
    # The two conditions of SPEC 2(d), as they stand there
    random, other = 0.5 + 4 * noise(1, 1, 30, 30), 0.5 + 4 * noise(1, 1, 30, 30, seed=3)
    both = ((random - other) / other < 0.6) & ((other - random) / random < 0.6)
    assert torch.equal(static_mask(random, other), both.double())


def test_the_motion_loss_by_hand() -> None:
    # Not static: the second, |1/4 - 1/2| = 0.25, and the fourth, |1/1 - 1/2| = 0.5; of four pixels
    student, teacher = a_map([2.0, 4.0, 3.0, 1.0]), a_map([2.0, 2.0, 2.0, 2.0])
    static = static_mask(student, teacher)
    assert static.flatten().tolist() == [1, 0, 1, 0]
    assert motion_loss(student, teacher, static).item() == pytest.approx((0.25 + 0.5) / 4)


def test_the_student_learns_from_the_teacher_and_not_the_reverse() -> None:
    student, teacher = a_map([4.0, 2.0]).requires_grad_(), a_map([2.0, 2.0]).requires_grad_()
    motion_loss(student, teacher, static_mask(student, teacher)).backward()
    # d|1/D - 1/Dt| / dD = 1/D^2 where D > Dt, over two pixels
    assert student.grad is not None and teacher.grad is None
    assert student.grad.flatten().tolist() == pytest.approx([1 / 16 / 2, 0])


# Depth against depth, disparity against image


def test_the_geometric_loss_divides_by_all_pixels_and_by_the_sources() -> None:
    differences = a_map([0.2, 0.4, 0.6, 0.8]), a_map([0.1, 0.1, 0.1, 0.1])
    masks = a_map([1, 1, 0, 1]), a_map([0, 1, 1, 1])
    # Columns: 0.2, 0.4 + 0.1, 0.1; the last is masked. Two sources, four pixels.
    loss = geometric_loss(differences, masks, a_map([1, 1, 1, 0]), torch.tensor(4))
    assert loss.item() == pytest.approx((0.2 + 0.5 + 0.1) / 2 / 4)


def test_constant_disparity_is_smooth() -> None:
    assert smoothness_loss(grey(0.3, 4, 5)[:, :1], noise(1, 3, 4, 5)) == 0


@pytest.mark.parametrize('transposed', [False, True])
def test_a_step_of_disparity_costs_less_where_the_image_has_an_edge(transposed) -> None:
    disparity = a_map([1, 3], [1, 3])  # over its mean: 0.5 to 1.5
    edge = grey(0.0, 2, 2)
    edge[:, 0, :, 1] = 0.6  # the mean of the colours is 0.2
    if transposed:
        disparity, edge = disparity.mT, edge.mT
    assert smoothness_loss(disparity, grey(0.0, 2, 2)).item() == pytest.approx(1)
    assert smoothness_loss(disparity, edge).item() == pytest.approx(exp(-0.2))


def test_smoothness_does_not_ask_for_small_disparity() -> None:
    image, scale = IMAGES[0], torch.tensor([0.1, 7.0]).double().view(2, 1, 1, 1)
    scaled = smoothness_loss(scale * DISPARITY, image)
    torch.testing.assert_close(scaled, smoothness_loss(DISPARITY, image), rtol=1e-5, atol=0)


def test_the_coarse_guess_is_compared_at_full_size() -> None:
    # Centres at integers: the quarters of the way between two cells, not their ends
    upsampled = a_map([0.0, 0.25, 0.75, 1], [0.0, 0.25, 0.75, 1])
    assert coarse_loss(a_map([0.0, 1]), upsampled) == 0
    assert coarse_loss(a_map([0.0, 1]), upsampled + 0.3).item() == pytest.approx(0.3)


def test_the_coarse_guess_learns_from_the_final_one_and_not_the_reverse() -> None:
    coarse, final = a_map([0.5]).requires_grad_(), a_map([0.8, 0.4]).requires_grad_()
    coarse_loss(coarse, final + 1).backward()
    assert coarse.grad.item() == -1
    assert final.grad is None


def test_the_coarse_guess_leaves_the_encoder_alone() -> None:
    torch.manual_seed(0)
    network = TCDepth(SMALL)
    K = torch.tensor([[[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]])
    output = network(torch.rand(1, 3, 3, 32, 48), K)
    finest = inverse_depth_from_disparity(output.disparities[0].flatten(0, 1), *DEPTH_RANGE)
    coarse_loss(output.coarse_inverse_depth.flatten(0, 1), finest).backward()
    reached = {
        name for name, x in network.named_parameters() if x.grad is not None and x.grad.any()
    }
    assert reached
    assert all(name.startswith('coarse_depth.') for name in reached)


# The whole


class Room:
    """Three views of the synthetic room as a window, for which outputs can be made up."""

    def __init__(self, views: list[SyntheticView]) -> None:
        self.world_T_camera = np.stack([view.world_T_camera for view in views])
        self.batch = batch_of(recording_of_views(views), (0, 1, 2))
        self.images, self.K = self.batch.images, self.batch.K
        self.depth = torch.stack([tensor_of(view.depth)[0] for view in views])[None]

    def output(self, depth: Tensor) -> DepthOutput:
        """What a network that believes in this depth (1, F, 1, H, W) answers."""
        full = disparity_from_depth(depth[0], *DEPTH_RANGE)
        scales = [F.interpolate(full, scale_factor=0.5**s, mode='area') for s in range(4)]
        coarse = inverse_depth_from_disparity(scales[3], *DEPTH_RANGE)
        return DepthOutput(tuple(x[None].requires_grad_() for x in scales), coarse[None])

    def sources(self, target: int) -> list[SourceView]:
        others = [index for index in range(3) if index != target]
        return [SourceView(self.images[:, s], s, self.pose(target, s)) for s in others]

    def pose(self, target: int, source: int) -> Tensor:
        """source_T_target."""
        return tensor_of(np.linalg.inv(self.world_T_camera[source]) @ self.world_T_camera[target])[
            0
        ]

    def loss(
        self,
        output: DepthOutput,
        target: int = 1,
        config: ObjectiveConfig | None = None,
        teacher_depth: Tensor | None = None,
    ) -> Objective:
        return objective(
            output,
            self.images[:, target],
            target,
            self.sources(target),
            self.K,
            DEPTH_RANGE,
            config or ObjectiveConfig(),
            teacher_depth,
        )


@pytest.fixture(scope='module')
def room(synthetic_views: list[SyntheticView]) -> Room:
    return Room(synthetic_views[::4])


@pytest.mark.parametrize('target', [0, 1, 2])
@pytest.mark.parametrize('factor', [0.8, 1.2])
def test_true_depth_costs_next_to_nothing_and_any_other_more(room, target, factor) -> None:
    # Measured: photometric 0.012 to 0.022, geometric 0.002; the least rise is 2.3-fold
    truth = room.loss(room.output(room.depth), target)
    false = room.loss(room.output(factor * room.depth), target)
    assert truth.photometric < 0.03
    assert truth.geometric < 0.003
    assert truth.auto_mask_share > 0.9
    assert false.photometric > 2 * truth.photometric
    assert false.geometric > 2 * truth.geometric
    assert false.total > 2 * truth.total


def test_the_total_is_the_weighted_sum_of_finite_terms(room) -> None:
    config = ObjectiveConfig(geometric_weight=0.7, smoothness_weight=0.3)
    loss = room.loss(room.output(room.depth), config=config)
    terms = {name: float(value.detach()) for name, value in loss.values().items()}
    assert np.isfinite(list(terms.values())).all()
    assert terms['total'] == pytest.approx(
        terms['photometric']
        + 0.7 * terms['geometric']
        + 0.3 * terms['smoothness']
        + terms['coarse']
        + terms['motion'],
        rel=1e-5,
    )


def test_the_papers_total(room) -> None:
    """(1/4) sum_s [L_p + L_m + 0.1 L_geo + (1e-3 / 2^s) L_sm] + L_ref, scale by scale."""
    output, teacher = room.output(1.1 * room.depth), 2 * room.depth[:, 1]
    whole = room.loss(output, teacher_depth=teacher)
    each = [
        room.loss(output, config=ObjectiveConfig(scales=(s,)), teacher_depth=teacher)
        for s in range(4)
    ]
    # A loss of one scale already halves its smoothness s times
    expected = sum(
        e.photometric + e.motion + 0.1 * e.geometric + 1e-3 * e.smoothness for e in each
    )
    torch.testing.assert_close(whole.total, expected / 4 + whole.coarse)


def test_a_teacher_that_agrees_changes_nothing(room) -> None:
    # Coarser scales blur the edges of things, and differ from any teacher there
    output, finest = room.output(room.depth), ObjectiveConfig(scales=(0,))
    alone, taught = (room.loss(output, 1, finest, t) for t in (None, room.depth[:, 1]))
    assert alone.motion == taught.motion == 0
    assert taught.static_share == 1
    torch.testing.assert_close(alone.total, taught.total, rtol=0, atol=0)


def test_what_moves_is_pulled_to_the_teacher_and_not_compared_with_other_views(room) -> None:
    # The left half is seen twice as far as by the teacher
    student = room.depth.clone()
    student[..., :160] *= 2
    output, teacher = room.output(student), room.depth[:, 1]
    alone, taught = (room.loss(output, teacher_depth=t) for t in (None, teacher))
    assert taught.static_share == pytest.approx(0.5, abs=0.01)
    assert 0 < taught.geometric < 0.5 * alone.geometric
    # |1/2d - 1/d| = 1/2d on half of the pixels; coarser scales blur the border between the halves
    expected = (0.5 / room.depth[:, 1, :, :, :160]).mean() / 2
    torch.testing.assert_close(taught.motion, expected, rtol=0.05, atol=0)
    assert taught.photometric == alone.photometric


def test_scales_are_averaged(room) -> None:
    output = room.output(1.1 * room.depth)
    both, *each = (
        room.loss(output, config=ObjectiveConfig(scales=scales)) for scales in [(0, 2), (0,), (2,)]
    )
    for name in ('photometric', 'geometric', 'smoothness'):
        torch.testing.assert_close(
            getattr(both, name), (getattr(each[0], name) + getattr(each[1], name)) / 2
        )
    assert each[0].photometric != each[1].photometric


def test_smoothness_halves_with_every_scale(room) -> None:
    output = room.output(room.depth)
    image = F.interpolate(room.images[:, 1], output.disparities[2].shape[-2:], mode='area')
    expected = smoothness_loss(output.disparities[2][:, 1], image) / 4
    loss = room.loss(output, config=ObjectiveConfig(scales=(2,)))
    torch.testing.assert_close(loss.smoothness, expected)


def test_a_pixel_needs_only_one_source_that_shows_it(room) -> None:
    output = room.output(room.depth)
    good, bad = room.sources(1)
    bad = replace(bad, image=torch.rand_like(bad.image))
    loss = objective(
        output, room.images[:, 1], 1, [good, bad], room.K, DEPTH_RANGE, ObjectiveConfig()
    )
    assert loss.photometric < 0.03


def test_a_camera_that_stands_still_teaches_nothing_of_depth(room) -> None:
    still = [replace(source, image=room.images[:, 1]) for source in room.sources(1)]
    output = room.output(room.depth)
    loss = objective(output, room.images[:, 1], 1, still, room.K, DEPTH_RANGE, ObjectiveConfig())
    assert loss.auto_mask_share < 0.01
    assert loss.photometric < 1e-4
    assert loss.geometric < 1e-4


def test_the_cycle_mask_limits_the_geometric_term_alone(room) -> None:
    output = room.output(1.2 * room.depth)
    some, all_of_them = (
        room.loss(output, config=ObjectiveConfig(cycle_kept=share)) for share in (0.3, 1.0)
    )
    assert some.geometric < 0.5 * all_of_them.geometric
    assert some.photometric == all_of_them.photometric


def test_depth_out_of_the_sources_view_is_not_compared(room) -> None:
    """A target further right by half the room sees what its source cannot."""
    output = room.output(room.depth)
    aside = torch.eye(4)[None]
    aside[0, 0, 3] = -100.0
    source = SourceView(room.images[:, 0], 0, aside)
    config = ObjectiveConfig(cycle_kept=1.0)
    loss = objective(output, room.images[:, 1], 1, [source], room.K, DEPTH_RANGE, config)
    assert loss.geometric == 0


def test_gradients_reach_the_depth_of_the_target_and_of_its_sources(room) -> None:
    output = room.output(room.depth)
    room.loss(output).total.backward()
    for disparity in output.disparities:
        assert (disparity.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()


def test_the_sources_learn_from_the_geometric_term_alone(room) -> None:
    output = room.output(room.depth)
    room.loss(output, config=ObjectiveConfig(geometric_weight=0)).total.backward()
    reached = output.disparities[0].grad.abs().sum(dim=(0, 2, 3, 4)) > 0
    assert reached.tolist() == [False, True, False]


class Oracle(nn.Module):
    """A network that knows the depth."""

    config = SMALL
    decoder = SimpleNamespace(disparity=())

    def __init__(self, output: DepthOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor, K: Tensor) -> DepthOutput:
        return self.output


@pytest.mark.parametrize('target', [0, 1, 2])
def test_a_training_step_takes_the_recorded_poses_the_right_way_round(room, target) -> None:
    model = TrainingModel(Oracle(room.output(room.depth)), None, ObjectiveConfig(), 'odometry')
    step = model(room.batch, room.images, target, single_frame=False)
    expected = room.loss(room.output(room.depth), target)
    for name, value in expected.values().items():
        torch.testing.assert_close(getattr(step, name), value, rtol=0.02, atol=1e-4)
