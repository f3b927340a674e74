"""
The stream of frames as a function: what :class:`DepthStream` remembers goes in and comes out.

For runtimes that know tensors only. The past lies newest first in tensors of a fixed size; how
much of it is there is a number beside them, so that a stream begins with zeros.

Keyframes are not part of what comes out for the next call. Which frames to match with depends on
the camera's motion, so the caller keeps them and chooses among them, as
:class:`~tc_depth_ros.network.keyframes.KeyframeBuffer` does.
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
from tc_depth_ros.network.config import MatchingConfig
from tc_depth_ros.network.fusion import FusedDepth, first_depth, fuse
from tc_depth_ros.network.matching import STRIDE as MATCHING_STRIDE
from tc_depth_ros.network.matching import MatchView
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.tc_depth import NEIGHBOURS, STRIDE, EncodedFrame, TCDepth

COUNT = 'past_count'
KEYFRAME_COUNT = 'keyframe_count'
LAST_FRAMES = 'last_frames'
LAST = 3  # states of the last frame's depth
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


class _Keyframes:
    """What a network with matching is told of past frames, and what it makes of them."""

    def __init__(self, network: TCDepth, matching: MatchingConfig, scale: float) -> None:
        self._network = network
        self._matching = matching
        self._scale = scale  # of depth, and so of the motions

    def ports(self, height: int, width: int) -> tuple[Port, ...]:
        """Describe what goes in, for images of height x width."""
        views, features = self._matching.views, self.features_port(height, width)
        return (
            Port(
                'keyframe_features',
                (1, views, *features.shape[1:]),
                'of past frames with parallax and overlap, chosen by the caller as '
                'tc_depth_ros/network/keyframes.py does',
            ),
            Port(
                'keyframe_T_target',
                (1, views, 4, 4),
                'takes points of this frame to each keyframe; translation in the unit of depth',
            ),
            Port(
                KEYFRAME_COUNT,
                (1,),
                f'how many keyframes are there, 0 to {views}; 0: not matched',
                torch.int64,
            ),
        )

    def features_port(self, height: int, width: int) -> Port:
        """Describe what a frame gives, should it become a keyframe."""
        cells = height // MATCHING_STRIDE, width // MATCHING_STRIDE
        meaning = 'of this frame, for keyframe_features of later calls if it becomes a keyframe'
        return Port('features', (1, self._matching.channels, *cells), meaning)

    def match(
        self,
        disparity: Tensor,
        frame: EncodedFrame,
        K: Tensor,
        features: Tensor,
        past_T_target: Tensor,
        count: Tensor,
    ) -> Tensor:
        """
        Correct a disparity (1, 1, H, W) by the keyframes that are there; without any it stays.

        :param features: and past_T_target, count: as :meth:`ports` says
        """
        own, context = frame.matching, frame.skips[1]
        assert own is not None
        present = torch.arange(self._matching.views) < count
        motions = self._in_network_units(past_T_target)
        unmoved = torch.eye(4, dtype=K.dtype)
        views = [
            # Substituted before they are used: nothing of a missing keyframe is computed with
            MatchView(
                torch.where(there, features[:, i], own), torch.where(there, motions[:, i], unmoved)
            )
            for i, there in enumerate(present)
        ]
        matched, _ = self._network.match(disparity, own, context, views, K, present)
        return torch.where(count > 0, matched, disparity)

    def _in_network_units(self, motions: Tensor) -> Tensor:
        """Motions (1, V, 4, 4) whose translation was in the unit of depth."""
        translation = motions[:, :, :3, 3:] / self._scale
        upper = torch.cat([motions[:, :, :3, :3], translation], dim=3)
        return torch.cat([upper, motions[:, :, 3:]], dim=2)


class _Fusion:
    """What a network with matching keeps of the last frame's depth, to fuse it with the next."""

    def __init__(self, network: TCDepth, features: Port, scale: float) -> None:
        self._network = network
        self._features = features
        self._scale = scale

    def motion(self) -> Port:
        """Describe the motion that goes in."""
        return Port(
            'last_T_target',
            (1, 4, 4),
            'takes points of this frame to the one before; translation in the unit of depth. '
            'Ignored if last_frames is all 0. If you do not know the motion, set last_frames to 0',
        )

    def ports(self, height: int, width: int) -> tuple[Port, ...]:
        """Describe what is kept of images of height x width."""
        return (
            Port(
                'last_inverse_depth', (1, 1, height, width), 'of the frame before, network units'
            ),
            Port(
                LAST_FRAMES,
                (1, 1, height, width),
                'number of frames in the mean; all 0: begin anew',
            ),
            replace(self._features, name='last_features', meaning='of the frame before'),
        )

    def fuse(
        self, disparity: Tensor, features: Tensor, K: Tensor, motion: Tensor, *last: Tensor
    ) -> tuple[Tensor, FusedDepth]:
        """Fuse a disparity (1, 1, H, W) with the frame before, as :class:`DepthStream` does."""
        inverse_depth, frames, looks = last
        there = frames.flatten().amax(dim=0) > 0
        # Substituted before they are used: no zero becomes a depth, and no NaN gets through
        before = FusedDepth(
            torch.where(there, inverse_depth, 1.0),
            torch.where(there, frames, 0.0),
            torch.where(there, looks, features),
        )
        unmoved = torch.eye(4, dtype=K.dtype)
        scaled = torch.cat([motion[:, :3, :3], motion[:, :3, 3:] / self._scale], dim=2)
        motion = torch.where(there, torch.cat([scaled, motion[:, 3:]], dim=1), unmoved)
        own = first_depth(self._network.inverse_depth(disparity), features)
        fused = fuse(own, K, before, motion)
        return torch.where(there, self._network.disparity(fused.inverse_depth), disparity), fused


