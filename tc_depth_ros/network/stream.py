"""Frames one at a time through a network; of the past, only what a new frame needs is kept."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tc_depth_ros.network.attention import Memory
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.tc_depth import NEIGHBOURS, EncodedFrame, TCDepth

OutputFrame = Literal['newest', 'centre']


@dataclass(frozen=True)
class StreamedDisparity:
    """One answer of the stream."""

    disparity: Tensor  # (B, 1, H, W) in (0, 1)
    frames_used: int  # distinct frames behind this answer: 1 = single-frame mode


class DepthStream:
    """
    Encode each frame once; attend to the cached past; decode only the frame asked for.

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
        self._past: deque[EncodedFrame] = deque(maxlen=NEIGHBOURS)
        self._past_memories: deque[list[Memory]] = deque(maxlen=NEIGHBOURS)

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._past.clear()
        self._past_memories.clear()

    def push(self, image: Tensor, K: Tensor) -> StreamedDisparity | None:
        """
        Take the next frame.

        :param image: RGB in [0, 1], (B, 3, H, W), of the same size as the ones before
        :param K: intrinsics in pixels of H x W, (B, 3, 3)
        :return: the answer, or None for the first frame of a ``centre`` stream
        """
        frame = self._network.encode(image, K)
        if self._network.config.temporal == 'causal':
            return self._push_causal(frame)
        window = [*self._past, frame]
        self._past.append(frame)
        if self._output == 'newest':
            return self._answer(window, target=len(window) - 1)
        return self._answer(window, target=len(window) - 2) if len(window) > 1 else None

    def _push_causal(self, frame: EncodedFrame) -> StreamedDisparity:
        features, memories = self._network.attend_causal(frame, list(self._past_memories))
        frames_used = 1 + len(self._past_memories)
        self._past_memories.append(memories)
        return self._decode(frame, features, frames_used)

    def _answer(self, window: list[EncodedFrame], target: int) -> StreamedDisparity:
        padding = [window[target]] * (NEIGHBOURS + 1 - len(window))
        (features,) = self._network.attend_window([*window, *padding], [target])
        return self._decode(window[target], features, len(window))

    def _decode(
        self, frame: EncodedFrame, features: Tensor, frames_used: int
    ) -> StreamedDisparity:
        (disparity,) = self._network.decoder(features, frame.skips, scales=(0,))
        return StreamedDisparity(disparity, frames_used)


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

    def push(self, image: Tensor, K: Tensor) -> StreamedDisparity:
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
