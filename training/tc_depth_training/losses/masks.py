"""Which pixels a loss may use; 1 = used, always detached."""

from __future__ import annotations

import torch
from torch import Tensor

from tc_depth_ros.geometry.reprojection import warp
from tc_depth_training.losses.photometric import photometric_error

CYCLE_KEPT = 0.7  # share of the pixels that the cycle mask keeps


def auto_mask(reprojection_error: Tensor, identity_error: Tensor) -> Tensor:
    """
    Keep the pixels where warping beats not warping: neither static nor moving along; SPEC 2(a).

    :param reprojection_error: minimum over the warped sources, (B, 1, H, W)
    :param identity_error: minimum over the sources as they are, (B, 1, H, W)
    :return: 1 = used, (B, 1, H, W)
    """
    return (reprojection_error < identity_error).to(reprojection_error.dtype).detach()


@torch.no_grad()
def cycle_error(
    target: Tensor,
    target_depth: Tensor,
    source_depth: Tensor,
    K: Tensor,
    source_T_target: Tensor,
    target_T_source: Tensor,
) -> Tensor:
    """
    Error of the target's image carried to the source's view and back; ``E_s`` of SPEC 2(c).

    :param target: RGB in [0, 1], (B, 3, H, W)
    :param target_depth: (B, 1, H, W)
    :param source_depth: the source's own depth, (B, 1, H, W)
    :return: (B, 1, H, W)
    """
    seen_from_source = warp(target, source_depth, K, target_T_source)
    # Zeros outside make the error large where the source does not see the pixel
    back = warp(seen_from_source, target_depth, K, source_T_target, padding='zeros')
    return photometric_error(back, target)


@torch.no_grad()
def cycle_mask(error: Tensor, kept: float = CYCLE_KEPT, per_image: bool = True) -> Tensor:
    """
    Keep the given share of the pixels, those of the lowest cycle error; SPEC 2(c).

    :param error: from :func:`cycle_error`, (B, 1, H, W)
    :param per_image: rank within each image (ours), or over the whole batch (the paper's code)
    :return: 1 = used, (B, 1, H, W)
    """
    ranked = error.flatten(1) if per_image else error.reshape(1, -1)
    # kthvalue rather than quantile, which refuses more than 16 million values
    rank = max(1, round(kept * ranked.shape[1]))
    threshold = ranked.kthvalue(rank, dim=1).values.view(-1, 1, 1, 1)
    return (error <= threshold).to(error.dtype)
