"""Intrinsics follow their image: the same point of the world lands on the same content."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from conftest import one_by_one
from torch import Tensor

from tc_depth_ros.geometry.intrinsics import flip_intrinsics, resize_intrinsics

K = torch.tensor([[500.0, 0, 320], [0, 480, 239.5], [0, 0, 1]], dtype=torch.float64)
OPERATORS = {
    'resize': lambda K: resize_intrinsics(K, 0.25, 1.5),
    'flip': lambda K: flip_intrinsics(K, 640),
}
operators = pytest.mark.parametrize('operator', OPERATORS.values(), ids=OPERATORS)


def batch_of_intrinsics() -> Tensor:
    return torch.stack([K, K + 0.1 * K.abs(), 2 * K])


@operators
@pytest.mark.parametrize('leading', [(), (2,), (2, 3)])
def test_any_leading_dimensions_are_kept(operator, leading) -> None:
    assert operator(K.expand(*leading, 3, 3)).shape == (*leading, 3, 3)


def test_half_the_size_moves_the_principal_point_by_the_half_pixel_rule() -> None:
    half = resize_intrinsics(K, 0.5, 0.5)
    # (320 + 0.5) / 2 - 0.5 and (239.5 + 0.5) / 2 - 0.5: the middle of 480 rows stays the middle
    expected = torch.tensor([[250, 0, 159.75], [0, 240, 119.5], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(half, expected)


def test_width_and_height_scale_on_their_own() -> None:
    resized = resize_intrinsics(K, 2.0, 0.25)
    expected = torch.tensor([[1000, 0, 640.5], [0, 120, 59.5], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(resized, expected)


def test_a_mirrored_column_counts_from_the_other_edge() -> None:
    flipped = flip_intrinsics(K, 640)
    expected = torch.tensor([[500, 0, 319], [0, 480, 239.5], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(flipped, expected)


def test_the_same_size_leaves_the_intrinsics_alone() -> None:
    torch.testing.assert_close(resize_intrinsics(K, 1.0, 1.0), K)


def test_there_and_back_gives_the_intrinsics_back() -> None:
    there = resize_intrinsics(K, 0.4, 0.7)
    torch.testing.assert_close(resize_intrinsics(there, 1 / 0.4, 1 / 0.7), K)
    torch.testing.assert_close(flip_intrinsics(flip_intrinsics(K, 640), 640), K)


@operators
def test_the_intrinsics_handed_in_stay_as_they_were(operator) -> None:
    mine = K.clone()
    operator(mine)
    assert torch.equal(mine, K)


@operators
def test_gradients_are_those_of_finite_differences(operator) -> None:
    assert torch.autograd.gradcheck(operator, batch_of_intrinsics().requires_grad_())


@operators
def test_a_batch_is_its_members_one_by_one(operator) -> None:
    batch = batch_of_intrinsics()
    torch.testing.assert_close(operator(batch), one_by_one(operator, batch))


@pytest.mark.parametrize('scale', [(0.5, 0.5), (0.25, 0.5), (2.0, 1.5), (0.625, 0.75)])
def test_a_point_lands_on_the_same_content_of_the_resized_image(scale) -> None:
    # Every pixel of the ramp says where it is: (u, v)
    ramp = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0)), axis=-1).astype(np.float32)
    small = cv2.resize(
        ramp, (round(64 * scale[0]), round(48 * scale[1])), interpolation=cv2.INTER_LINEAR
    )
    intrinsics = torch.tensor([[60.0, 0, 30], [0, 55, 25], [0, 0, 1]], dtype=torch.float64)
    resized = resize_intrinsics(intrinsics, *scale)
    for point in torch.tensor([[0.1, -0.2, 1], [-0.3, 0.1, 1], [0.25, 0.23, 1]]).double():
        u, v, _ = intrinsics @ point
        row, column = int((resized @ point)[1]), int((resized @ point)[0])
        across, down = (resized @ point)[:2] % 1
        near = torch.from_numpy(small[row : row + 2, column : column + 2]).double()
        upper, lower = near[:, 0] + across * (near[:, 1] - near[:, 0])
        content = upper + down * (lower - upper)
        # 16 bit are what OpenCV interpolates with
        torch.testing.assert_close(content, torch.stack([u, v]), rtol=0, atol=1e-2)


def test_a_mirrored_point_lands_on_the_same_content_of_the_mirrored_image() -> None:
    ramp = torch.arange(640)
    u = (K @ torch.tensor([0.1, 0.0, 1.0], dtype=torch.float64))[0]
    mirrored = (flip_intrinsics(K, 640) @ torch.tensor([-0.1, 0.0, 1.0]).double())[0]
    assert ramp.flip(0)[int(mirrored.round())] == u.round()