class StreamingStep(nn.Module):
    """
    One frame in, its depth out, and the past in and out; batch 1, output ``newest``.

    Equal to :class:`DepthStream` frame by frame. Networks that know no past have no state, and
    networks without matching take no keyframes.
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
        self._keyframes = _keyframes(network, scale)
        self._fusion = None
        if self._keyframes is not None:
            assert isinstance(network, TCDepth)
            self._fusion = _Fusion(network, self._keyframes.features_port(*size), scale)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes in, in the order of the call."""
        return (
            Port('image', (1, 3, *self.size), 'RGB in [0, 1], rectified'),
            Port('K', (1, 3, 3), 'intrinsics, pixels of this image'),
            *self.keyframes,
            *(() if self._fusion is None else (self._fusion.motion(),)),
            *self.state,
        )

    @property
    def keyframes(self) -> tuple[Port, ...]:
        """Those of the inputs that say what to match with; none without matching."""
        return () if self._keyframes is None else self._keyframes.ports(*self.size)

    @property
    def state(self) -> tuple[Port, ...]:
        """Those of the inputs that come out for the next call."""
        fused = () if self._fusion is None else self._fusion.ports(*self.size)
        if self._past is None:
            return fused
        cells = (side // STRIDE for side in self.size)
        meaning = f'how many past frames are there, 0 to {NEIGHBOURS}; 0 begins anew'
        return Port(COUNT, (1,), meaning, torch.int64), *self._past.ports(*cells), *fused

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out, in order."""
        return (
            Port('depth', (1, 1, *self.size), 'z, network units times scale'),
            Port('disparity', (1, 1, *self.size), 'in (0, 1), linear in inverse depth'),
            *(() if self._keyframes is None else (self._keyframes.features_port(*self.size),)),
            *(
                replace(port, name=NEXT + port.name, meaning=f'for {port.name} of the next call')
                for port in self.state
            ),
        )

    def forward(self, image: Tensor, K: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """
        Take the next frame.

        :param image: RGB in [0, 1], (1, 3, H, W)
        :param K: intrinsics in pixels of H x W, (1, 3, 3)
        :param rest: keyframes and state as :attr:`inputs` says; state is zeros at first, then
            what came out
        :return: as :attr:`outputs` says
        """
        if isinstance(self.network, Monodepth):
            (disparity,) = self.network.predict(image, scales=(0,))
            return self._depth(disparity), disparity
        known = len(self.inputs) - 2 - len(self.state)  # of the camera's motion
        motions, state = rest[:known], list(rest[known:])
        last = state[-LAST:] if self._fusion is not None else []
        frame = self.network.encode(image, K)
        if self._past is None:
            features, _ = self.network.attend_causal(frame, [])
            following: tuple[Tensor, ...] = ()
        else:
            kept = state[: len(state) - len(last)]
            features, following = self._attend(self._past, frame, K, *kept)
        (disparity,) = self.network.decoder(features, frame.skips, scales=(0,))
        if self._keyframes is None or self._fusion is None:
            return self._depth(disparity), disparity, *following
        assert frame.matching is not None
        disparity = self._keyframes.match(disparity, frame, K, *motions[:-1])
        disparity, fused = self._fusion.fuse(disparity, frame.matching, K, motions[-1], *last)
        return self._depth(disparity), disparity, frame.matching, *following, *fused

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


def _keyframes(network: DepthNetwork, scale: float) -> _Keyframes | None:
    """What a network is told of keyframes; None: it does not match."""
    if isinstance(network, Monodepth) or network.config.matching is None:
        return None
    return _Keyframes(network, network.config.matching, scale)
