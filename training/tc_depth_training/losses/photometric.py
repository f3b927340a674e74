"""How much two images differ: SSIM, L1, and their mix; SPEC 2, ``pe``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tc_depth_training.processes import shared_count

SSIM_WEIGHT = 0.85
C1, C2 = 0.01**2, 0.03**2


def _mean3x3(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode='reflect'), 3, stride=1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """
    Structural similarity of two images in [0, 1] over 3x3 neighbourhoods.

    :param a: (B, C, H, W)
    :param b: (B, C, H, W)
    :return: in [-1, 1], 1 = equal, (B, C, H, W)
    """
    count = len(a)
    # One pooling over all five moments is faster than five
    moments = _mean3x3(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = moments.split(count)
    variance_a = square_a - mean_a * mean_a
    variance_b = square_b - mean_b * mean_b
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    similarity: Tensor = luminance * structure
    return similarity


def photometric_error(a: Tensor, b: Tensor) -> Tensor:
    """
    ``pe = 0.85 clamp((1 - SSIM) / 2, 0, 1) + 0.15 |a - b|``, averaged over colours.

    :param a: RGB in [0, 1], (B, 3, H, W)
    :param b: the same
    :return: (B, 1, H, W), 0 = equal
    """
    dissimilarity = ((1 - ssim(a, b)) / 2).clamp(0, 1)
    error = SSIM_WEIGHT * dissimilarity + (1 - SSIM_WEIGHT) * (a - b).abs()
    return error.mean(dim=1, keepdim=True)


def reprojection_loss(reprojection_error: Tensor, auto_mask: Tensor) -> Tensor:
    """
    Mean of the minimum reprojection error over the pixels kept, of all processes; SPEC 2(a).

    :param reprojection_error: minimum over the sources, (B, 1, H, W)
    :param auto_mask: 1 = used, (B, 1, H, W)
    :return: scalar
    """
    return (auto_mask * reprojection_error).sum() / shared_count(auto_mask.sum()).clamp(min=1e-7)
