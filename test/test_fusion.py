"""Depth fused with the frame before: steady where nothing changed, at once where it did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_matching import TINY_MATCHING, camera_matrix, moved, pose
from test_network import frames, lively
from torch import Tensor

from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.geometry.reprojection import backproject
from tc_depth_ros.network.fusion import MOST_FRAMES, FusedDepth, first_depth, fuse
from tc_depth_ros.network.stream import open_stream

SIZE = (48, 64)
K = camera_matrix(*SIZE)
STILL = torch.eye(4)[None]


def looks() -> Tensor:
    noise = torch.randn(1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    return F.normalize(noise, dim=1)


def wall(depth: float) -> FusedDepth:
    return first_depth(torch.full((1, 1, *SIZE), 1 / depth), looks())


def test_depths_that_differ_a_little_are_averaged() -> None:
    fused = fuse(wall(2.0), K, wall(2.2), STILL)
    torch.testing.assert_close(
        fused.inverse_depth.reciprocal().mean(), torch.tensor(2.097), atol=0.02, rtol=0
    )
    assert 1.8 < float(fused.frames.mean()) < 2


def test_the_mean_of_a_noisy_depth_settles_and_its_memory_is_bounded() -> None:
    generator = torch.Generator().manual_seed(1)
    fused, answers = wall(2.0), []
    for _ in range(60):
        noisy = wall(2.0 * float(torch.exp(0.1 * torch.randn((), generator=generator))))
        fused = fuse(noisy, K, fused, STILL)
        answers.append(float(fused.inverse_depth.mean()))
    assert float(fused.frames.max()) <= MOST_FRAMES
    assert np.std(np.log(answers[20:])) < 0.05  # of 0.1


def test_the_depth_before_is_seen_from_here() -> None:
    """The camera goes 0.5 m towards a wall: what was 2.5 m away is 2 m away now."""
    fused = fuse(wall(2.0), K, wall(2.5), moved(z=0.5))
    centre = fused.inverse_depth[0, 0, 24, 32]
    assert float(1 / centre) == pytest.approx(2.0, rel=1e-3)
    mistaken = fuse(wall(2.0), K, wall(2.5), STILL)
    assert float(1 / mistaken.inverse_depth[0, 0, 24, 32]) > 2.05


def test_a_slanted_wall_seen_from_two_places_stays_where_it_is() -> None:
    u = torch.arange(64.0).expand(1, 1, *SIZE)
    here = 1 / (0.3 + 0.002 * u)  # a plane: inverse depth is linear in pixels
    points = backproject(here, K)
    normal = torch.linalg.lstsq(points.flatten(2)[0].T, torch.ones(48 * 64, 1)).solution[:, 0]
    last_T_here = moved(x=0.1, z=-0.05)
    # n X = 1 here; with X = X_last - t it is n X_last = 1 + n t there
    there = 1 + float(normal @ last_T_here[0, :3, 3])
    rays = backproject(torch.ones_like(here), K)
    last = ((normal.view(1, 3, 1, 1) * rays).sum(1, keepdim=True) / there, looks())
    fused = fuse(first_depth(1 / here, looks()), K, first_depth(*last), last_T_here)
    torch.testing.assert_close(fused.inverse_depth, 1 / here, rtol=2e-3, atol=0)
    assert float(fused.frames[..., 8:-8, 12:-12].min()) > 1.2


@pytest.mark.parametrize('change', ['depth', 'look', 'view'])
def test_what_has_changed_begins_anew(change: str) -> None:
    before = wall(2.0)
    now, motion = wall(2.1), STILL
    if change == 'depth':
        now = wall(0.3)
    elif change == 'look':
        now = wall(2.5)
        now = now._replace(features=-now.features)
    else:
        motion = moved(x=50.0)
    fused = fuse(now, K, before._replace(frames=before.frames * MOST_FRAMES), motion)
    torch.testing.assert_close(fused.inverse_depth, now.inverse_depth, rtol=0.05, atol=0)
    assert float(fused.frames.mean()) < 1.2


@pytest.mark.parametrize('rate_hz', [10, 30])
def test_what_comes_nearer_is_told_soon(rate_hz: int) -> None:
    """A surface that looks the same comes towards a standing camera at 1 m/s."""
    depth = 4.0
    fused = wall(depth)
    while depth > 1.0:
        fused = fuse(wall(depth), K, fused, STILL)
        assert float(fused.inverse_depth.reciprocal().mean()) < 1.15 * depth
        depth -= 1.0 / rate_hz


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_geometry_is_in_float32_under_autocast(dtype: torch.dtype) -> None:
    last_T_newest = moved(x=0.13, z=0.07)
    exact = fuse(wall(2.0), K, wall(2.1), last_T_newest)
    with torch.autocast('cpu', dtype):
        reduced = fuse(wall(2.0), K, wall(2.1), last_T_newest)
    assert torch.equal(exact.inverse_depth, reduced.inverse_depth)
    assert torch.equal(exact.frames, reduced.frames)


def test_behind_the_camera_there_is_nothing_and_no_nan() -> None:
    fused = fuse(wall(2.0), K, wall(2.0), moved(z=-5.0))
    assert torch.equal(fused.inverse_depth, wall(2.0).inverse_depth)


def steps(*xs: float) -> list[CameraPose]:
    """Poses of a camera that moves to the right, with the motions between them."""
    poses = [pose(xs[0])]
    for before, now in zip(xs, xs[1:], strict=False):
        here = pose(now)
        poses.append(replace(here, last_T_this=here.past_T_this(pose(before).track_T_camera)))
    return poses


def streamed(poses: list[CameraPose | None], images: Tensor) -> list[Tensor]:
    stream = open_stream(lively(TINY_MATCHING))
    with torch.inference_mode():
        answers = [
            stream.push(images[:, i], camera_matrix(*images.shape[-2:]), one)
            for i, one in enumerate(poses)
        ]
    return [answer.disparity for answer in answers if answer is not None]


def test_a_stream_fuses_where_the_motion_is_known_and_only_there() -> None:
    images = frames(3, *SIZE)
    images[:, 1:] = images[:, :1] + 0.01 * images[:, 1:]
    told = steps(0.0, 0.0, 0.0)
    untold: list[CameraPose | None] = [replace(one, last_T_this=None) for one in told]
    fused, apart = streamed([*told], images), streamed(untold, images)
    alone = streamed([None] * 3, images)
    assert torch.equal(fused[0], alone[0])
    for a, b in zip(apart, alone, strict=True):
        assert torch.equal(a, b)  # to the bit: nothing to match with, nothing to fuse with
    steadier = (fused[2] - fused[1]).abs().mean() / (apart[2] - apart[1]).abs().mean()
    assert float(steadier) < 0.7


def test_a_frame_without_a_pose_ends_the_mean() -> None:
    images = frames(3, *SIZE)
    told = steps(0.0, 0.0, 0.0)
    with_gap = streamed([told[0], None, told[2]], images)
    alone = streamed([None] * 3, images)
    assert torch.equal(with_gap[2], alone[2])
