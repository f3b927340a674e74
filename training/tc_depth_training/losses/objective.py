"""The weighted sum of all terms over scales and sources, every term named; SPEC 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tc_depth_ros.geometry.consistency import depth_agreement
from tc_depth_ros.geometry.depth import depth_from_disparity, inverse_depth_from_disparity
from tc_depth_ros.geometry.reprojection import warp
from tc_depth_ros.geometry.transform import invert_transform
from tc_depth_ros.network.output import DepthOutput
from tc_depth_training.losses.consistency import coarse_loss, geometric_loss
from tc_depth_training.losses.masks import CYCLE_KEPT, auto_mask, cycle_error, cycle_mask
from tc_depth_training.losses.motion import STATIC_THRESHOLD, motion_loss, static_mask
from tc_depth_training.losses.photometric import photometric_error, reprojection_loss
from tc_depth_training.losses.smoothness import smoothness_loss

Scale = Annotated[int, Field(ge=0, le=3)]  # disparity at H/2^s, W/2^s


class ObjectiveConfig(BaseModel):
    """Weights of the terms, and the choices within them."""

    model_config = ConfigDict(extra='forbid', frozen=True)

    geometric_weight: Annotated[float, Field(ge=0)] = 0.1
    smoothness_weight: Annotated[float, Field(ge=0)] = (
        1e-3  # at full size; halved with every scale
    )
    motion_weight: Annotated[float, Field(ge=0)] = 1.0  # while there is a teacher
    motion_threshold: Annotated[float, Field(gt=0)] = STATIC_THRESHOLD
    pose_weight: Annotated[float, Field(ge=0)] = 1.0  # with pose: both
    cycle_kept: Annotated[float, Field(gt=0, le=1)] = CYCLE_KEPT
    cycle_per_image: bool = True  # False: over the batch, as in the paper's code
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (0, 1, 2, 3)


@dataclass(frozen=True)
class SourceView:
    """A neighbouring frame, sampled to rebuild the target."""

    image: Tensor  # RGB in [0, 1], (B, 3, H, W)
    index: int  # of the frame within the window
    source_T_target: Tensor  # (B, 4, 4)


@dataclass(frozen=True)
class Objective:
    """The loss of one step and what it is made of; scalars."""

    total: Tensor
    photometric: Tensor
    geometric: Tensor
    smoothness: Tensor
    coarse: Tensor
    motion: Tensor
    auto_mask_share: Tensor  # of the pixels that the photometric loss uses
    static_share: Tensor  # of the pixels where the teacher agrees; 1 without one


@dataclass(frozen=True)
class _Scene:
    """What all scales share."""

    target: Tensor  # RGB in [0, 1], (B, 3, H, W)
    target_index: int
    sources: Sequence[SourceView]
    K: Tensor  # (B, 3, 3)
    depth_range: tuple[float, float]
    identity_error: Tensor  # (B, 1, H, W)
    teacher_depth: Tensor | None  # (B, 1, H, W)


@dataclass(frozen=True)
class _ScaleTerms:
    photometric: Tensor
    geometric: Tensor
    smoothness: Tensor
    motion: Tensor
    auto_mask_share: Tensor
    static_share: Tensor


def objective(
    output: DepthOutput,
    target: Tensor,
    target_index: int,
    sources: Sequence[SourceView],
    K: Tensor,
    depth_range: tuple[float, float],
    config: ObjectiveConfig,
    teacher_depth: Tensor | None = None,
) -> Objective:
    """
    ``L = mean_s [L_p + L_m + 0.1 L_geo + (1e-3 / 2^s) L_sm] + L_ref``.

    :param output: of the depth network for the whole window, (B, F, ...)
    :param target: image of the target, RGB in [0, 1] and not augmented, (B, 3, H, W)
    :param target_index: of the target within the window
    :param sources: the other frames that rebuild it
    :param K: intrinsics in pixels of H x W, (B, 3, 3)
    :param depth_range: (min_depth, max_depth) of the network
    :param teacher_depth: of the target at full size, (B, 1, H, W); None: L_m is left out, and
        every pixel counts as static
    """
    identity_error = _minimum([photometric_error(source.image, target) for source in sources])
    # Ties of a static pair must not all fall to one side
    identity_error = identity_error + 1e-5 * torch.randn_like(identity_error)
    scene = _Scene(target, target_index, sources, K, depth_range, identity_error, teacher_depth)
    terms = [_scale_terms(output.disparities[s], scene, config) for s in config.scales]
    photometric = _mean([t.photometric for t in terms])
    geometric = _mean([t.geometric for t in terms])
    smoothness = _mean([t.smoothness / 2**s for s, t in zip(config.scales, terms, strict=True)])
    motion = _mean([t.motion for t in terms])
    coarse = photometric.new_zeros(())
    if output.coarse_inverse_depth is not None:
        finest = inverse_depth_from_disparity(output.disparities[0].flatten(0, 1), *depth_range)
        coarse = coarse_loss(output.coarse_inverse_depth.flatten(0, 1), finest)
    total = (
        photometric
        + config.motion_weight * motion
        + config.geometric_weight * geometric
        + config.smoothness_weight * smoothness
        + coarse
    )
    return Objective(
        total,
        photometric,
        geometric,
        smoothness,
        coarse,
        motion,
        terms[0].auto_mask_share,
        terms[0].static_share,
    )


def _scale_terms(disparities: Tensor, scene: _Scene, config: ObjectiveConfig) -> _ScaleTerms:
    """Terms of one scale, whose disparities (B, F, 1, h, w) are upsampled before they warp."""
    target, K = scene.target, scene.K

    def depth_of(index: int) -> Tensor:
        disparity = disparities[:, index]
        full = F.interpolate(disparity, target.shape[-2:], mode='bilinear', align_corners=False)
        return depth_from_disparity(full, *scene.depth_range)

    target_depth = depth_of(scene.target_index)
    errors, differences, masks = [], [], []
    for source in scene.sources:
        source_T_target, source_depth = source.source_T_target, depth_of(source.index)
        warped = warp(source.image, target_depth, K, source_T_target)
        errors.append(photometric_error(warped, target))
        agreement = depth_agreement(
            target_depth, source_depth, K, source_T_target, *scene.depth_range
        )
        target_T_source = invert_transform(source_T_target)
        cycle = cycle_error(
            target, target_depth, source_depth, K, source_T_target, target_T_source
        )
        kept = cycle_mask(cycle, config.cycle_kept, config.cycle_per_image)
        differences.append(agreement.difference)
        masks.append((kept * agreement.in_view).detach())
    reprojection_error = _minimum(errors)
    used = auto_mask(reprojection_error, scene.identity_error)
    static, motion = torch.ones_like(used), used.new_zeros(())
    if scene.teacher_depth is not None:
        static = static_mask(target_depth, scene.teacher_depth, config.motion_threshold)
        motion = motion_loss(target_depth, scene.teacher_depth, static)
    smaller_target = F.interpolate(target, disparities.shape[-2:], mode='area')
    return _ScaleTerms(
        reprojection_loss(reprojection_error, used),
        geometric_loss(differences, masks, used * static),
        smoothness_loss(disparities[:, scene.target_index], smaller_target),
        motion,
        used.mean().detach(),
        static.mean(),
    )


def _minimum(errors: Sequence[Tensor]) -> Tensor:
    """Pixelwise minimum over the sources, (B, 1, H, W)."""
    return torch.cat(list(errors), dim=1).min(dim=1, keepdim=True).values


def _mean(terms: Sequence[Tensor]) -> Tensor:
    """Mean over the scales of scalar tensors."""
    return torch.stack(list(terms)).sum() / len(terms)
