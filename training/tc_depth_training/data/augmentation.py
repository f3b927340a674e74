"""Variety that keeps the geometry true: mirror with K and poses, colours for the network only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from tc_depth_ros.geometry.intrinsics import flip_intrinsics
from tc_depth_ros.geometry.transform import rotation_from_axis_angle
from tc_depth_training.data.windows import Batch

GREY = (0.299, 0.587, 0.114)


class ColourJitter(BaseModel):
    """How colours are varied."""

    model_config = ConfigDict(extra='forbid', frozen=True)

    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # of brightness, contrast, saturation
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of the colour circle
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0  # that a window is varied at all
    # One draw for each frame, as the paper's program does; else one for each window, since the
    # pose network compares its frames
    per_frame: bool = False


def flip(batch: Batch) -> Batch:
    """Mirror the windows left to right; poses are mirrored with them, ``M T M``."""
    poses = batch.world_T_camera
    if poses is not None:
        mirror = torch.diag(poses.new_tensor([-1.0, 1.0, 1.0, 1.0]))
        poses = mirror @ poses @ mirror
    K = flip_intrinsics(batch.K, batch.images.shape[-1])
    return replace(batch, images=batch.images.flip(-1), K=K, world_T_camera=poses)


def jitter_colours(images: Tensor, jitter: ColourJitter, generator: Generator) -> Tensor:
    """
    Vary brightness, contrast and saturation by a factor of up to 1 +- strength, and turn the hue.

    :param images: RGB in [0, 1], (B, F, 3, H, W)
    """
    count, frames = images.shape[:2]
    drawn = (count, frames) if jitter.per_frame else (count, 1)

    def draw(*size: int) -> Tensor:
        return torch.rand(*size, *drawn, generator=generator).to(images)

    draws = 1 + jitter.strength * (2 * draw(3) - 1)
    brightness, contrast, saturation = draws[..., None, None, None]
    bright = images * brightness
    grey = (bright * bright.new_tensor(GREY)[:, None, None]).sum(dim=2, keepdim=True)
    saturated = grey + saturation * (bright - grey)
    mean = grey.mean(dim=(3, 4) if jitter.per_frame else (1, 3, 4), keepdim=True)
    jittered: Tensor = (mean + contrast * (saturated - mean)).clamp(0, 1)
    if jitter.hue > 0:
        turn = jitter.hue * (2 * draw() - 1)
        jittered = turn_hue(jittered, turn.expand(count, frames)).clamp(0, 1)
    if jitter.probability < 1:
        varied = torch.rand(count, generator=generator).to(images) < jitter.probability
        jittered = torch.where(varied[:, None, None, None, None], jittered, images)
    return jittered


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """
    Turn colours about the grey axis, which keeps greys and the sum of R, G and B.

    :param images: RGB, (B, F, 3, H, W)
    :param turns: of the colour circle, (B, F); a third makes red green
    """
    axis = images.new_ones(3) / math.sqrt(3)
    rotation = rotation_from_axis_angle(2 * math.pi * turns[..., None] * axis)
    return torch.einsum('bfij,bfjhw->bfihw', rotation, images)
