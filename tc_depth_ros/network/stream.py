"""Frames one at a time through a network; of the past, only what a new frame needs is kept."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.network.attention import Memory
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.fusion import FusedDepth, first_depth, fuse
from tc_depth_ros.network.keyframes import KeyframeBuffer
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.tc_depth import NEIGHBOURS, EncodedFrame, TCDepth

OutputFrame = Literal['newest', 'centre']
RATIO_STEP = 4  # every fourth row and column gives the same median


@dataclass(frozen=True)
class StreamedDisparity:
    """One answer of the stream."""

    disparity: Tensor  # (B, 1, H, W) in (0, 1)
    frames_used: int  # distinct frames that were attended to: 1 = single-frame mode
    keyframes_used: int = 0  # matched with
    # Median of depth before matching and fusion over depth after: back to the single frame's unit
    guess_ratio: float = 1.0
    # How uncertain the match is, as Match.deviation, (B, 1, H/4, W/4); None: not matched
    deviation: Tensor | None = None


@dataclass(frozen=True)
class _Pushed:
    frame: EncodedFrame
    K: Tensor


class DepthStream:
    """
    Encode each frame once; attend to the cached past; decode only the frame asked for; match it.

    A neighbour that is missing (at the start) is replaced by the target itself. ``newest``
    answers for the frame just pushed. ``centre`` answers for the one before it, which then has a
    neighbour on either side, as in the paper, at the price of one frame of delay.
    """

    def __init__(self, network: TCDepth, output: OutputFrame = 'newest') -> None:
        if output not in ('newest', 'centre'):
            raise ValueError(f"output is '{output}'; it must be 'newest' or 'centre'")
        if output == 'centre' and network.config.temporal != 'window':
            raise ValueError(
                f"output 'centre' needs weights of temporal mode 'window'; these are of mode "
                f"'{network.config.temporal}': use output 'newest'"
            )
        self._network = network
        self._output = output
        self._past: deque[_Pushed] = deque(maxlen=NEIGHBOURS)
        self._past_memories: deque[list[Memory]] = deque(maxlen=NEIGHBOURS)
        self._keyframes = KeyframeBuffer()
        self._last: FusedDepth | None = None

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._past.clear()
        self._past_memories.clear()
        self._keyframes.reset()
        self._last = None

    def push(
        self, image: Tensor, K: Tensor, pose: CameraPose | None = None
    ) -> StreamedDisparity | None:
        """
        Take the next frame.

        :param image: RGB in [0, 1], (B, 3, H, W), of the same size as the ones before
        :param K: intrinsics in pixels of H x W, (B, 3, 3)
        :param pose: of the frame that is answered for; None: not known, so that it is not
            matched. With a pose, B is 1
        :return: the answer, or None for the first frame of a ``centre`` stream
        """
        pushed = _Pushed(self._network.encode(image, K), K)
        if self._network.config.temporal == 'causal':
            return self._match(pushed, self._push_causal(pushed), pose)
        window = [*self._past, pushed]
        self._past.append(pushed)
        target = len(window) - (1 if self._output == 'newest' else 2)
        if target < 0:
            return None
        return self._match(window[target], self._answer(window, target), pose)

    def _push_causal(self, pushed: _Pushed) -> StreamedDisparity:
        frame = pushed.frame
        features, memories = self._network.attend_causal(frame, list(self._past_memories))
        frames_used = 1 + len(self._past_memories)
        self._past_memories.append(memories)
        return self._decode(pushed, features, frames_used)

    def _answer(self, window: list[_Pushed], target: int) -> StreamedDisparity:
        frames = [pushed.frame for pushed in window]
        padding = [frames[target]] * (NEIGHBOURS + 1 - len(frames))
        (features,) = self._network.attend_window([*frames, *padding], [target])
        return self._decode(window[target], features, len(window))

    def _decode(self, target: _Pushed, features: Tensor, frames_used: int) -> StreamedDisparity:
        (disparity,) = self._network.decoder(features, target.frame.skips, scales=(0,))
        return StreamedDisparity(disparity, frames_used)

    def _match(
        self, target: _Pushed, answer: StreamedDisparity, pose: CameraPose | None
    ) -> StreamedDisparity:
        """Correct an answer by the keyframes, and fuse it with the frame before."""
        network, features = self._network, target.frame.matching
        matching = network.config.matching
        if matching is None or features is None or pose is None:
            self._last = None
            return answer
        disparity = answer.disparity
        guess = network.inverse_depth(disparity)
        views = self._keyframes.choose(pose, guess, target.K, matching.views)
        deviation = None
        if views:
            context = target.frame.skips[1]
            disparity, match = network.match(disparity, features, context, views, target.K)
            deviation = match.deviation
        depth = first_depth(network.inverse_depth(disparity), features)
        if self._last is not None and pose.last_T_this is not None:
            last_T_this = torch.from_numpy(pose.last_T_this).to(target.K)[None]
            depth = fuse(depth, target.K, self._last, last_T_this)
            disparity = network.disparity(depth.inverse_depth)
        self._last = depth
        self._keyframes.add(pose, features, depth.inverse_depth, target.K)
        ratio = (depth.inverse_depth / guess)[..., ::RATIO_STEP, ::RATIO_STEP].median()
        return StreamedDisparity(
            disparity, answer.frames_used, len(views), float(ratio), deviation
        )


class SingleFrameStream:
    """The same front for a network that knows no past."""

    def __init__(self, network: Monodepth, output: OutputFrame = 'newest') -> None:
        if output != 'newest':
            raise ValueError(
                f"output is '{output}', but these weights are of a network of single frames: "
                "use output 'newest'"
            )
        self._network = network

    def reset(self) -> None:
        """Nothing to forget."""

    def push(self, image: Tensor, K: Tensor, pose: CameraPose | None = None) -> StreamedDisparity:
        """Take the next frame, as DepthStream does."""
        (disparity,) = self._network.predict(image, scales=(0,))
        return StreamedDisparity(disparity, frames_used=1)


def open_stream(
    network: DepthNetwork, output: OutputFrame = 'newest'
) -> DepthStream | SingleFrameStream:
    """Begin a stream of frames through a network; raises ValueError where output does not fit."""
    if isinstance(network, TCDepth):
        return DepthStream(network, output)
    return SingleFrameStream(network, output)
