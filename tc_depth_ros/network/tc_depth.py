"""
TC-Depth (Ruhkamp et al., 3DV 2021): encoder -> coarse depth -> attention -> decoder.

A frame is *encoded* once, which is all that can be computed of it before its neighbours are
known; then *attended* together with them; then *decoded*. Where the camera's motion is known, a
network with matching then *matches* it with the past (:mod:`tc_depth_ros.network.matching`). A
stream of frames (:mod:`tc_depth_ros.network.stream`) keeps the encodings and walks the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tc_depth_ros.geometry.depth import inverse_depth_from_disparity
from tc_depth_ros.network.attention import (
    AttentionBlock,
    Memory,
    attention_intrinsics,
    distance_kernel,
)
from tc_depth_ros.network.coarse_depth import CoarseDepth
from tc_depth_ros.network.config import TCDepthConfig
from tc_depth_ros.network.decoder import DepthDecoder
from tc_depth_ros.network.encoder import DRNC26, EfficientNetLite0Pyramid
from tc_depth_ros.network.matching import Match, Matcher, MatchView, correct
from tc_depth_ros.network.output import DepthOutput, MatchInputs

STRIDE = 8  # image pixels per attention cell
MIN_SIDE = 2 * STRIDE  # reflected borders need two cells
NEIGHBOURS = 2  # other frames that a frame attends to


@dataclass(frozen=True)
class EncodedFrame:
    """All that can be computed of a frame before its neighbours are known."""

    skips: tuple[Tensor, Tensor, Tensor]  # at 1/2, 1/4, 1/8
    coarse_inverse_depth: Tensor  # (B, 1, h, w) in 1/m
    kernel: Tensor  # (B, N, N), the same for every block
    features: Tensor  # (B, C, h, w), after the first block's spatial attention
    memory: Memory  # of the first block
    matching: Tensor | None  # unit vectors to match, (B, C, H/4, W/4); None: without matching


class TCDepth(nn.Module):
    """The depth network, for any H, W divisible by 8 and any K."""

    blocks: Sequence[AttentionBlock]

    def __init__(self, config: TCDepthConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.coarse_depth = CoarseDepth(
            config.channels,
            config.coarse_channels,
            config.coarse_bins,
            config.min_depth,
            config.max_depth,
        )
        self.blocks = nn.ModuleList(  # type: ignore[assignment]  # torch does not type its items
            AttentionBlock(
                config.channels,
                config.key_channels,
                config.spatial_attention,
                config.temporal_attention,
            )
            for _ in range(config.blocks)
        )
        self.decoder = DepthDecoder(
            config.channels, self.encoder.skip_channels, config.decoder_channels
        )
        self.matcher: Matcher | None = None
        if config.matching is not None:
            self.matcher = Matcher(config.matching, self.encoder.skip_channels)

    def forward(self, images: Tensor, K: Tensor) -> DepthOutput:
        """
        Disparities of all frames of a window, before matching.

        :param images: RGB in [0, 1] in time order, (B, F, 3, H, W); the paper has F = 3
        :param K: intrinsics in pixels of H x W, (B, 3, 3)
        :return: disparities at four scales, and the coarse guess, of all F frames
        :raises ValueError: H or W is not divisible by 8, or below 16
        """
        batch, count = images.shape[:2]
        encoded = self.encode(images.flatten(0, 1), K.repeat_interleave(count, dim=0))
        frames = [_select(encoded, batch, count, index) for index in range(count)]
        if self.config.temporal == 'causal':
            features = self._attend_in_turn(frames)
        else:
            features = self.attend_window(frames, range(count))
        folded = torch.stack(features, dim=1).flatten(0, 1)
        disparities = self.decoder(folded, encoded.skips)
        return DepthOutput(
            tuple(d.unflatten(0, (batch, count)) for d in disparities),
            encoded.coarse_inverse_depth.unflatten(0, (batch, count)),
            _match_inputs(encoded, batch, count),
        )

    def encode(self, image: Tensor, K: Tensor) -> EncodedFrame:
        """
        Encode frames on their own.

        :param image: RGB in [0, 1], (B, 3, H, W)
        :param K: intrinsics in pixels of H x W, (B, 3, 3)
        """
        _check_size(*image.shape[-2:])
        encoded = self.encoder(image)
        coarse = self.coarse_depth(encoded.deep)
        kernel = self.kernel(coarse, K)
        first = self.blocks[0]
        features = first.spatial(encoded.deep, kernel)
        skips = (encoded.half, encoded.quarter, encoded.eighth)
        matching = None if self.matcher is None else self.matcher.features(skips)
        memory = first.temporal.remember(features)
        return EncodedFrame(skips, coarse, kernel, features, memory, matching)

    def match(
        self,
        disparity: Tensor,
        features: Tensor,
        context: Tensor,
        views: Sequence[MatchView],
        K: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Match]:
        """
        Correct the disparity of a frame by what it has in common with past ones.

        :param disparity: as decoded, (B, 1, H, W)
        :param features: of the frame, (B, C, H/4, W/4)
        :param context: the frame's skip at 1/4
        :param views: one or more; their motions are in the network's unit
        :param K: intrinsics in pixels of H x W, (B, 3, 3)
        :param present: which of the views are there, (V,), as in :meth:`attend_causal`; None: all
        :return: disparity (B, 1, H, W), in [0, 1]
        """
        assert self.matcher is not None
        guess = self.inverse_depth(disparity)
        match = self.matcher(features, guess, context, views, K, present)
        return self.disparity(correct(guess, match)), match

    def inverse_depth(self, disparity: Tensor) -> Tensor:
        """Inverse depth of a disparity in [0, 1], float32, of any shape."""
        config = self.config
        return inverse_depth_from_disparity(disparity.float(), config.min_depth, config.max_depth)

    def disparity(self, inverse_depth: Tensor) -> Tensor:
        """Invert :meth:`inverse_depth`; what is out of the network's range is clamped to it."""
        near, far = 1 / self.config.min_depth, 1 / self.config.max_depth
        return (inverse_depth.clamp(far, near) - far) / (near - far)

    def attend_window(self, frames: Sequence[EncodedFrame], wanted: Sequence[int]) -> list[Tensor]:
        """
        Let every frame attend to all others, all updated together block by block (the paper's).

        :param frames: the window; the order does not matter
        :param wanted: positions whose features are asked for; the last block serves only these
        :return: features of the wanted frames, each (B, C, h, w)
        """
        features = [frame.features for frame in frames]
        memories = [frame.memory for frame in frames]
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            if depth > 0:
                features = [
                    block.spatial(x, frame.kernel)
                    for x, frame in zip(features, frames, strict=True)
                ]
                memories = [block.temporal.remember(x) for x in features]
            positions = wanted if depth == last else range(len(frames))
            features = [
                block.temporal(features[i], memories[i], [*memories[:i], *memories[i + 1 :]])
                for i in positions
            ]
        return features

    def attend_causal(
        self,
        frame: EncodedFrame,
        past: Sequence[Sequence[Memory]],
        present: Tensor | None = None,
    ) -> tuple[Tensor, list[Memory]]:
        """
        Let a frame attend to what up to two older frames were when each was the newest.

        A missing neighbour is replaced by the frame itself.

        :param past: per older frame, its memory of every block
        :param present: which entries of past are there, a boolean each, where only a tensor can
            tell (an exported graph has no lists); None: all
        :return: the frame's features (B, C, h, w), and its own memory of every block
        """
        features, memory = frame.features, frame.memory
        memories = []
        for depth, block in enumerate(self.blocks):
            if depth > 0:
                features = block.spatial(features, frame.kernel)
                memory = block.temporal.remember(features)
            others = [older[depth] for older in past]
            if present is not None:
                others = [o.where(p, memory) for o, p in zip(others, present, strict=True)]
            others += [memory] * (NEIGHBOURS - len(others))
            features = block.temporal(features, memory, others)
            memories.append(memory)
        return features, memories

    def _attend_in_turn(self, frames: Sequence[EncodedFrame]) -> list[Tensor]:
        features: list[Tensor] = []
        memories: list[list[Memory]] = []
        for frame in frames:
            attended, memory = self.attend_causal(frame, memories[-NEIGHBOURS:])
            features.append(attended)
            memories.append(memory)
        return features

    def kernel(self, coarse_inverse_depth: Tensor, K: Tensor) -> Tensor:
        """
        Weights of the spatial attention, the same for every block.

        :param coarse_inverse_depth: in 1/m, (B, 1, h, w)
        :param K: intrinsics in pixels of the image, (B, 3, 3)
        :return: (B, N, N), N = h w
        """
        size = (coarse_inverse_depth.shape[-2], coarse_inverse_depth.shape[-1])
        cell_K = attention_intrinsics(K, STRIDE, size, self.config.attention_intrinsics)
        return distance_kernel(1 / coarse_inverse_depth, cell_K, self.config.kernel_sigma)


