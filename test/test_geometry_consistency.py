"""How far the depths of two views agree."""

from __future__ import annotations

import pytest
import torch
from conftest import ViewPair, one_by_one
from torch import Tensor

from tc_depth_ros.geometry.consistency import depth_agreement, relative_difference
from tc_depth_ros.geometry.transform import transform_from_axis_angle

K = torch.tensor([[[4.0, 0, 3], [0, 4, 2], [0, 0, 1]]], dtype=torch.float64)
IDENTITY = torch.eye(4, dtype=torch.float64)[None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def wall(depth: float) -> Tensor:
    return torch.full((1, 1, 5, 7), depth, dtype=torch.float64)


def moved(x: float = 0.0, z: float = 0.0) -> Tensor:
    """source_T_target of a source camera that stands at (x, 0, z) of the target."""
    pose = IDENTITY.clone()
    pose[0, :3, 3] = -torch.tensor([x, 0.0, z])
    return pose


A, B = 1 + noise(2, 1, 5, 7), 1 + noise(2, 1, 5, 7, seed=1)
POSES = transform_from_axis_angle(0.1 * noise(2, 3, seed=2), 0.1 * noise(2, 3, seed=3))
OPERATORS = {
    'relative_difference': (relative_difference, (A, B)),
    'depth_agreement': (
        lambda *x: depth_agreement(*x).difference,
        (A, B, K.expand(2, 3, 3), POSES),
    ),
}
operators = pytest.mark.parametrize(('operator', 'inputs'), OPERATORS.values(), ids=OPERATORS)


@operators
def test_the_answer_is_a_map_of_the_target(operator, inputs) -> None:
    assert operator(*inputs).shape == A.shape


def test_twice_as_far_differs_by_a_half_whichever_comes_first() -> None:
    a, b = torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 2, 4])
    expected = torch.tensor([0.5, 0, 0.25])
    torch.testing.assert_close(relative_difference(a, b), expected)
    torch.testing.assert_close(relative_difference(b, a), expected)


def test_the_difference_is_free_of_scale_and_below_one() -> None:
    a, b = torch.tensor([1e-3, 5.0]), torch.tensor([1e3, 7.0])
    difference = relative_difference(a, b)
    torch.testing.assert_close(relative_difference(1000 * a, 1000 * b), difference)
    assert (difference < 1).all()
    assert not relative_difference(a, a).any()


def test_the_same_view_agrees_with_itself() -> None:
    agreement = depth_agreement(wall(2.0), wall(2.0), K, IDENTITY)
    torch.testing.assert_close(agreement.difference, torch.zeros_like(wall(0.0)))
    assert agreement.in_view.all()


def test_the_targets_depth_is_compared_as_the_source_would_see_it() -> None:
    # One metre ahead, a wall at 2 m is at 1 m
    ahead = moved(z=1.0)
    agrees = depth_agreement(wall(2.0), wall(1.0), K, ahead).difference
    torch.testing.assert_close(agrees, torch.zeros_like(agrees))
    differs = depth_agreement(wall(2.0), wall(2.0), K, ahead).difference
    torch.testing.assert_close(differs, torch.full_like(differs, 0.5))


def test_the_sources_depth_is_read_where_the_pixel_appears() -> None:
    source_depth = torch.arange(1.0, 8).double().expand(1, 1, 5, 7)
    # fx * 0.5 m / 2 m: one pixel further left
    difference = depth_agreement(wall(2.0), source_depth, K, moved(x=0.5)).difference
    # column 4 finds column 3, whose depth is 4
    torch.testing.assert_close(difference[..., 4], torch.full((1, 1, 5), 0.5).double())


def test_pixels_that_leave_the_source_are_not_in_view() -> None:
    seen = depth_agreement(wall(2.0), wall(2.0), K, moved(x=1.1)).in_view
    assert seen[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert not depth_agreement(wall(2.0), wall(2.0), K, moved(z=3.0)).in_view.any()


def test_depths_beyond_the_range_count_as_its_ends() -> None:
    def difference(target: float, source: float) -> float:
        agreement = depth_agreement(wall(target), wall(source), K, IDENTITY, 1.0, 10.0)
        return float(agreement.difference.mean())

    assert difference(50.0, 10.0) == difference(10.0, 50.0) == 0
    assert difference(0.1, 1.0) == difference(1.0, 0.1) == 0
    assert difference(0.1, 50.0) == pytest.approx(0.9)


@operators
def test_gradients_are_those_of_finite_differences(operator, inputs) -> None:
    assert torch.autograd.gradcheck(operator, [x.clone().requires_grad_() for x in inputs])


@operators
def test_a_batch_is_its_members_one_by_one(operator, inputs) -> None:
    torch.testing.assert_close(operator(*inputs), one_by_one(operator, *inputs))


def median_of(pair: ViewPair, K: Tensor, source_T_target: Tensor) -> Tensor:
    agreement = depth_agreement(pair.target_depth, pair.source_depth, K, source_T_target)
    return agreement.difference[pair.visible].median()


def test_true_depths_agree(synthetic_pair: ViewPair) -> None:
    pair = synthetic_pair
    assert median_of(pair, pair.K, pair.source_T_target) < 1e-6
    agreement = depth_agreement(pair.target_depth, pair.source_depth, pair.K, pair.source_T_target)
    # Mixed pixels at edges differ, and what the source does not see
    assert agreement.difference[pair.visible].mean() < 5e-3
    assert agreement.in_view[pair.visible].all()


def test_any_wrong_sign_parts_them(synthetic_pair: ViewPair, wrong) -> None:
    """The least of them, a mirrored fy, makes the median 0.007."""
    assert median_of(synthetic_pair, *wrong(synthetic_pair)) > 5e-3
