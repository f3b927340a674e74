"""The target rebuilt from one source: what it looks like, and how far it can be relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tc_depth_ros.geometry.consistency import depth_agreement
from tc_depth_ros.geometry.reprojection import warp
from tc_depth_ros.geometry.transform import invert_transform
from tc_depth_training.losses.masks import (
    LEFT_OUT_ERROR,
    cycle_error,
    cycle_mask,
    inner,
    readable,
    tie_break,
)
from tc_depth_training.losses.photometric import photometric_error


@dataclass(frozen=True)
class SourceView:
    """A neighbouring frame, sampled to rebuild the target."""

    image: Tensor  # RGB in [0, 1], (B, 3, H, W)
    index: int  # of the frame within the window
    source_T_target: Tensor  # (B, 4, 4)


@dataclass(frozen=True)
class Scene:
    """What all scales share."""

    target: Tensor  # RGB in [0, 1], (B, 3, H, W)
    target_index: int
    sources: Sequence[SourceView]
    K: Tensor  # (B, 3, 3)
    depth_range: tuple[float, float]
    identity_error: Tensor  # minimum over the sources, (B, 1, H, W)
    teacher_depth: Tensor | None  # (B, 1, H, W)
    usable: Tensor | None  # 1 = usable, of all frames of a window alike, (B, 1, H, W); None: all


@dataclass(frozen=True)
class Rebuilt:
    """The target as one source shows it, pixel by pixel."""

    warped: Tensor  # (B, 3, H, W)
    error: Tensor  # photometric; LEFT_OUT_ERROR where the source is not to be read, (B, 1, H, W)
    difference: Tensor  # relative, of the two depths, (B, 1, H, W)
    in_view: Tensor  # 1 = the source sees and may be read there, (B, 1, H, W)
    cycle_mask: Tensor  # times in_view, 1 = used, (B, 1, H, W)


def rebuild(
    scene: Scene,
    source: SourceView,
    target_depth: Tensor,
    source_depth: Tensor,
    cycle_kept: float,
    cycle_per_image: bool,
) -> Rebuilt:
    """
    Warp a source to the target, and compare images and depths.

    :param target_depth: (B, 1, H, W)
    :param source_depth: the source's own depth, (B, 1, H, W)
    """
    target, K, source_T_target = scene.target, scene.K, source.source_T_target
    warped = warp(source.image, target_depth, K, source_T_target)
    error = photometric_error(warped, target)
    agreement = depth_agreement(target_depth, source_depth, K, source_T_target, *scene.depth_range)
    in_view = agreement.in_view.detach()
    if scene.usable is not None:
        read = readable(scene.usable, target_depth, K, source_T_target)
        error = torch.where(inner(read) > 0, error, LEFT_OUT_ERROR)
        in_view = in_view * read
        target = target * scene.usable
    target_T_source = invert_transform(source_T_target)
    cycle = cycle_error(target, target_depth, source_depth, K, source_T_target, target_T_source)
    kept = cycle_mask(cycle, cycle_kept, cycle_per_image, scene.usable)
    return Rebuilt(warped, error, agreement.difference, in_view, kept * in_view)


@torch.no_grad()
def identity_error(target: Tensor, sources: Sequence[SourceView]) -> Tensor:
    """
    Photometric error of the sources as they are, the minimum over them, ties broken.

    It is below LEFT_OUT_ERROR everywhere: what is not to be read is not used either.

    :return: (B, 1, H, W)
    """
    error = minimum([photometric_error(source.image, target) for source in sources])
    return error + tie_break(*error.shape[-2:], error.device).to(error.dtype)


def minimum(errors: Sequence[Tensor]) -> Tensor:
    """Pixelwise minimum over the sources, (B, 1, H, W)."""
    return torch.cat(list(errors), dim=1).min(dim=1, keepdim=True).values