def _encoder(config: TCDepthConfig) -> DRNC26 | EfficientNetLite0Pyramid:
    if config.encoder == 'efficientnet_lite0':
        return EfficientNetLite0Pyramid(config.channels)
    if config.channels != DRNC26.channels:
        raise ValueError(
            f'channels is {config.channels}, but drn_c_26 has {DRNC26.channels}; set it to that'
        )
    return DRNC26()


def _check_size(height: int, width: int) -> None:
    if height % STRIDE or width % STRIDE or min(height, width) < MIN_SIDE:
        raise ValueError(
            f'image is {height}x{width} (height x width); both must be divisible by {STRIDE} and '
            f'at least {MIN_SIDE}: resize it first (DepthPredictor does)'
        )


def _select(encoded: EncodedFrame, batch: int, count: int, index: int) -> EncodedFrame:
    """Take one frame out of an encoding of batch x count frames."""

    def pick(x: Tensor) -> Tensor:
        return x.view(batch, count, *x.shape[1:])[:, index]

    half, quarter, eighth = encoded.skips
    return EncodedFrame(
        (pick(half), pick(quarter), pick(eighth)),
        pick(encoded.coarse_inverse_depth),
        pick(encoded.kernel),
        pick(encoded.features),
        Memory(pick(encoded.memory.key), pick(encoded.memory.value)),
        None if encoded.matching is None else pick(encoded.matching),
    )


def _match_inputs(encoded: EncodedFrame, batch: int, count: int) -> MatchInputs | None:
    """Those of an encoding of batch x count frames."""
    if encoded.matching is None:
        return None
    _, quarter, _ = encoded.skips
    return MatchInputs(
        encoded.matching.unflatten(0, (batch, count)), quarter.unflatten(0, (batch, count))
    )
