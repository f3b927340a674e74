"""
The stream of frames as a function: what :class:`DepthStream` remembers goes in and comes out.

For runtimes that know tensors only. The past lies newest first in tensors of a fixed size; how
much of it is there is a number beside them, so that a stream begins with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.attention import Memory
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.tc_depth import NEIGHBOURS, STRIDE, EncodedFrame, TCDepth

COUNT = 'past_count'
NEXT = 'next_'  # before the name of a state that comes out


@dataclass(frozen=True)
class Port:
    """A tensor that goes in or comes out."""

    name: str
    shape: tuple[int, ...]
    meaning: str  # contents and unit, in words
    dtype: torch.dtype = torch.float32

    def zeros(self) -> Tensor:
        """What stands for a past that is not there."""
        return torch.zeros(self.shape, dtype=self.dtype)


class _Past(Protocol):
    """What of a past frame is kept, and how a new one attends to it."""

    def ports(self, h: int, w: int) -> tuple[Port, ...]:
        """Describe what is kept, (1, NEIGHBOURS, ...) each, newest first; h x w cells."""

    def attend(
        self, frame: EncodedFrame, K: Tensor, past: Sequence[Tensor], present: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features of the frame, (1, C, h, w), and what is to be kept of it, (1, ...) each."""


class _Memories:
    """Keys and values of every block: what a causal stream keeps, and any stream of one block."""

    def __init__(self, network: TCDepth) -> None:
        self._network = network
        self._blocks = network.config.blocks

    def ports(self, h: int, w: int) -> tuple[Port, ...]:
        shape = (1, NEIGHBOURS, self._blocks, h * w, self._network.config.key_channels)
        meaning = 'of the temporal attention: past frame, block, cell, channel'
        return Port('past_keys', shape, meaning), Port('past_values', shape, meaning)

    def attend(
        self, frame: EncodedFrame, K: Tensor, past: Sequence[Tensor], present: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        keys, values = past
        older = [
            [Memory(keys[:, i, block], values[:, i, block]) for block in range(self._blocks)]
            for i in range(NEIGHBOURS)
        ]
        features, own = self._network.attend_causal(frame, older, present)
        kept = torch.stack([m.key for m in own], 1), torch.stack([m.value for m in own], 1)
        return features, kept


class _Encodings:
    """
    Features and coarse depth: what a window of several blocks keeps.

    Their kernels, N x N cells each, would be by far the largest part of what is kept; they are
    worked out again from coarse depth and K.
    """

    def __init__(self, network: TCDepth) -> None:
        self._network = network

    def ports(self, h: int, w: int) -> tuple[Port, ...]:
        channels = self._network.config.channels
        return (
            Port('past_features', (1, NEIGHBOURS, channels, h, w), 'past frame, channel, cells'),
            Port('past_coarse', (1, NEIGHBOURS, 1, h, w), 'coarse inverse depth, 1/m'),
            Port('past_K', (1, NEIGHBOURS, 3, 3), 'intrinsics of the past frames, pixels'),
        )

    def attend(
        self, frame: EncodedFrame, K: Tensor, past: Sequence[Tensor], present: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        own = (frame.features, frame.coarse_inverse_depth, K)
        older = []
        for i in range(NEIGHBOURS):
            pairs = zip(past, own, strict=True)
            # Substituted before they are used: no zero of a missing frame becomes a depth
            kept = [torch.where(present[i], before[:, i], here) for before, here in pairs]
            older.append(self._recall(frame, kept))
        (features,) = self._network.attend_window([frame, *older], [0])
        return features, own

    def _recall(self, frame: EncodedFrame, kept: Sequence[Tensor]) -> EncodedFrame:
        features, coarse, K = kept
        return replace(
            frame,  # whose skips nobody will ask for
            coarse_inverse_depth=coarse,
            kernel=self._network.kernel(coarse, K),
            features=features,
            memory=self._network.blocks[0].temporal.remember(features),
        )


class StreamingStep(nn.Module):
    """
    One frame in, its depth out, and the past in and out; batch 1, output ``newest``.

    Equal to :class:`DepthStream` frame by frame. Networks that know no past have no state.
    """

    def __init__(self, network: DepthNetwork, scale: float, size: tuple[int, int]) -> None:
        """
        Wrap a network.

        :param scale: of depth, the weights' own
        :param size: (height, width) of the images, pixels
        """
        super().__init__()
        self.network = network
        self.scale = scale
        self.size = size
        self._past = _past(network)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes in, in the order of the call."""
        return (
            Port('image', (1, 3, *self.size), 'RGB in [0, 1], rectified'),
            Port('K', (1, 3, 3), 'intrinsics, pixels of this image'),
            *self.state,
        )

    @property
    def state(self) -> tuple[Port, ...]:
        """Those of the inputs that come out for the next call."""
        if self._past is None:
            return ()
        cells = (side // STRIDE for side in self.size)
        meaning = f'how many past frames are there, 0 to {NEIGHBOURS}; 0 begins anew'
        return Port(COUNT, (1,), meaning, torch.int64), *self._past.ports(*cells)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out, in order."""
        return (
            Port('depth', (1, 1, *self.size), 'z, network units times scale'),
            Port('disparity', (1, 1, *self.size), 'in (0, 1), linear in inverse depth'),
            *(
                replace(port, name=NEXT + port.name, meaning=f'for {port.name} of the next call')
                for port in self.state
            ),
        )

    def forward(self, image: Tensor, K: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """
        Take the next frame.

        :param image: RGB in [0, 1], (1, 3, H, W)
        :param K: intrinsics in pixels of H x W, (1, 3, 3)
        :param state: as :attr:`state` says; zeros at first, then what came out
        :return: as :attr:`outputs` says
        """
        if isinstance(self.network, Monodepth):
            (disparity,) = self.network.predict(image, scales=(0,))
            return self._depth(disparity), disparity
        frame = self.network.encode(image, K)
        if self._past is None:
            features, _ = self.network.attend_causal(frame, [])
            following: tuple[Tensor, ...] = ()
        else:
            features, following = self._attend(self._past, frame, K, *state)
        (disparity,) = self.network.decoder(features, frame.skips, scales=(0,))
        return self._depth(disparity), disparity, *following

    def _attend(
        self, kept: _Past, frame: EncodedFrame, K: Tensor, count: Tensor, *past: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        present = torch.arange(NEIGHBOURS) < count
        features, own = kept.attend(frame, K, past, present)
        shifted = (
            torch.cat([newest[:, None], older[:, :-1]], dim=1)
            for newest, older in zip(own, past, strict=True)
        )
        return features, ((count + 1).clamp(max=NEIGHBOURS), *shifted)

    def _depth(self, disparity: Tensor) -> Tensor:
        config = self.network.config
        return depth_from_disparity(disparity, config.min_depth, config.max_depth) * self.scale


def _past(network: DepthNetwork) -> _Past | None:
    """What has to be kept for a network; None: nothing."""
    if isinstance(network, Monodepth) or not network.config.temporal_attention:
        return None
    if network.config.temporal == 'causal' or network.config.blocks == 1:
        return _Memories(network)
    return _Encodings(network)
