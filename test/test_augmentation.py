"""Variety of windows: what is mirrored stays true, and chance belongs to a window and an epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import tensor_of

from tc_depth_ros.geometry.reprojection import warp
from tc_depth_ros.geometry.transform import invert_transform
from tc_depth_training.data.augmentation import (
    ColourJitter,
    Draws,
    augment,
    draw,
    mirror,
    turn_hue,
    vary_colours,
)
from tc_depth_training.data.windows import Batch
from tc_depth_training.losses.photometric import photometric_error
from tc_depth_training.synthetic import SyntheticView

WINDOW = (0, 4, 8)


def draws_of(count: int, frames: int, seed: int = 0) -> Draws:
    return draw(torch.arange(count), frames, seed, epoch=0)


def vary(images: torch.Tensor, seed: int = 0, **settings: float) -> torch.Tensor:
    return vary_colours(images, ColourJitter(**settings), draws_of(*images.shape[:2], seed))


@pytest.fixture(scope='module')
def batch(synthetic_views: list[SyntheticView]) -> Batch:
    views = [synthetic_views[i] for i in WINDOW]
    first = torch.from_numpy(views[0].world_T_camera).inverse()
    poses = [first @ torch.from_numpy(view.world_T_camera) for view in views]
    return Batch(
        images=torch.cat([tensor_of(view.image) for view in views])[None],
        K=tensor_of(views[0].K)[0],
        world_T_camera=torch.stack(poses)[None].float(),
        posed=torch.tensor([True]),
        seen=(torch.arange(320) > 10).expand(1, 1, 240, 320),
        recording=torch.tensor([0]),
        window=torch.tensor([0]),
        depth=torch.empty(1, 3, 0, 0),
    )


@pytest.fixture(scope='module')
def depth(synthetic_views: list[SyntheticView]) -> torch.Tensor:
    return torch.stack([tensor_of(synthetic_views[i].depth)[0] for i in WINDOW])[None]


def error_of(batch: Batch, depth: torch.Tensor, target: int, source: int) -> float:
    """Median photometric error of a frame rebuilt from another with its true depth."""
    poses = batch.world_T_camera
    source_T_target = invert_transform(poses[:, source]) @ poses[:, target]
    warped = warp(batch.images[:, source], depth[:, target], batch.K, source_T_target)
    return float(photometric_error(warped, batch.images[:, target]).median())


@pytest.mark.parametrize(('target', 'source'), [(0, 1), (1, 0), (1, 2), (2, 0)])
def test_a_mirrored_window_is_as_true(batch, depth, target, source) -> None:
    mirrored = mirror(batch, torch.tensor([True]))
    assert torch.equal(mirrored.images, batch.images.flip(-1))
    assert torch.equal(mirrored.seen, batch.seen.flip(-1))
    error = error_of(mirrored, depth.flip(-1), target, source)
    assert error < 0.005
    without_K = replace(mirrored, K=batch.K)
    without_poses = replace(mirrored, world_T_camera=batch.world_T_camera)
    for half_done in (without_K, without_poses):
        assert error_of(half_done, depth.flip(-1), target, source) > 2 * error


def test_mirroring_twice_gives_the_window_back(batch) -> None:
    both = torch.tensor([True])
    twice = mirror(mirror(batch, both), both)
    assert torch.equal(twice.images, batch.images)
    torch.testing.assert_close(twice.K, batch.K)
    torch.testing.assert_close(twice.world_T_camera, batch.world_T_camera)


def test_each_window_is_mirrored_by_itself(batch) -> None:
    pair = Batch(*(torch.cat([getattr(batch, name)] * 2) for name in vars(batch)))
    mirrored = mirror(pair, torch.tensor([False, True]))
    for name in ('images', 'K', 'world_T_camera', 'seen'):
        plain, turned = getattr(mirrored, name)
        assert torch.equal(plain, getattr(batch, name)[0])
        assert torch.equal(turned, getattr(mirror(batch, torch.tensor([True])), name)[0])


def test_chance_belongs_to_a_window_and_an_epoch_and_not_to_its_place() -> None:
    one, other = draw(torch.tensor([7, 3]), 3, 0, 1), draw(torch.tensor([3, 5, 7]), 3, 0, 1)
    for name in vars(one):
        assert torch.equal(getattr(one, name), getattr(other, name)[[2, 0]])
    for differs in (draw(torch.tensor([7, 3]), 3, 0, 2), draw(torch.tensor([7, 3]), 3, 1, 1)):
        assert not torch.equal(one.brightness, differs.brightness)
    assert not torch.equal(one.brightness[0], one.brightness[1])


def test_all_frames_of_a_window_get_the_same_colours_and_windows_get_their_own() -> None:
    frame = torch.rand(1, 1, 3, 8, 8, generator=torch.manual_seed(0)) * 0.5
    varied = vary(frame.expand(2, 3, 3, 8, 8))
    torch.testing.assert_close(varied[:, :1].expand_as(varied), varied)
    assert (varied[0] - varied[1]).abs().max() > 0.01


def test_colours_stay_between_black_and_white(batch) -> None:
    varied = vary(batch.images.expand(8, -1, -1, -1, -1), strength=0.5)
    assert varied.shape == (8, 3, 3, 240, 320)
    assert varied.min() >= 0
    assert varied.max() <= 1


def test_frames_can_get_colours_of_their_own() -> None:
    frame = torch.rand(1, 1, 3, 8, 8, generator=torch.manual_seed(0)) * 0.5
    varied = vary(frame.expand(1, 3, 3, 8, 8), per_frame=True)
    assert (varied[0, 0] - varied[0, 1]).abs().max() > 0.01


def test_some_windows_can_keep_their_colours() -> None:
    images = torch.rand(400, 1, 3, 2, 2, generator=torch.manual_seed(0)) * 0.5
    kept = (vary(images, probability=0.25) == images).flatten(1).all(dim=1)
    assert 0.65 < kept.double().mean() < 0.85


def test_a_third_of_the_circle_turns_red_into_green_and_leaves_grey() -> None:
    red_and_grey = torch.tensor([[1.0, 0.3], [0.0, 0.3], [0.0, 0.3]])[None, None, :, None]
    turned = turn_hue(red_and_grey, torch.tensor([[1 / 3]]))
    expected = torch.tensor([[0.0, 0.3], [1.0, 0.3], [0.0, 0.3]])[None, None, :, None]
    torch.testing.assert_close(turned, expected)
    assert not torch.equal(vary(red_and_grey, strength=0, hue=0.1), red_and_grey)


def test_brightness_varies_by_up_to_the_strength_both_ways() -> None:
    # What is grey all over has no contrast and no saturation to vary
    factors = vary(torch.full((400, 1, 3, 1, 1), 0.5)).flatten(1) / 0.5
    torch.testing.assert_close(factors[:, :1].expand_as(factors), factors)
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2


def test_contrast_and_saturation_vary_too() -> None:
    images = torch.full((400, 1, 3, 1, 2), 0.4)
    images[..., 1] = 0.6
    dark, light = vary(images)[:, 0, 0, 0].T
    contrast = (light - dark) / (light + dark) / 0.2
    assert 0.79 < contrast.min() < 0.82
    assert 1.18 < contrast.max() < 1.21
    # Contrast acts on colours too: 0.8 * 0.8 to 1.2 * 1.2 together
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 1, 3, 1, 1).expand(400, 1, 3, 1, 1)
    r, g, _ = vary(red)[:, 0, :, 0, 0].T
    both = (r - g) / (0.299 * r + 0.701 * g) / (0.2 / (0.299 * 0.6 + 0.701 * 0.4))
    assert 0.63 < both.min() < 0.72
    assert 1.36 < both.max() < 1.45


def test_no_strength_leaves_colours_alone(batch) -> None:
    torch.testing.assert_close(vary(batch.images, strength=0.0), batch.images)


def test_only_the_network_sees_varied_colours_and_half_of_the_windows_are_mirrored(batch) -> None:
    small = replace(batch, images=batch.images[..., ::8, ::8])
    mirrored = 0
    for window in range(40):
        draws = draw(torch.tensor([window]), 3, seed=0, epoch=0)
        true, shown = augment(small, ColourJitter(), draws)
        assert not torch.equal(shown, true.images)
        flipped = torch.equal(true.images, small.images.flip(-1))
        assert flipped or torch.equal(true.images, small.images)
        mirrored += flipped
    assert 10 < mirrored < 30
