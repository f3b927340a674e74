"""Variety that keeps the geometry true: mirror with K and poses, colours for the network only."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from tc_depth_ros.geometry.intrinsics import flip_intrinsics
from tc_depth_training.data.windows import Batch

GREY = (0.299, 0.587, 0.114)


def flip(batch: Batch) -> Batch:
    """Mirror the windows left to right; poses are mirrored with them, ``M T M``."""
    poses = batch.world_T_camera
    if poses is not None:
        mirror = torch.diag(poses.new_tensor([-1.0, 1.0, 1.0, 1.0]))
        poses = mirror @ poses @ mirror
    K = flip_intrinsics(batch.K, batch.images.shape[-1])
    return replace(batch, images=batch.images.flip(-1), K=K, world_T_camera=poses)


def jitter_colours(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """
    Vary brightness, contrast and saturation by a factor of up to 1 +- strength.

    One draw per window: the pose network compares its frames.

    :param images: RGB in [0, 1], (B, F, 3, H, W)
    """
    draws = 1 + strength * (2 * torch.rand(3, len(images), generator=generator) - 1)
    brightness, contrast, saturation = draws.to(images)[..., None, None, None, None]
    bright = images * brightness
    grey = (bright * bright.new_tensor(GREY)[:, None, None]).sum(dim=2, keepdim=True)
    saturated = grey + saturation * (bright - grey)
    mean = grey.mean(dim=(1, 3, 4), keepdim=True)
    jittered: Tensor = (mean + contrast * (saturated - mean)).clamp(0, 1)
    return jittered
