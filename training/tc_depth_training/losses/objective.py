"""The weighted sum of all terms over scales and sources, every term named; SPEC 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tc_depth_ros.geometry.depth import depth_from_disparity, inverse_depth_from_disparity
from tc_depth_ros.network.output import DepthOutput
from tc_depth_training.losses.consistency import coarse_loss, geometric_loss
from tc_depth_training.losses.masks import CYCLE_KEPT, auto_mask
from tc_depth_training.losses.matching import Matched, depth_loss, matching_loss
from tc_depth_training.losses.motion import STATIC_THRESHOLD, motion_loss, static_mask
from tc_depth_training.losses.photometric import reprojection_loss
from tc_depth_training.losses.rebuilding import (
    Rebuilt,
    Scene,
    SourceView,
    identity_error,
    minimum,
    rebuild,
)
from tc_depth_training.losses.smoothness import smoothness_loss

Scale = Annotated[int, Field(ge=0, le=3)]  # disparity at H/2^s, W/2^s


class ObjectiveConfig(BaseModel):
    """Weights of the terms, and the choices within them."""

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)

    geometric_weight: Annotated[float, Field(ge=0)] = 0.1
    smoothness_weight: Annotated[float, Field(ge=0)] = (
        1e-3  # at full size; halved with every scale
    )
    motion_weight: Annotated[float, Field(ge=0)] = 1.0  # while there is a teacher
    motion_threshold: Annotated[float, Field(gt=0)] = STATIC_THRESHOLD
    pose_weight: Annotated[float, Field(ge=0)] = 1.0  # with pose: both
    matching_weight: Annotated[float, Field(ge=0)] = 1.0  # with network.matching
    depth_weight: Annotated[float, Field(ge=0)] = 1.0  # with data.learned_depth_topics
    # Of the windows, in which matching is given a wrong motion and must leave depth alone
    wrong_motion_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    # Of the windows, in which matching is given a slightly wrong motion
    inexact_motion_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    cycle_kept: Annotated[float, Field(gt=0, le=1)] = CYCLE_KEPT
    # False: over the batch (of one process), as in the paper's code
    cycle_per_image: bool = True
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (0, 1, 2, 3)


@dataclass(frozen=True)
class ObjectiveMaps:
    """What the finest scale's loss was made of, to look at; detached, B windows."""

    target: Tensor  # RGB in [0, 1], (B, 3, H, W)
    warped: tuple[Tensor, ...]  # per source, (B, 3, H, W)
    reprojection_error: Tensor  # minimum over the sources, (B, 1, H, W)
    identity_error: Tensor  # (B, 1, H, W)
    disparity: Tensor  # of the target, (B, 1, H, W)
    coarse_inverse_depth: Tensor | None  # of the target, (B, 1, h, w)
    auto_mask: Tensor  # 1 = used, (B, 1, H, W)
    cycle_masks: tuple[Tensor, ...]  # per source, times in view, (B, 1, H, W)
    static_mask: Tensor  # 1 = static, (B, 1, H, W)


