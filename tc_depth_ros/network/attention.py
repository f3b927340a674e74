"""
Attention guided by geometry within a frame, and by appearance between frames; SPEC 1.3, 1.4.

A block is spatial attention, then temporal attention. N = h w cells at 1/8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tc_depth_ros.geometry.intrinsics import resize_intrinsics
from tc_depth_ros.geometry.reprojection import backproject


def attention_intrinsics(
    K: Tensor, stride: int, size: tuple[int, int], normalised: Sequence[float] | None
) -> Tensor:
    """
    K of the attention's grid.

    :param K: intrinsics of the image, (B, 3, 3)
    :param stride: image pixels per cell
    :param size: (h, w) of the grid
    :param normalised: fx/width, fy/height, cx/width, cy/height to use in place of K, or None
    :return: (B, 3, 3) in cells
    """
    if normalised is None:
        return resize_intrinsics(K, 1 / stride, 1 / stride)
    (height, width), (fx, fy, cx, cy) = size, normalised
    rows = [[fx * width, 0.0, cx * width], [0.0, fy * height, cy * height], [0.0, 0.0, 1.0]]
    return K.new_tensor(rows).expand_as(K)


def distance_kernel(coarse_depth: Tensor, K: Tensor, sigma: float) -> Tensor:
    """
    Weights that fall with the 3-D distance of two cells, ``softmax(-D / (2 sigma))``.

    D is the distance itself, not its square (SPEC 1.3), so no dot product can stand for it; and
    cdist's shortcut by matrix products errs by 2.6e-2 here, hence its exact mode.

    :param coarse_depth: z of every cell, (B, 1, h, w)
    :param K: intrinsics in cells, (B, 3, 3)
    :return: (B, N, N), rows sum to 1, detached from the depth
    """
    # Half precision would turn distances of a few centimetres into noise
    with torch.autocast(coarse_depth.device.type, enabled=False):
        points = backproject(coarse_depth.detach().float(), K.float()).flatten(2).transpose(1, 2)
        distance = torch.cdist(points, points, compute_mode='donot_use_mm_for_euclid_dist')
        return distance.mul_(-0.5 / sigma).softmax(dim=-1)


class SpatialAttention(nn.Module):
    """Mix the cells of one frame by their distance in space; no keys, no queries."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, channels, 1)
        self.mixed = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.own = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.fuse = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.BatchNorm2d(channels))
        self.gamma = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """
        Mix features along a kernel.

        :param x: (B, C, h, w)
        :param kernel: from :func:`distance_kernel`, (B, N, N)
        """
        values = self.value(x).flatten(2).transpose(1, 2)  # (B, N, C)
        mixed = (kernel.to(values.dtype) @ values).transpose(1, 2).unflatten(-1, x.shape[-2:])
        fused = self.fuse(torch.cat([self.mixed(mixed), self.own(x)], dim=1))
        return self.gamma * fused + x  # type: ignore[no-any-return]


class NoSpatialAttention(nn.Module):
    """In place of spatial attention, where that is left out."""

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Features as they are, (B, C, h, w)."""
        return x


class Memory(NamedTuple):
    """What a frame shows to the others in one block."""

    key: Tensor  # (B, N, d); its query too, the two are one projection
    value: Tensor  # (B, N, d)

    def where(self, present: Tensor, other: Memory) -> Memory:
        """Keep this one where a boolean scalar says so, take the other elsewhere."""
        key, value = (torch.where(present, a, b) for a, b in zip(self, other, strict=True))
        return Memory(key, value)


class TemporalAttention(nn.Module):
    """Gather from the other frames what looks alike."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.key = nn.Sequential(
            nn.Conv2d(channels, key_channels, 1), nn.BatchNorm2d(key_channels)
        )
        self.value = nn.Conv2d(channels, key_channels, 1)
        self.out = nn.Conv2d(key_channels, channels, 1)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def remember(self, x: Tensor) -> Memory:
        """Project a frame's features (B, C, h, w) to its keys and values."""
        return Memory(*(f(x).flatten(2).transpose(1, 2) for f in (self.key, self.value)))

    def forward(self, x: Tensor, own: Memory, others: Sequence[Memory]) -> Tensor:
        """
        Add to a frame the sum of what each other frame answers.

        :param x: the frame's features, (B, C, h, w)
        :param own: its own memory, whose key is the query
        :param others: memories of the other frames, each attended on its own
        """
        size = x.shape[-2:]
        message = torch.stack([self._answer(own.key, other, size) for other in others]).sum(0)
        return x + self.fuse(torch.cat([x, message], dim=1))  # type: ignore[no-any-return]

    def _answer(self, query: Tensor, other: Memory, size: torch.Size) -> Tensor:
        # The extra axis is a single head: exporters want four dimensions
        answer = F.scaled_dot_product_attention(
            query[:, None], other.key[:, None], other.value[:, None]
        )[:, 0]
        return self.out(answer.transpose(1, 2).unflatten(-1, size))  # type: ignore[no-any-return]


class NoTemporalAttention(nn.Module):
    """In place of temporal attention, where that is left out."""

    def remember(self, x: Tensor) -> Memory:
        """Nothing to show to the others."""
        nothing = x.new_empty(len(x), 0)
        return Memory(nothing, nothing)

    def forward(self, x: Tensor, own: Memory, others: Sequence[Memory]) -> Tensor:
        """Features as they are, (B, C, h, w)."""
        return x


class AttentionBlock(nn.Module):
    """Spatial, then temporal attention, with weights of its own."""

    def __init__(
        self, channels: int, key_channels: int, spatial: bool = True, temporal: bool = True
    ) -> None:
        super().__init__()
        self.spatial = SpatialAttention(channels) if spatial else NoSpatialAttention()
        self.temporal = (
            TemporalAttention(channels, key_channels) if temporal else NoTemporalAttention()
        )
