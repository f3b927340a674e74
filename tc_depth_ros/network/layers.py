"""The two building blocks that coarse depth and decoder share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3 convolution with reflected borders: no dark frame around the depth."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode='reflect')


class ConvELU(nn.Module):
    """3x3 convolution and ELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3x3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return F.elu(self.conv(x), inplace=True)
