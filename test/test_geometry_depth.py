"""Disparity, inverse depth and depth say the same in three ways."""

from __future__ import annotations

import pytest
import torch
from conftest import one_by_one

from tc_depth_ros.geometry.depth import (
    depth_from_disparity,
    disparity_from_depth,
    inverse_depth_from_disparity,
)

RANGE = (0.1, 100.0)
OPERATORS = (inverse_depth_from_disparity, depth_from_disparity, disparity_from_depth)
operators = pytest.mark.parametrize('operator', OPERATORS)


def disparities() -> torch.Tensor:
    return torch.linspace(0.05, 0.95, 24, dtype=torch.float64).view(2, 1, 3, 4)


@operators
@pytest.mark.parametrize('shape', [(), (7,), (2, 3, 1, 4, 5)])
def test_any_shape_is_kept(operator, shape) -> None:
    assert operator(torch.full(shape, 0.5), *RANGE).shape == shape


def test_disparity_runs_from_the_farthest_to_the_nearest() -> None:
    disparity = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    inverse_depth = torch.tensor([0.01, 5.005, 10.0], dtype=torch.float64)
    depth = torch.tensor([100.0, 0.1998001998, 0.1], dtype=torch.float64)
    torch.testing.assert_close(inverse_depth_from_disparity(disparity, *RANGE), inverse_depth)
    torch.testing.assert_close(depth_from_disparity(disparity, *RANGE), depth)
    torch.testing.assert_close(disparity_from_depth(depth, *RANGE), disparity)


def test_between_one_and_infinity_disparity_is_inverse_depth() -> None:
    d = disparities()
    torch.testing.assert_close(inverse_depth_from_disparity(d, 1.0, float('inf')), d)
    torch.testing.assert_close(depth_from_disparity(d, 1.0, float('inf')), 1 / d)
    torch.testing.assert_close(disparity_from_depth(1 / d, 1.0, float('inf')), d)


def test_there_and_back_gives_the_disparity_back() -> None:
    d = disparities()
    torch.testing.assert_close(disparity_from_depth(depth_from_disparity(d, *RANGE), *RANGE), d)


def test_depth_out_of_range_is_not_hidden() -> None:
    too_near, too_far = disparity_from_depth(torch.tensor([0.09, 200.0]), *RANGE)
    assert too_near > 1
    assert too_far < 0


@operators
def test_gradients_are_those_of_finite_differences(operator) -> None:
    assert torch.autograd.gradcheck(lambda x: operator(x, *RANGE), disparities().requires_grad_())


@operators
def test_a_batch_is_its_members_one_by_one(operator) -> None:
    def within_range(x: torch.Tensor) -> torch.Tensor:
        return operator(x, *RANGE)

    d = disparities()
    torch.testing.assert_close(within_range(d), one_by_one(within_range, d))
