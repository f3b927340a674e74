"""Odometry by stamp: late, twice, in gaps, and after the clock jumped."""

from __future__ import annotations

import numpy as np
import pytest
from scale_drive import Drive, ns

from tc_depth_ros.scale.odometry_buffer import OdometryBuffer, OdometryPose

# 1 m/s ahead, and a quarter turn in a second
TURNING = Drive(lambda t: t, lambda t: np.pi / 2 * t)


def buffer(*times: float, **settings) -> OdometryBuffer:
    filled = OdometryBuffer(**settings)
    for t in times:
        filled.add(TURNING.odometry(t))
    return filled


def test_between_two_poses_it_is_where_it_would_be() -> None:
    poses = buffer(1.0, 1.1, 1.2)
    for t in (1.0, 1.03, 1.1, 1.15, 1.2):
        np.testing.assert_allclose(poses.at(ns(t)), TURNING.world_T_base(t), atol=1e-9)


@pytest.mark.parametrize('t', [0.99, 1.21])
def test_outside_there_is_no_pose(t) -> None:
    assert buffer(1.0, 1.1, 1.2).at(ns(t)) is None


def test_an_empty_one_has_none() -> None:
    assert buffer().at(0) is None
    assert buffer().newest_ns is None


def test_in_a_gap_there_is_no_pose_but_at_its_ends_there_is() -> None:
    poses = buffer(1.0, 1.3, max_gap_s=0.2)
    assert poses.at(ns(1.15)) is None
    assert poses.at(ns(1.0)) is not None
    assert poses.at(ns(1.3)) is not None


def test_the_order_of_arrival_does_not_matter() -> None:
    poses = buffer(1.2, 1.0, 1.1, 1.0)
    assert len(poses) == 3
    np.testing.assert_allclose(poses.at(ns(1.05)), TURNING.world_T_base(1.05), atol=1e-9)
    assert poses.newest_ns == ns(1.2)


def test_a_clock_that_jumps_back_clears() -> None:
    poses = buffer(100.0, 100.1, 5.0, 5.1)
    assert len(poses) == 2
    assert poses.newest_ns == ns(5.1)
    assert poses.at(ns(5.05)) is not None
    assert poses.at(ns(100.05)) is None


def test_it_does_not_grow() -> None:
    poses = buffer(*np.arange(0, 10, 0.01), capacity=50)
    assert len(poses) == 50
    assert poses.newest_ns == ns(9.99)
    assert poses.at(ns(9.5)) is not None
    assert poses.at(ns(9.4)) is None


@pytest.mark.parametrize(
    ('position', 'quaternion', 'named'),
    [
        ([0.0, 0, 0], [0.0, 0, 0, 0], 'orientation'),
        ([0.0, 0, 0], [0.0, 0, np.nan, 1], 'quaternion'),
        ([0.0, np.inf, 0], [0.0, 0, 0, 1], 'position'),
    ],
)
def test_a_pose_that_is_none_is_refused(position, quaternion, named) -> None:
    with pytest.raises(ValueError, match=named):
        OdometryPose(1, np.array(position), np.array(quaternion))
