"""
Variety that keeps the geometry true: mirror with K and poses, colours for the network only.

What is drawn belongs to a window in an epoch, not to a moment: the same whatever the number of
workers and processes, and after a run was cut off and resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tc_depth_ros.geometry.intrinsics import flip_intrinsics
from tc_depth_ros.geometry.transform import rotation_from_axis_angle
from tc_depth_training.data.windows import Batch

GREY = (0.299, 0.587, 0.114)


class ColourJitter(BaseModel):
    """How colours are varied."""

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)

    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # of brightness, contrast, saturation
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of the colour circle
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0  # that a window is varied at all
    # One draw for each frame, as the paper's program does; else one for each window, since the
    # pose network compares its frames
    per_frame: bool = False


@dataclass(frozen=True)
class Draws:
    """What chance says of B windows of F frames; uniform in [0, 1)."""

    mirror: Tensor  # (B,)
    vary: Tensor  # (B,)
    brightness: Tensor  # (B, F), as the next three
    contrast: Tensor
    saturation: Tensor
    hue: Tensor


def draw(windows: Tensor, frames: int, seed: int, epoch: int) -> Draws:
    """
    Draw for each window of a batch.

    :param windows: their numbers within the dataset, (B,)
    """
    each = [
        np.random.default_rng((seed, epoch, int(window))).random(2 + 4 * frames)
        for window in windows
    ]
    drawn = torch.from_numpy(np.stack(each)).float()
    colours = drawn[:, 2:].unflatten(1, (4, frames)).unbind(dim=1)
    return Draws(drawn[:, 0], drawn[:, 1], *colours)


def augment(batch: Batch, jitter: ColourJitter, draws: Draws) -> tuple[Batch, Tensor]:
    """Mirror half of the windows; return the batch, and its images in varied colours."""
    mirrored = mirror(batch, draws.mirror < 0.5)
    return mirrored, vary_colours(mirrored.images, jitter, draws)


def mirror(batch: Batch, chosen: Tensor) -> Batch:
    """
    Mirror some windows left to right; poses are mirrored with them, ``M T M``.

    :param chosen: (B,) boolean
    """
    chosen = chosen.to(batch.images.device)

    def pick(mirrored: Tensor, plain: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (plain.dim() - 1)), mirrored, plain)

    M = torch.diag(batch.world_T_camera.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    return replace(
        batch,
        images=pick(batch.images.flip(-1), batch.images),
        K=pick(flip_intrinsics(batch.K, batch.images.shape[-1]), batch.K),
        world_T_camera=pick(M @ batch.world_T_camera @ M, batch.world_T_camera),
        seen=pick(batch.seen.flip(-1), batch.seen),
        depth=pick(batch.depth.flip(-1), batch.depth),
    )


def vary_colours(images: Tensor, jitter: ColourJitter, draws: Draws) -> Tensor:
    """
    Vary brightness, contrast and saturation by a factor of up to 1 +- strength, and turn the hue.

    :param images: RGB in [0, 1], (B, F, 3, H, W)
    """

    def centred(drawn: Tensor) -> Tensor:
        """In [-1, 1), for each frame or the same for all of a window; (B, F, 1, 1, 1)."""
        each = drawn if jitter.per_frame else drawn[:, :1].expand_as(drawn)
        return (2 * each - 1).to(images)[..., None, None, None]

    brightness, contrast, saturation = (
        1 + jitter.strength * centred(x)
        for x in (draws.brightness, draws.contrast, draws.saturation)
    )
    bright = images * brightness
    grey = (bright * bright.new_tensor(GREY)[:, None, None]).sum(dim=2, keepdim=True)
    saturated = grey + saturation * (bright - grey)
    mean = grey.mean(dim=(3, 4) if jitter.per_frame else (1, 3, 4), keepdim=True)
    varied: Tensor = (mean + contrast * (saturated - mean)).clamp(0, 1)
    if jitter.hue > 0:
        turns = jitter.hue * centred(draws.hue)[..., 0, 0, 0]
        varied = turn_hue(varied, turns).clamp(0, 1)
    if jitter.probability < 1:
        chosen = (draws.vary < jitter.probability).to(images.device)
        varied = torch.where(chosen[:, None, None, None, None], varied, images)
    return varied


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """
    Turn colours about the grey axis, which keeps greys and the sum of R, G and B.

    :param images: RGB, (B, F, 3, H, W)
    :param turns: of the colour circle, (B, F); a third makes red green
    """
    axis = images.new_ones(3) / math.sqrt(3)
    rotation = rotation_from_axis_angle(2 * math.pi * turns[..., None] * axis)
    return torch.einsum('bfij,bfjhw->bfihw', rotation, images)
