"""Rigid transforms: right-handed, and named after the direction they go."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch
from conftest import one_by_one
from torch import Tensor

from tc_depth_ros.geometry.transform import (
    invert_transform,
    rotation_from_axis_angle,
    skew,
    transform_from_axis_angle,
    transform_from_rotation,
)

QUARTER_TURN = torch.tensor([0.0, 0.0, pi / 2], dtype=torch.float64)  # x -> y, y -> -x
# Stands at (1, 2, 3) in a, and looks along a's y
a_T_b = torch.tensor(
    [[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], dtype=torch.float64
)
ZERO = torch.zeros(3, dtype=torch.float64)


def vectors(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.manual_seed(seed))


def rotations() -> Tensor:
    return rotation_from_axis_angle(vectors(seed=1))


OPERATORS = {
    'skew': (skew, (vectors(),)),
    'rotation_from_axis_angle': (rotation_from_axis_angle, (vectors(),)),
    'transform_from_rotation': (transform_from_rotation, (rotations(), vectors())),
    'transform_from_axis_angle': (transform_from_axis_angle, (vectors(), vectors(seed=1))),
    'invert_transform': (invert_transform, (transform_from_rotation(rotations(), vectors()),)),
}
operators = pytest.mark.parametrize(('operator', 'inputs'), OPERATORS.values(), ids=OPERATORS)


@operators
def test_any_leading_dimensions_are_kept(operator, inputs) -> None:
    expected = operator(*inputs)
    single = operator(*(x[0] for x in inputs))
    nested = operator(*(x.view(2, 2, *x.shape[1:]) for x in inputs))
    assert nested.shape == (2, 2, *single.shape)
    torch.testing.assert_close(nested.flatten(0, 1), expected)


def test_skew_makes_the_cross_product() -> None:
    x, y, z = torch.eye(3)
    torch.testing.assert_close(skew(x) @ y, z)
    a, b = vectors(), vectors(seed=1)
    torch.testing.assert_close((skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


def test_a_positive_turn_about_z_takes_x_to_y() -> None:
    turned = rotation_from_axis_angle(QUARTER_TURN) @ torch.eye(3, dtype=torch.float64)[0]
    torch.testing.assert_close(turned, torch.tensor([0.0, 1, 0], dtype=torch.float64))


def test_the_translation_is_where_the_origin_of_b_lies_in_a() -> None:
    t = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(transform_from_axis_angle(QUARTER_TURN, t), a_T_b)
    torch.testing.assert_close(transform_from_rotation(a_T_b[:3, :3], t), a_T_b)


def test_the_inverse_by_hand() -> None:
    # The origin of a, seen from (1, 2, 3) looking along y: 2 behind, 1 to the left, 3 below
    b_T_a = torch.tensor(
        [[0.0, 1, 0, -2], [-1, 0, 0, 1], [0, 0, 1, -3], [0, 0, 0, 1]], dtype=torch.float64
    )
    torch.testing.assert_close(invert_transform(a_T_b), b_T_a)


def test_rotations_agree_with_transforms3d() -> None:
    axangles = pytest.importorskip('transforms3d').axangles
    for vector in vectors(20):
        angle = float(vector.norm())
        expected = axangles.axangle2mat(vector.numpy() / angle, angle)
        np.testing.assert_allclose(rotation_from_axis_angle(vector), expected, atol=1e-12)


def test_rotations_neither_stretch_nor_mirror() -> None:
    R = rotations()
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=torch.float64).expand_as(R))
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(len(R), dtype=torch.float64))


def test_no_motion_is_the_identity() -> None:
    identity = torch.eye(4, dtype=torch.float64)
    assert torch.equal(transform_from_axis_angle(ZERO, ZERO), identity)
    assert torch.equal(invert_transform(identity), identity)


def test_there_and_back_again() -> None:
    T = transform_from_axis_angle(vectors(), vectors(seed=1))
    identity = torch.eye(4, dtype=torch.float64).expand_as(T)
    torch.testing.assert_close(invert_transform(T) @ T, identity)
    torch.testing.assert_close(invert_transform(invert_transform(T)), T)
    R = rotation_from_axis_angle(vectors())
    torch.testing.assert_close(rotation_from_axis_angle(-vectors()) @ R, identity[:, :3, :3])


@pytest.mark.parametrize('angle', [0.0, 1e-8, 1e-5, 1e-3, 0.1])
def test_a_small_turn_is_exact_in_single_precision(angle) -> None:
    expected = torch.linalg.matrix_exp(skew(angle * vectors()))
    turned = rotation_from_axis_angle(angle * vectors().float())
    torch.testing.assert_close(turned.double(), expected, rtol=0, atol=2e-7)


@operators
def test_gradients_are_those_of_finite_differences(operator, inputs) -> None:
    assert torch.autograd.gradcheck(operator, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize('angle', [0.0, 5e-5, 2e-3])
def test_gradients_hold_where_the_pose_network_starts(angle) -> None:
    still = (angle * vectors()).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_axis_angle, still, eps=1e-7)


@operators
def test_a_batch_is_its_members_one_by_one(operator, inputs) -> None:
    torch.testing.assert_close(operator(*inputs), one_by_one(operator, *inputs))
