"""The motion between two frames from their images; needed in training only. SPEC 1.7."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tc_depth_ros.geometry.transform import invert_transform, transform_from_axis_angle
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.encoder import build_pyramid

# Motions between neighbouring frames are small: the network starts near standing still
OUTPUT_SCALE = 0.01


class PoseNet(nn.Module):
    """Two frames in time order to the rigid motion of the camera between them."""

    def __init__(self, config: PoseNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_pyramid(config.encoder, images=2)
        channels = self.encoder.level_channels[-1]
        self.squeeze = nn.Conv2d(channels, 256, 1)
        self.hidden1 = nn.Conv2d(256, 256, 3, padding=1)
        self.hidden2 = nn.Conv2d(256, 256, 3, padding=1)
        self.motion = nn.Conv2d(256, 6, 1)

    def forward(self, earlier: Tensor, later: Tensor) -> Tensor:
        """
        Predict ``later_T_earlier``.

        :param earlier: RGB in [0, 1], (B, 3, H, W)
        :param later: the same of the later frame
        :return: (B, 4, 4), in network units
        """
        x = self.encoder(torch.cat([earlier, later], dim=1))[-1]
        for layer in (self.squeeze, self.hidden1, self.hidden2):
            x = F.relu(layer(x), inplace=True)
        motion = OUTPUT_SCALE * self.motion(x).float().mean(dim=(2, 3))
        with torch.autocast(motion.device.type, enabled=False):  # geometry is exact
            return transform_from_axis_angle(motion[:, :3], motion[:, 3:])

    def between(self, images: Tensor, target: int, source: int) -> Tensor:
        """
        ``source_T_target`` of two frames of a window, the pair always shown in time order.

        :param images: (B, F, 3, H, W) in time order
        :return: (B, 4, 4)
        """
        earlier, later = sorted((target, source))
        later_T_earlier: Tensor = self(images[:, earlier], images[:, later])
        with torch.autocast(images.device.type, enabled=False):
            return later_T_earlier if target == earlier else invert_transform(later_T_earlier)
