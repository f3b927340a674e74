"""Disparity should change where the image does; SPEC 2(e)."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothness_loss(disparity: Tensor, image: Tensor) -> Tensor:
    """
    Edge-aware first-order smoothness of the mean-normalised disparity.

    ``mean(|dx d*| exp(-|dx I|)) + mean(|dy d*| exp(-|dy I|))``, ``d* = d / mean(d)``.

    :param disparity: (B, 1, H, W)
    :param image: the image that it belongs to, (B, 3, H, W)
    :return: scalar
    """
    normalised = disparity / (disparity.mean(dim=(2, 3), keepdim=True) + 1e-7)
    loss = disparity.new_zeros(())
    for axis in (2, 3):
        edge = image.diff(dim=axis).abs().mean(dim=1, keepdim=True)
        loss = loss + (normalised.diff(dim=axis).abs() * torch.exp(-edge)).mean()
    return loss
