"""
One frame in, features at 1/2, 1/4, 1/8 out; the deep ones at 1/8 feed the attention.

DRN-C-26 (Yu, Koltun, Funkhouser, CVPR 2017) keeps the resolution at 1/8 by dilation.
EfficientNet-lite0 goes down to 1/32 and comes back by a top-down path. It and ResNet-18 (He et
al., CVPR 2016) also serve, as plain pyramids, the pose network and the single-frame teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tc_depth_ros.network.config import PyramidName


class EncoderFeatures(NamedTuple):
    """Features of one frame: three skips for the decoder, and the attention's input."""

    half: Tensor  # (B, C2, H/2, W/2)
    quarter: Tensor  # (B, C4, H/4, W/4)
    eighth: Tensor  # (B, C8, H/8, W/8)
    deep: Tensor  # (B, C, H/8, W/8)


# Features at 1/2, 1/4, 1/8, 1/16 and 1/32, each (B, C, ceil(H/2^n), ceil(W/2^n))
PyramidFeatures = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the input is added unless ``residual`` is off."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        residual: bool = True,
    ) -> None:
        super().__init__()
        first, second = dilations
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, first, dilation=first, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, second, dilation=second, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.residual = residual
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y, inplace=True)


class DRNC26(nn.Module):
    """Dilated residual network C-26, without its classifier; SPEC 1.1."""

    skip_channels = (32, 64, 128)
    channels = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(ResidualBlock(16, 16))
        self.layer2 = nn.Sequential(ResidualBlock(16, 32, stride=2))
        self.layer3 = self._pair(32, 64, stride=2)
        self.layer4 = self._pair(64, 128, stride=2)
        self.layer5 = self._pair(128, 256, dilation=2)
        self.layer6 = self._pair(256, 512, dilation=4)
        # The last two levels take the gridding of the dilated ones out again, without residuals
        self.layer7 = nn.Sequential(ResidualBlock(512, 512, dilations=(2, 2), residual=False))
        self.layer8 = nn.Sequential(ResidualBlock(512, 512, residual=False))

    @staticmethod
    def _pair(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        dilations = (dilation, dilation)
        return nn.Sequential(
            ResidualBlock(inputs, outputs, stride, dilations),
            ResidualBlock(outputs, outputs, 1, dilations),
        )

    def forward(self, image: Tensor) -> EncoderFeatures:
        """Encode RGB in [0, 1], (B, 3, H, W)."""
        x = (image - 0.45) / 0.225
        x = self.layer1(F.relu(self.bn1(self.conv1(x)), inplace=True))
        half = self.layer2(x)
        quarter = self.layer3(half)
        eighth = self.layer4(quarter)
        deep = self.layer8(self.layer7(self.layer6(self.layer5(eighth))))
        return EncoderFeatures(half, quarter, eighth, deep)


class ResNet18(nn.Module):
    """ResNet-18 without its classifier: features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    level_channels = (64, 64, 128, 256, 512)

    def __init__(self, images: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 * images, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64), ResidualBlock(64, 64))
        self.layer2 = nn.Sequential(ResidualBlock(64, 128, 2), ResidualBlock(128, 128))
        self.layer3 = nn.Sequential(ResidualBlock(128, 256, 2), ResidualBlock(256, 256))
        self.layer4 = nn.Sequential(ResidualBlock(256, 512, 2), ResidualBlock(512, 512))

    def forward(self, images: Tensor) -> PyramidFeatures:
        """RGB in [0, 1] of one or more stacked images, (B, 3 n, H, W)."""
        half = F.relu(self.bn1(self.conv1((images - 0.45) / 0.225)), inplace=True)
        quarter = self.layer1(F.max_pool2d(half, 3, stride=2, padding=1))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        return half, quarter, eighth, sixteenth, self.layer4(sixteenth)


class SameConv2d(nn.Conv2d):
    """
    Convolution with TensorFlow's SAME padding: output side = ceil(input side / stride).

    An even side is padded on the right and below only. The ImageNet weights were trained so; a
    symmetric padding would shift every level of the pyramid against them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H/stride), ceil(W/stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (max((-side % stride) + kernel - stride, 0) for side in x.shape[-2:])
        before = (columns // 2, rows // 2)
        x = F.pad(x, (before[0], columns - before[0], before[1], rows - before[1]))
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """Expand 1x1, filter depthwise, project 1x1; ReLU6, no squeeze-and-excitation."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = nn.Sequential()
        if expansion != 1:
            self.expand = nn.Sequential(
                nn.Conv2d(inputs, hidden, 1, bias=False), _batch_norm(hidden), nn.ReLU6(True)
            )
        self.filter = nn.Sequential(
            SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False),
            _batch_norm(hidden),
            nn.ReLU6(True),
        )
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), _batch_norm(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride))."""
        y: Tensor = self.project(self.filter(self.expand(x)))
        return x + y if self.residual else y


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 without its head: features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    level_channels = (16, 24, 40, 112, 320)

    # outputs, expansion, kernel, repeats, stride of each stage
    STAGES = (
        (16, 1, 3, 1, 1),
        (24, 6, 3, 2, 2),
        (40, 6, 5, 2, 2),
        (80, 6, 3, 3, 2),
        (112, 6, 5, 3, 1),
        (192, 6, 5, 4, 2),
        (320, 6, 3, 1, 1),
    )

    def __init__(self, images: int = 1) -> None:
        super().__init__()
        self.images = images
        self.stem = nn.Sequential(
            SameConv2d(3 * images, 32, 3, 2, bias=False), _batch_norm(32), nn.ReLU6(True)
        )
        inputs = 32
        stages = []
        for outputs, expansion, kernel, repeats, stride in self.STAGES:
            blocks = [InvertedBottleneck(inputs, outputs, expansion, kernel, stride)]
            blocks += [
                InvertedBottleneck(outputs, outputs, expansion, kernel, 1)
                for _ in range(repeats - 1)
            ]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> PyramidFeatures:
        """RGB in [0, 1] of one or more stacked images, (B, 3 n, H, W)."""
        x = self.stem((images - 127 / 255) / (128 / 255))
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels[0], levels[1], levels[2], levels[4], levels[6]


class EfficientNetLite0Pyramid(nn.Module):
    """EfficientNet-lite0 with a top-down path from 1/32 to 1/8 (Lin et al., CVPR 2017)."""

    skip_channels = (16, 24, 40)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.backbone = EfficientNetLite0()
        self.lateral8 = nn.Conv2d(40, channels, 1)
        self.lateral16 = nn.Conv2d(112, channels, 1)
        self.lateral32 = nn.Conv2d(320, channels, 1)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: Tensor) -> EncoderFeatures:
        """Encode RGB in [0, 1], (B, 3, H, W)."""
        half, quarter, eighth, sixteenth, thirty_second = self.backbone(image)
        top = self.lateral32(thirty_second)
        top = self.lateral16(sixteenth) + _resize_like(top, sixteenth)
        top = self.lateral8(eighth) + _resize_like(top, eighth)
        return EncoderFeatures(half, quarter, eighth, self.smooth(F.elu(top)))


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode='bilinear', align_corners=False)


def build_pyramid(name: PyramidName, images: int = 1) -> ResNet18 | EfficientNetLite0:
    """Build an encoder down to 1/32 that takes this many stacked images."""
    return ResNet18(images) if name == 'resnet18' else EfficientNetLite0(images)
