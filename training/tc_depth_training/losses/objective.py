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
    auto_mask_share: Tensor  # of the pixels that the photometric loss uses


@dataclass(frozen=True)
class _ScaleTerms:
    photometric: Tensor
    geometric: Tensor
    smoothness: Tensor
    auto_mask_share: Tensor


def objective(
    output: DepthOutput,
    target: Tensor,
    target_index: int,
    sources: Sequence[SourceView],
    K: Tensor,
    depth_range: tuple[float, float],
    config: ObjectiveConfig,
) -> Objective:
    """
    ``L = mean_s [L_p + 0.1 L_geo + (1e-3 / 2^s) L_sm] + L_ref``, without the teacher's term.

    :param output: of the depth network for the whole window, (B, F, ...)
    :param target: image of the target, RGB in [0, 1] and not augmented, (B, 3, H, W)
    :param target_index: of the target within the window
    :param sources: the other frames that rebuild it
    :param K: intrinsics in pixels of H x W, (B, 3, 3)
    :param depth_range: (min_depth, max_depth) of the network
    """
    identity_error = _minimum([photometric_error(source.image, target) for source in sources])
    # Ties of a static pair must not all fall to one side
    identity_error = identity_error + 1e-5 * torch.randn_like(identity_error)
    terms = [
        _scale_terms(
            output, scale, target, target_index, sources, K, depth_range, identity_error, config
        )
        for scale in config.scales
    ]
    count = len(terms)
    photometric = sum_of([t.photometric for t in terms]) / count
    geometric = sum_of([t.geometric for t in terms]) / count
    smoothness = (
        sum_of([t.smoothness / 2**s for s, t in zip(config.scales, terms, strict=True)]) / count
    )
    coarse = photometric.new_zeros(())
    if output.coarse_inverse_depth is not None:
        finest = inverse_depth_from_disparity(output.disparities[0].flatten(0, 1), *depth_range)
        coarse = coarse_loss(output.coarse_inverse_depth.flatten(0, 1), finest)
    total = (
        photometric
        + config.geometric_weight * geometric
        + config.smoothness_weight * smoothness
        + coarse
    )
    return Objective(total, photometric, geometric, smoothness, coarse, terms[0].auto_mask_share)


def _scale_terms(
    output: DepthOutput,
    scale: int,
    target: Tensor,
    target_index: int,
    sources: Sequence[SourceView],
    K: Tensor,
    depth_range: tuple[float, float],
    identity_error: Tensor,
    config: ObjectiveConfig,
) -> _ScaleTerms:
    """Terms of one scale, whose disparity is upsampled before it warps."""
    disparities = output.disparities[scale]
    size = target.shape[-2:]

    def depth_of(index: int) -> Tensor:
        disparity = disparities[:, index]
        full = F.interpolate(disparity, size, mode='bilinear', align_corners=False)
        return depth_from_disparity(full, *depth_range)

    target_depth = depth_of(target_index)
    errors, differences, masks = [], [], []
    for source in sources:
        source_T_target, source_depth = source.source_T_target, depth_of(source.index)
        warped = warp(source.image, target_depth, K, source_T_target)
        errors.append(photometric_error(warped, target))
        agreement = depth_agreement(target_depth, source_depth, K, source_T_target, *depth_range)
        target_T_source = invert_transform(source_T_target)
        cycle = cycle_error(
            target, target_depth, source_depth, K, source_T_target, target_T_source
        )
        kept = cycle_mask(cycle, config.cycle_kept, config.cycle_per_image)
        differences.append(agreement.difference)
        masks.append((kept * agreement.in_view).detach())
    reprojection_error = _minimum(errors)
    used = auto_mask(reprojection_error, identity_error)
    smaller_target = F.interpolate(target, disparities.shape[-2:], mode='area')
    return _ScaleTerms(
        reprojection_loss(reprojection_error, used),
        geometric_loss(differences, masks, used),
        smoothness_loss(disparities[:, target_index], smaller_target),
        used.mean().detach(),
    )


def _minimum(errors: Sequence[Tensor]) -> Tensor:
    """Pixelwise minimum over the sources, (B, 1, H, W)."""
    return torch.cat(list(errors), dim=1).min(dim=1, keepdim=True).values


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Sum of scalar tensors, typed as one."""
    return torch.stack(list(terms)).sum()
