"""
What the matched depth learns from: the losses of the single frame, and when to stay away.

Motions are wrong on purpose in some windows of a batch. There the answer must stay the single
frame's, so that matching does no harm where odometry is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tc_depth_ros.geometry.consistency import depth_agreement
from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.geometry.reprojection import in_view, lookup, sample
from tc_depth_ros.geometry.transform import (
    invert_transform,
    rotation_from_axis_angle,
    transform_from_rotation,
)
from tc_depth_training.losses.masks import LEFT_OUT_ERROR, auto_mask, inner, readable
from tc_depth_training.losses.photometric import photometric_error, reprojection_loss
from tc_depth_training.losses.rebuilding import Scene, minimum
from tc_depth_training.losses.smoothness import smoothness_loss

WRONG_KINDS = 3  # see disturbed
WRONG_TURN = 0.05  # rad, standard deviation of a wrong rotation about each axis
# Of an inexact motion at most: standard deviation of its turn about each axis, rad; length of its
# shift as a share of the motion's
INEXACT_TURN, INEXACT_SHIFT = 0.015, 0.15


@dataclass(frozen=True)
class Matched:
    """Depth after matching: of the target, and of one source to compare with."""

    disparity: Tensor  # of the target, (B, 1, H, W)
    log_factor: Tensor  # of the target's depth, by the match, (B, 1, h, w)
    is_right: Tensor  # whether the motions that the target is matched by are the bag's, (B,) bool
    source_disparity: Tensor  # of the first source, matched by the bag's motions, (B, 1, H, W)


def disturbed(
    motions: Sequence[Tensor], share: float, known: Tensor
) -> tuple[list[Tensor], Tensor]:
    """
    Replace the motions of some windows by wrong ones, all sources of a window alike.

    A wrong motion is: standing still; reversed; noise. One that is only of a wrong length is not
    wrong: depth of that length fits it.

    :param motions: per source, ``source_T_target`` (B, 4, 4)
    :param share: of the windows
    :param known: whether the motion is known at all; else the window counts as wrong, (B,)
    :return: the motions, and whether each window's are right, (B,) bool
    """
    count, device = len(known), motions[0].device
    wrong = torch.rand(count, device=device) < share
    kind = torch.randint(WRONG_KINDS, (count,), device=device)
    replaced = []
    for motion in motions:
        choices = torch.stack(
            [
                torch.eye(4, device=device).expand_as(motion),
                invert_transform(motion),
                _noise(motion),
            ]
        )
        chosen = choices[kind, torch.arange(count, device=device)]
        replaced.append(torch.where(wrong[:, None, None], chosen, motion))
    return replaced, ~wrong & known


def inexact(motions: Sequence[Tensor], share: float) -> list[Tensor]:
    """
    Make the motions of some windows slightly wrong, as an inexact mounting or K does.

    The answer must still be the right depth. So the network learns to trust a match less if it
    does not fit exactly.

    :param motions: per source, ``source_T_target`` (B, 4, 4)
    :param share: of the windows
    """
    count, device = len(motions[0]), motions[0].device
    size = torch.rand(count, device=device) * (torch.rand(count, device=device) < share)
    return [_changed(motion, INEXACT_TURN * size, INEXACT_SHIFT * size) for motion in motions]


def matching_loss(
    matched: Matched, scene: Scene, smoothness_weight: float, geometric_weight: float
) -> Tensor:
    """
    ``L_p + L_geo + L_sm`` of matched depth where motions are right, ``|ln factor|`` where wrong.

    :param scene: with the right motions
    """
    right = matched.is_right.view(-1, 1, 1, 1)
    depth = depth_from_disparity(matched.disparity, *scene.depth_range)
    errors = []
    for source in scene.sources:
        pixels, z = lookup(depth, scene.K, source.source_T_target)
        error = photometric_error(sample(source.image, pixels), scene.target)
        seen = in_view(pixels, z, *depth.shape[-2:])
        if scene.usable is not None:
            seen = seen * inner(readable(scene.usable, depth, scene.K, source.source_T_target))
        errors.append(torch.where(seen > 0, error, LEFT_OUT_ERROR))
    error = minimum(errors)
    used = auto_mask(error, scene.identity_error) * right
    stay = matched.log_factor.abs().mean(dim=(1, 2, 3))
    wrong = (~matched.is_right).to(stay.dtype)
    source = scene.sources[0]
    agreement = depth_agreement(
        depth,
        depth_from_disparity(matched.source_disparity, *scene.depth_range),
        scene.K,
        source.source_T_target,
        *scene.depth_range,
    )
    compared = used * agreement.in_view.detach()
    return (
        reprojection_loss(error, used)
        + geometric_weight * (compared * agreement.difference).mean()
        + smoothness_weight * smoothness_loss(matched.disparity, scene.target)
        + (wrong * stay).sum() / len(stay)
    )


def depth_loss(depth: Tensor, truth: Tensor) -> Tensor:
    """
    Mean of ``|ln depth - ln truth|`` where the truth is known; 0 if it is nowhere.

    :param depth: (B, 1, H, W)
    :param truth: of the same shape, NaN where unknown
    """
    known = truth.isfinite() & (truth > 0)
    difference = (depth.log() - torch.where(known, truth, depth.detach()).log()).abs()
    return difference.sum() / known.sum().clamp(min=1)


def _noise(motion: Tensor) -> Tensor:
    """Turn and shift at random; the shift is as long as the motion's."""
    turn = WRONG_TURN * torch.randn(len(motion), 3, device=motion.device)
    return transform_from_rotation(rotation_from_axis_angle(turn), _shift_as_long_as(motion))


def _changed(motion: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Turn by some rad about each axis, and shift by a share of the motion's length, each (B,)."""
    axes = turn[:, None] * torch.randn(len(motion), 3, device=motion.device)
    change = transform_from_rotation(
        rotation_from_axis_angle(axes), shift[:, None] * _shift_as_long_as(motion)
    )
    changed: Tensor = change @ motion
    return changed


def _shift_as_long_as(motion: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(motion[:, :3, 3], dim=-1, keepdim=True)
    shift: Tensor = length * F.normalize(torch.randn_like(motion[:, :3, 3]), dim=-1)
    return shift
