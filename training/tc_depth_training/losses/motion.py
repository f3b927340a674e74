"""
Motion consistency: where a single-frame teacher sees another depth, something moved; SPEC 2(d).

A network that matches frames takes an object that moves along with the camera for one at
infinity. A teacher that looks at one frame does not, and pulls such pixels back.
"""

from __future__ import annotations

import torch
from torch import Tensor

STATIC_THRESHOLD = 0.6  # the paper's; ManyDepth allows a ratio of 2.0, which is 1.0 here


@torch.no_grad()
def static_mask(
    depth: Tensor, teacher_depth: Tensor, threshold: float = STATIC_THRESHOLD
) -> Tensor:
    """
    Keep the pixels where both agree: ``max(D / Dt, Dt / D) < 1 + threshold``.

    :param depth: of the student's target, (B, 1, H, W)
    :param teacher_depth: of the same frame, in the same unit, (B, 1, H, W)
    :return: 1 = static, (B, 1, H, W)
    """
    ratio = torch.maximum(depth / teacher_depth, teacher_depth / depth)
    return (ratio < 1 + threshold).to(depth.dtype)


def motion_loss(depth: Tensor, teacher_depth: Tensor, static: Tensor) -> Tensor:
    """
    ``mean_p(|1/D - 1/Dt| (1 - M_static))`` over all pixels; the teacher learns nothing.

    :param depth: (B, 1, H, W)
    :param teacher_depth: (B, 1, H, W)
    :param static: from :func:`static_mask`, (B, 1, H, W)
    :return: scalar, in inverse units of depth
    """
    difference = (1 / depth - 1 / teacher_depth.detach()).abs()
    return (difference * (1 - static)).mean()