@dataclass(frozen=True)
class Objective:
    """The loss of one step and what it is made of: scalars, and maps to look at."""

    total: Tensor
    photometric: Tensor
    geometric: Tensor
    smoothness: Tensor
    coarse: Tensor
    motion: Tensor
    pose: Tensor  # 0 unless the pose network learns from odometry
    matching: Tensor  # 0 unless the network matches
    depth: Tensor  # 0 unless depth is learned from
    # Of the finest scale, detached
    auto_mask_share: Tensor  # of the usable pixels, those that the photometric loss uses
    static_share: Tensor  # of the pixels where the teacher agrees; 1 without one
    geometric_difference: Tensor  # relative, of two views' depths, mean over what both see
    disparity_spread: Tensor  # standard deviation over mean of the target's, mean over images
    translation: Tensor  # median length of the motions used, network units; 0 where none is
    maps: ObjectiveMaps

    def values(self) -> dict[str, Tensor]:
        """All scalars by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'maps'}


@dataclass(frozen=True)
class _ScaleTerms:
    photometric: Tensor
    geometric: Tensor
    smoothness: Tensor
    motion: Tensor
    rebuilt: Sequence[Rebuilt]
    reprojection_error: Tensor
    auto_mask: Tensor
    static_mask: Tensor


def objective(
    output: DepthOutput,
    target: Tensor,
    target_index: int,
    sources: Sequence[SourceView],
    K: Tensor,
    depth_range: tuple[float, float],
    config: ObjectiveConfig,
    teacher_depth: Tensor | None = None,
    usable: Tensor | None = None,
    pose: Tensor | None = None,
    matched: Matched | None = None,
    truth: Tensor | None = None,
) -> Objective:
    """
    ``mean_s [L_p + L_m + 0.1 L_geo + (1e-3 / 2^s) L_sm] + L_ref + L_pose + L_match + L_depth``.

    With several processes, each with as many windows, the mean of their gradients is the gradient
    of one process with all windows (but for cycle_per_image: false).

    :param output: of the depth network for the whole window, (B, F, ...)
    :param target: image of the target, RGB in [0, 1] and not augmented, (B, 3, H, W)
    :param target_index: of the target within the window
    :param sources: the other frames that rebuild it
    :param K: intrinsics in pixels of H x W, (B, 3, 3)
    :param depth_range: (min_depth, max_depth) of the network
    :param teacher_depth: of the target at full size, (B, 1, H, W); None: L_m is left out, and
        every pixel counts as static
    :param usable: pixels of all frames of a window that show something and whose motion is known,
        1 = usable, (B, 1, H, W); only smoothness and L_ref look at the others. None: all
    :param pose: L_pose, from pose_loss; None: there is none
    :param matched: the target's depth after matching; None: the network does not match
    :param truth: depth of the target to learn from, NaN where unknown, (B, 1, H, W); None: none
    """
    still = identity_error(target, sources)
    scene = Scene(target, target_index, sources, K, depth_range, still, teacher_depth, usable)
    terms = [_scale_terms(output.disparities[s], scene, config) for s in config.scales]
    photometric = _mean([t.photometric for t in terms])
    geometric = _mean([t.geometric for t in terms])
    smoothness = _mean([t.smoothness / 2**s for s, t in zip(config.scales, terms, strict=True)])
    motion = _mean([t.motion for t in terms])
    coarse = photometric.new_zeros(())
    if output.coarse_inverse_depth is not None:
        finest = inverse_depth_from_disparity(output.disparities[0].flatten(0, 1), *depth_range)
        coarse = coarse_loss(output.coarse_inverse_depth.flatten(0, 1), finest)
    zero = photometric.new_zeros(())
    pose = zero if pose is None else pose
    matching = depth = zero
    if matched is not None:
        matching = matching_loss(matched, scene, config.smoothness_weight, config.geometric_weight)
    if truth is not None:
        answers = [output.disparities[0][:, target_index]]
        answers += [matched.disparity] if matched is not None else []
        depths = [depth_from_disparity(disparity, *depth_range) for disparity in answers]
        depth = torch.stack([depth_loss(one, truth) for one in depths]).sum()
    total = (
        photometric
        + config.motion_weight * motion
        + config.geometric_weight * geometric
        + config.smoothness_weight * smoothness
        + config.pose_weight * pose
        + config.matching_weight * matching
        + config.depth_weight * depth
        + coarse
    )
    shown = terms[config.scales.index(min(config.scales))]
    maps = _maps(output, scene, shown, matched)
    return Objective(
        total,
        photometric,
        geometric,
        smoothness,
        coarse,
        motion,
        pose,
        matching,
        depth,
        _share(shown.auto_mask, usable),
        shown.static_mask.mean(),
        _seen_difference(shown.rebuilt),
        (maps.disparity.std(dim=(1, 2, 3)) / maps.disparity.mean(dim=(1, 2, 3))).mean(),
        _median_translation(sources, usable),
        maps,
    )


def _scale_terms(disparities: Tensor, scene: Scene, config: ObjectiveConfig) -> _ScaleTerms:
    """Terms of one scale, whose disparities (B, F, 1, h, w) are upsampled before they warp."""
    target = scene.target

    def depth_of(index: int) -> Tensor:
        disparity = disparities[:, index]
        full = F.interpolate(disparity, target.shape[-2:], mode='bilinear', align_corners=False)
        return depth_from_disparity(full, *scene.depth_range)

    target_depth = depth_of(scene.target_index)
    cycle = config.cycle_kept, config.cycle_per_image
    rebuilt = [rebuild(scene, s, target_depth, depth_of(s.index), *cycle) for s in scene.sources]
    reprojection_error = minimum([r.error for r in rebuilt])
    used = auto_mask(reprojection_error, scene.identity_error)
    static, motion = torch.ones_like(used), used.new_zeros(())
    if scene.teacher_depth is not None:
        static = static_mask(target_depth, scene.teacher_depth, config.motion_threshold)
        if scene.usable is not None:
            static = torch.where(scene.usable > 0, static, 1.0)
        motion = motion_loss(target_depth, scene.teacher_depth, static)
    smaller_target = F.interpolate(target, disparities.shape[-2:], mode='area')
    return _ScaleTerms(
        reprojection_loss(reprojection_error, used),
        geometric_loss(
            [r.difference for r in rebuilt],
            [r.cycle_mask for r in rebuilt],
            used * static,
            _count(used, scene.usable),
        ),
        smoothness_loss(disparities[:, scene.target_index], smaller_target),
        motion,
        rebuilt,
        reprojection_error,
        used,
        static,
    )


def _maps(
    output: DepthOutput, scene: Scene, finest: _ScaleTerms, matched: Matched | None
) -> ObjectiveMaps:
    """Collect what is there anyway."""
    coarse = output.coarse_inverse_depth
    decoded = output.disparities[0][:, scene.target_index]
    return ObjectiveMaps(
        scene.target,
        tuple(r.warped.detach() for r in finest.rebuilt),
        finest.reprojection_error.detach(),
        scene.identity_error,
        (decoded if matched is None else matched.disparity).detach(),
        None if coarse is None else coarse[:, scene.target_index].detach(),
        finest.auto_mask,
        tuple(r.cycle_mask for r in finest.rebuilt),
        finest.static_mask,
    )


def _count(like: Tensor, usable: Tensor | None) -> Tensor:
    """How many pixels are usable, scalar."""
    return like.new_full((), like.numel()) if usable is None else usable.sum()


def _share(mask: Tensor, usable: Tensor | None) -> Tensor:
    return mask.sum() / _count(mask, usable).clamp(min=1)


def _seen_difference(rebuilt: Sequence[Rebuilt]) -> Tensor:
    """Mean relative difference of two views' depths over the pixels that both see."""
    in_view = torch.cat([r.in_view for r in rebuilt])
    difference = torch.cat([r.difference.detach() for r in rebuilt])
    return (in_view * difference).sum() / in_view.sum().clamp(min=1)


def _median_translation(sources: Sequence[SourceView], usable: Tensor | None) -> Tensor:
    motions = torch.stack([s.source_T_target.detach()[:, :3, 3] for s in sources])  # (S, B, 3)
    lengths: Tensor = torch.linalg.vector_norm(motions, dim=-1)
    if usable is not None:
        lengths = lengths.masked_fill(usable.flatten(1).sum(dim=1) == 0, torch.nan)
    return lengths.nanmedian().nan_to_num()


def _mean(terms: Sequence[Tensor]) -> Tensor:
    """Mean over the scales of scalar tensors."""
    return torch.stack(list(terms)).sum() / len(terms)
