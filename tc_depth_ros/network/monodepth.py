"""
Monodepth2 (Godard et al., ICCV 2019): one frame to its disparity, by an encoder and a U-Net.

The teacher of TC-Depth's motion consistency (SPEC 2(d)), and a peer to compare with. Each frame
is predicted by itself; K is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tc_depth_ros.network.config import MonodepthConfig
from tc_depth_ros.network.encoder import PyramidFeatures, build_pyramid
from tc_depth_ros.network.layers import ConvELU, conv3x3
from tc_depth_ros.network.output import DepthOutput

SCALES = (0, 1, 2, 3)
MIN_SIDE = 40  # reflected borders need two cells at 1/32


class Monodepth(nn.Module):
    """The single-frame network, for any H, W divisible by 8 and not below 40."""

    def __init__(self, config: MonodepthConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_pyramid(config.encoder)
        self.decoder = UNetDecoder(self.encoder.level_channels, config.decoder_channels)

    def forward(self, images: Tensor, K: Tensor) -> DepthOutput:
        """
        Disparities of all frames of a window, each by itself.

        :param images: RGB in [0, 1], (B, F, 3, H, W)
        :param K: unused; there so that all depth networks are called alike
        """
        batch, count = images.shape[:2]
        disparities = self.predict(images.flatten(0, 1))
        return DepthOutput(tuple(d.unflatten(0, (batch, count)) for d in disparities), None)

    def predict(self, images: Tensor, scales: Sequence[int] = SCALES) -> tuple[Tensor, ...]:
        """
        Disparity of single frames.

        :param images: RGB in [0, 1], (B, 3, H, W)
        :param scales: which of the four scales to answer
        :return: disparity in (0, 1), each (B, 1, H/2^s, W/2^s)
        :raises ValueError: H or W is not divisible by 8, or below 40
        """
        height, width = images.shape[-2:]
        if height % 8 or width % 8 or min(height, width) < MIN_SIDE:
            raise ValueError(
                f'image is {height}x{width} (height x width); both must be divisible by 8 and at '
                f'least {MIN_SIDE}: resize it first (DepthPredictor does)'
            )
        answer: tuple[Tensor, ...] = self.decoder(self.encoder(images), scales, images.shape[-2:])
        return answer


class UNetDecoder(nn.Module):
    """From 1/32 up to the full size, joining the encoder's levels on the way."""

    reduce: Sequence[ConvELU]
    join: Sequence[ConvELU]
    disparity: Sequence[nn.Conv2d]

    def __init__(self, level_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        below = (*channels[1:], level_channels[-1])
        skips = (0, *level_channels[:-1])
        # Entry s works at 1/2^s: what comes from below is reduced, doubled and joined to the skip
        self.reduce = nn.ModuleList(map(ConvELU, below, channels))  # type: ignore[assignment]
        self.join = nn.ModuleList(  # type: ignore[assignment]
            ConvELU(width + skip, width) for width, skip in zip(channels, skips, strict=True)
        )
        self.disparity = nn.ModuleList(  # type: ignore[assignment]
            conv3x3(channels[s], 1) for s in SCALES
        )

    def forward(
        self, levels: PyramidFeatures, scales: Sequence[int], size: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """
        Decode disparity.

        :param levels: the encoder's features at 1/2 to 1/32
        :param scales: which of the four scales to answer
        :param size: (H, W) of the image
        :return: disparity in (0, 1), each (B, 1, H/2^s, W/2^s)
        """
        x, found = levels[-1], {}
        for s in reversed(range(len(levels))):
            x = self.reduce[s](x)
            if s > 0:
                skip = levels[s - 1]
                # To the skip's size rather than by two: an odd side was rounded up on the way down
                x = torch.cat([F.interpolate(x, skip.shape[-2:], mode='nearest'), skip], dim=1)
            else:
                x = F.interpolate(x, tuple(size), mode='nearest')
            x = self.join[s](x)
            if s in scales:
                found[s] = self.disparity[s](x).float().sigmoid()
        return tuple(found[s] for s in scales)
