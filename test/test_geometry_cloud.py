"""The organised cloud: every pixel lifted, nothing invented where there is no depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tc_depth_ros.geometry.cloud import organised_cloud
from tc_depth_ros.geometry.reprojection import backproject

HEIGHT, WIDTH = 6, 9
K = np.array([[4.0, 0, 4.3], [0, 5, 2.1], [0, 0, 1]])
RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(0.5, 20, (HEIGHT, WIDTH)).astype(np.float32)
IMAGE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_a_point_is_four_floats() -> None:
    cloud = organised_cloud(DEPTH, IMAGE, K)
    assert cloud.shape == (HEIGHT, WIDTH, 4)
    assert cloud.dtype == np.float32
    assert len(cloud.tobytes()) == HEIGHT * WIDTH * 16


def test_a_pixel_by_hand() -> None:
    K = np.array([[2.0, 0, 1], [0, 4, 0], [0, 0, 1]])
    cloud = organised_cloud(np.full((3, 4), 8, np.float32), IMAGE[:3, :4], K)
    np.testing.assert_array_equal(cloud[2, 3, :3], [8, 4, 8])  # (3 - 1) 8 / 2, (2 - 0) 8 / 4
    np.testing.assert_array_equal(cloud[0, 1, :3], [0, 0, 8])


def test_every_point_follows_the_pinhole_formula() -> None:
    cloud = organised_cloud(DEPTH, IMAGE, K)
    for v in range(HEIGHT):
        for u in range(WIDTH):
            z = float(DEPTH[v, u])
            expected = [(u - 4.3) * z / 4, (v - 2.1) * z / 5, z]
            np.testing.assert_allclose(cloud[v, u, :3], expected, rtol=1e-4)


def test_the_cloud_is_what_the_losses_backproject() -> None:
    points = backproject(torch.from_numpy(DEPTH)[None, None].double(), torch.from_numpy(K)[None])
    cloud = organised_cloud(DEPTH, IMAGE, K)[..., :3]
    np.testing.assert_allclose(cloud, points[0].permute(1, 2, 0), rtol=1e-6)


def test_projecting_the_cloud_gives_the_pixels_back() -> None:
    x, y, z, _ = np.moveaxis(organised_cloud(DEPTH, IMAGE, K).astype(np.float64), -1, 0)
    v, u = np.indices((HEIGHT, WIDTH))
    np.testing.assert_allclose(4 * x / z + 4.3, u, atol=1e-5)
    np.testing.assert_allclose(5 * y / z + 2.1, v, atol=1e-5)


@pytest.mark.parametrize('invalid', [np.nan, np.inf, -np.inf])
def test_where_there_is_no_depth_there_is_no_point(invalid) -> None:
    depth = DEPTH.copy()
    depth[1::2, ::3] = invalid
    cloud = organised_cloud(depth, IMAGE, K)
    missing = ~np.isfinite(depth)
    assert np.isnan(cloud[missing][:, :3]).all()
    assert np.isfinite(cloud[~missing][:, :3]).all()
    assert not (cloud[..., :3] == 0).all(axis=-1).any()  # no cluster at the camera's origin


@pytest.mark.parametrize('stride', [2, 4])
def test_with_a_stride_there_is_every_nth_point(stride: int) -> None:
    whole = organised_cloud(DEPTH, IMAGE, K)
    some = organised_cloud(DEPTH, IMAGE, K, stride)
    np.testing.assert_array_equal(
        some.view(np.uint8), np.ascontiguousarray(whole[::stride, ::stride]).view(np.uint8)
    )


def test_colour_is_packed_as_pcl_and_rviz_read_it() -> None:
    colour = organised_cloud(DEPTH, IMAGE, K)[..., 3].copy().view(np.uint32)
    r, g, b = np.moveaxis(IMAGE.astype(np.uint32), -1, 0)
    np.testing.assert_array_equal(colour, r << 16 | g << 8 | b)


def test_what_is_handed_in_stays_as_it_was() -> None:
    depth, image = DEPTH.copy(), IMAGE.copy()
    depth[0, 0] = np.inf
    organised_cloud(depth, image, K)[:] = 0
    assert np.isinf(depth[0, 0])
    np.testing.assert_array_equal(image, IMAGE)
