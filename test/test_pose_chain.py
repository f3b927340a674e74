"""Chained motions: the way is right, and so is how uncertain of it one becomes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tc_depth_ros.temporal.motion import Motion
from tc_depth_ros.temporal.pose_chain import PoseChain, adjoint, rotation_vector

Floats = NDArray[np.float64]
COVARIANCE = np.diag([0.01, 0.02, 0.03, 0.001, 0.002, 0.003]) ** 2


def pose(translation: tuple[float, float, float], turn: tuple[float, float, float]) -> Floats:
    """a_T_b of a translation and an axis times angle."""
    import cv2

    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array(turn, dtype=np.float64))[0]
    matrix[:3, 3] = translation
    return matrix


def test_forward_is_x_left_is_y_and_up_is_z() -> None:
    for earlier_t_later, expected in (
        ((0, 0, 1), (1, 0, 0)),  # ahead
        ((-1, 0, 0), (0, 1, 0)),  # to the left
        ((0, -1, 0), (0, 0, 1)),  # up
    ):
        later_T_earlier = np.linalg.inv(pose(earlier_t_later, (0, 0, 0)))
        chained = PoseChain().add(Motion(later_T_earlier, COVARIANCE), 0.5, 1.0)
        np.testing.assert_allclose(chained.odom_T_camera[:3, 3], expected, atol=1e-12)
        # The twist is in the camera's axes
        np.testing.assert_allclose(chained.linear, 2 * np.array(earlier_t_later), atol=1e-12)


def test_the_chain_is_the_product_of_its_links() -> None:
    rng = np.random.default_rng(0)
    world_T_camera = [np.eye(4)]
    for _ in range(6):
        shift, turn = rng.normal(0, 0.2, 3), rng.normal(0, 0.1, 3)
        world_T_camera.append(world_T_camera[-1] @ pose(tuple(shift), tuple(turn)))
    chain = PoseChain()
    for earlier, later in zip(world_T_camera, world_T_camera[1:], strict=False):
        chained = chain.add(Motion(np.linalg.inv(later) @ earlier, COVARIANCE), 0.1, 1.0)
    start = PoseChain().add(Motion(np.eye(4), COVARIANCE), 0.1, 1.0).odom_T_camera
    np.testing.assert_allclose(chained.odom_T_camera, start @ world_T_camera[-1], atol=1e-12)


def test_a_turn_is_about_the_axis_it_is_about() -> None:
    later_T_earlier = np.linalg.inv(pose((0, 0, 0), (0, -0.3, 0)))  # to the left, y being down
    chained = PoseChain().add(Motion(later_T_earlier, COVARIANCE), 0.1, 1.0)
    np.testing.assert_allclose(chained.angular, (0, -3, 0), atol=1e-12)
    start = PoseChain().add(Motion(np.eye(4), COVARIANCE), 0.1, 1.0).odom_T_camera
    about_z = chained.odom_T_camera[:3, :3] @ start[:3, :3].T
    np.testing.assert_allclose(rotation_vector(about_z), (0, 0, 0.3), atol=1e-12)


def test_the_factor_scales_the_way_and_its_uncertainty_but_no_angle() -> None:
    motion = Motion(pose((0.1, 0, 0.3), (0.01, 0.2, 0)), COVARIANCE)
    plain, scaled = (PoseChain().add(motion, 0.1, factor) for factor in (1.0, 3.0))
    np.testing.assert_allclose(scaled.odom_T_camera[:3, 3], 3 * plain.odom_T_camera[:3, 3])
    np.testing.assert_allclose(scaled.odom_T_camera[:3, :3], plain.odom_T_camera[:3, :3])
    np.testing.assert_allclose(scaled.covariance[:3, :3], 9 * plain.covariance[:3, :3])
    np.testing.assert_allclose(scaled.covariance[3:, 3:], plain.covariance[3:, 3:])
    np.testing.assert_allclose(scaled.linear, 3 * plain.linear)


def test_the_covariance_is_what_many_noisy_chains_spread_by() -> None:
    """First order against a thousand chains whose links are drawn from their covariances."""
    rng = np.random.default_rng(1)
    link = pose((0.02, 0.01, -0.3), (0.02, 0.15, -0.01))
    root = np.linalg.cholesky(COVARIANCE)
    ends = []
    for _ in range(1000):
        odom_T_camera = np.eye(4)
        for _ in range(5):
            noise = root @ rng.normal(size=6)
            noisy = pose(tuple(noise[:3]), tuple(noise[3:])) @ link
            odom_T_camera = odom_T_camera @ np.linalg.inv(noisy)
        ends.append(odom_T_camera[:3, 3])
    chain = PoseChain()
    chain._odom_T_camera = np.eye(4)  # the same axes, to compare
    for _ in range(5):
        chained = chain.add(Motion(link, COVARIANCE), 0.1, 1.0)
    spread = np.cov(np.array(ends).T)
    np.testing.assert_allclose(np.diag(chained.covariance)[:3], np.diag(spread), rtol=0.15)


def test_a_lost_link_shows_except_at_the_origin() -> None:
    motion = Motion(pose((0, 0, -0.1), (0, 0, 0)), COVARIANCE)
    fresh = PoseChain()
    fresh.lose()
    assert fresh.add(motion, 0.1, 1.0).covariance[0, 0] < 0.01
    fresh.lose()
    assert fresh.add(motion, 0.1, 1.0).covariance[0, 0] > 0.9


def test_the_adjoint_moves_a_small_motion_to_other_axes() -> None:
    a_T_b = pose((0.3, -1.0, 0.5), (0.4, 0.1, -0.7))
    small = 1e-4 * np.array([1.0, 2, -3, 2, -1, 3])
    in_b = pose(tuple(small[:3]), tuple(small[3:]))
    in_a = a_T_b @ in_b @ np.linalg.inv(a_T_b)
    moved = adjoint(a_T_b) @ small
    np.testing.assert_allclose(in_a[:3, 3], moved[:3], atol=1e-6)
    np.testing.assert_allclose(rotation_vector(in_a[:3, :3]), moved[3:], atol=1e-6)


@pytest.mark.parametrize('index', range(6))
def test_the_twists_covariance_is_the_motions_over_time(index: int) -> None:
    motion = Motion(pose((0, 0, -0.1), (0, 0, 0)), COVARIANCE)
    chained = PoseChain().add(motion, 0.1, 1.0)
    assert chained.twist_covariance[index, index] == pytest.approx(COVARIANCE[index, index] / 0.01)
