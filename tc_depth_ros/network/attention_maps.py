"""Where one cell of a frame looks: the attention's weights, for eyes. The network needs none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tc_depth_ros.network.tc_depth import NEIGHBOURS, TCDepth


@dataclass(frozen=True)
class AttentionMaps:
    """Weights that one cell gives to the h w cells of a frame; each map sums to 1."""

    spatial: Tensor | None  # (h, w), over its own frame; None: the network has none
    frames: tuple[int, ...]  # the other frames that it attends to, numbers within the window
    temporal: tuple[Tensor, ...]  # (h, w) over each of these, in the first block


@torch.inference_mode()
def attention_of_cell(
    network: TCDepth, images: Tensor, K: Tensor, target: int, cell: tuple[int, int]
) -> AttentionMaps:
    """
    Show what a cell is mixed with; SPEC 1.3, 1.4.

    :param network: in eval mode, or looking would change it
    :param images: RGB in [0, 1] in time order, (1, F, 3, H, W)
    :param K: intrinsics in pixels of H x W, (1, 3, 3)
    :param target: the frame that the cell is of
    :param cell: (row, column) at 1/8
    :raises ValueError: the network is in training mode
    """
    if network.training:
        raise ValueError('the network is in training mode, and would learn by being looked at')
    count = images.shape[1]
    encoded = network.encode(images[0], K.expand(count, 3, 3))
    height, width = encoded.features.shape[-2:]
    row = cell[0] * width + cell[1]
    config = network.config
    frames = _attended(count, target, config.temporal) if config.temporal_attention else ()
    keys = encoded.memory.key  # its queries too
    temporal = [_weights(keys[target, row], keys[frame]) for frame in frames]
    spatial = encoded.kernel[target, row] if config.spatial_attention else None
    return AttentionMaps(
        None if spatial is None else spatial.view(height, width),
        frames,
        tuple(weights.view(height, width) for weights in temporal),
    )


def _attended(count: int, target: int, temporal: str) -> tuple[int, ...]:
    """Other frames of the window: all of them, or the newest of those before the target."""
    if temporal == 'causal':
        return tuple(range(max(0, target - NEIGHBOURS), target))
    return tuple(frame for frame in range(count) if frame != target)


def _weights(query: Tensor, keys: Tensor) -> Tensor:
    """``softmax(k . q / sqrt(d))``, which SDPA keeps to itself: of (d,) and (N, d), (N,)."""
    return (keys @ query / math.sqrt(len(query))).softmax(dim=0)
