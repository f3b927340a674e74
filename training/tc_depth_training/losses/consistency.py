"""Depth losses between predictions: of two views, and of the coarse guess with the final one."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tc_depth_training.processes import shared_count


def geometric_loss(
    differences: Sequence[Tensor], masks: Sequence[Tensor], used: Tensor, usable: Tensor
) -> Tensor:
    """
    ``mean_p(M_auto M_static (1/S) sum_s M_s l_geo,s)`` over the usable pixels; SPEC 2(b).

    Masked pixels count as 0 rather than not at all; those that are not usable do not count.

    :param differences: per source, relative difference of the depths, (B, 1, H, W)
    :param masks: per source, cycle mask times in-view mask, 1 = used, (B, 1, H, W)
    :param used: auto-mask times static mask, 1 = used, (B, 1, H, W)
    :param usable: how many pixels are usable, scalar
    :return: scalar
    """
    terms = [mask * difference for mask, difference in zip(masks, differences, strict=True)]
    total = (used * sum(terms) / len(terms)).sum()
    return total / shared_count(usable).clamp(min=1e-7)


def coarse_loss(coarse_inverse_depth: Tensor, inverse_depth: Tensor) -> Tensor:
    """
    L1 between the coarse guess and the detached final inverse depth, at full size; SPEC 2(f).

    :param coarse_inverse_depth: in 1/m, (B, 1, h, w)
    :param inverse_depth: in 1/m, (B, 1, H, W)
    :return: scalar
    """
    size = inverse_depth.shape[-2:]
    upsampled = F.interpolate(coarse_inverse_depth, size, mode='bilinear', align_corners=False)
    return (upsampled - inverse_depth.detach()).abs().mean()
