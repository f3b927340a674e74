"""Features to disparity at four scales; SPEC 1.6."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tc_depth_ros.network.layers import ConvELU, conv3x3


class DepthDecoder(nn.Module):
    """From 1/8 up to the full size, joining the encoder's skips on the way."""

    disparity: Sequence[nn.Conv2d]

    def __init__(self, inputs: int, skip_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        full, half, quarter, eighth = channels
        skip_half, skip_quarter, skip_eighth = skip_channels
        self.reduce8 = ConvELU(inputs, eighth)
        self.join8 = ConvELU(eighth + skip_eighth, eighth)
        self.reduce4 = ConvELU(eighth, quarter)
        self.join4 = ConvELU(quarter + skip_quarter, quarter)
        self.reduce2 = ConvELU(quarter, half)
        self.join2 = ConvELU(half + skip_half, half)
        self.reduce1 = ConvELU(half, full)
        self.join1 = ConvELU(full, full)
        self.disparity = nn.ModuleList(  # type: ignore[assignment]  # torch does not type its items
            conv3x3(width, 1) for width in channels
        )

    def forward(
        self, features: Tensor, skips: Sequence[Tensor], scales: Sequence[int] = (0, 1, 2, 3)
    ) -> tuple[Tensor, ...]:
        """
        Decode disparity.

        :param features: attended, (B, C, H/8, W/8)
        :param skips: the encoder's at 1/2, 1/4, 1/8
        :param scales: which of the four scales to answer; s has the size H/2^s, W/2^s
        :return: disparity in (0, 1) of the asked scales, each (B, 1, H/2^s, W/2^s)
        """
        half, quarter, eighth = skips
        x3 = self.join8(torch.cat([self.reduce8(features), eighth], dim=1))
        x2 = self.join4(torch.cat([_double(self.reduce4(x3)), quarter], dim=1))
        x1 = self.join2(torch.cat([_double(self.reduce2(x2)), half], dim=1))
        x0 = self.join1(_double(self.reduce1(x1)))
        levels = (x0, x1, x2, x3)
        return tuple(self.disparity[s](levels[s]).float().sigmoid() for s in scales)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
