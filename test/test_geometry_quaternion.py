"""Quaternions in ROS's order: known turns, an oracle, and even turning in between."""

from __future__ import annotations

from math import cos, sin

import numpy as np
import pytest
from numpy.typing import NDArray

from tc_depth_ros.geometry.quaternion import pose_matrix, rotation_from_quaternion, slerp


def about_z(degrees: float) -> NDArray[np.float64]:
    """Quaternion x, y, z, w of a turn about z."""
    half = np.deg2rad(degrees) / 2
    return np.array([0, 0, sin(half), cos(half)])


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    np.testing.assert_allclose(rotation_from_quaternion(about_z(90))[:, 0], [0, 1, 0], atol=1e-12)


def test_rotations_agree_with_transforms3d() -> None:
    quaternions = pytest.importorskip('transforms3d').quaternions
    for q in np.random.default_rng(0).normal(size=(20, 4)):  # not of unit length
        expected = quaternions.quat2mat(np.roll(q / np.linalg.norm(q), 1))
        np.testing.assert_allclose(rotation_from_quaternion(q), expected, atol=1e-12)


@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('fraction', [0.0, 0.25, 0.5, 1.0])
def test_slerp_turns_evenly_along_the_shorter_arc(sign, fraction) -> None:
    turned = rotation_from_quaternion(slerp(about_z(10), sign * about_z(70), fraction))
    expected = rotation_from_quaternion(about_z(10 + 60 * fraction))
    np.testing.assert_allclose(turned, expected, atol=1e-12)


def test_slerp_between_equal_rotations_stays() -> None:
    np.testing.assert_allclose(slerp(about_z(30), about_z(30), 0.5), about_z(30), atol=1e-12)


def test_a_pose_takes_its_origin_to_its_position() -> None:
    pose = pose_matrix(np.array([1.0, 2.0, 3.0]), about_z(90))
    np.testing.assert_allclose(pose @ [0, 0, 0, 1], [1, 2, 3, 1])
    np.testing.assert_allclose(pose @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
