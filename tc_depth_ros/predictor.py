"""
DepthPredictor, the ROS-free front door: push a frame, get its depth.

What it changes on the way in (size, K) it undoes on the way out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.preprocessing import NetworkInput, network_input, network_size
from tc_depth_ros.frames.window import Continuity, FrameWindow, WindowConfig
from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo, load_weights
from tc_depth_ros.network.stream import OutputFrame, open_stream
from tc_depth_ros.settings import setting
from tc_depth_ros.temporal.view import View

DEFAULT_WEIGHTS = Path(__file__).parent / 'weights' / 'small.safetensors'


@dataclass(frozen=True)
class PredictorConfig:
    """How to predict, beyond what the weights say."""

    output: OutputFrame = setting(
        'newest',
        'whose depth is given: the newest frame, or the one before it (one frame of delay)',
        choices=('newest', 'centre'),
    )
    min_range: float = setting(0.1, 'nearer depth is invalid (NaN), m', 0.0, 1e6)
    max_range: float = setting(100.0, 'farther depth is out of range (+Inf), m', 0.0, 1e6)
    window: WindowConfig = field(default_factory=WindowConfig)

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not 0 <= self.min_range < self.max_range:
            raise ValueError(
                f'min_range {self.min_range} and max_range {self.max_range} must satisfy '
                '0 <= min_range < max_range'
            )


@dataclass(frozen=True)
class Prediction:
    """The depth of one frame."""

    frame: Frame  # whose depth it is
    depth: NDArray[np.float32]  # (H, W) of the frame; z in m, NaN invalid, +Inf beyond max_range
    metric: bool  # False: depth is up to an unknown factor
    frames_used: int  # distinct frames behind it; 1 = single-frame mode
    continuity: Continuity  # 'continued', or why the past was forgotten
    view: View  # the same frame at the network's size; every z, whatever the range asked for


@dataclass(frozen=True)
class _Pushed:
    frame: Frame
    seen: NetworkInput


class DepthPredictor:
    """Temporally consistent depth of a stream of frames; one predictor per camera."""

    def __init__(
        self,
        weights: Weights,
        config: PredictorConfig | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        self.info: WeightsInfo = weights.info
        self._config = config or PredictorConfig()
        self._device = torch.device(device)
        self._stream = open_stream(weights.network.to(self._device).eval(), self._config.output)
        self._window = FrameWindow(self._config.window)
        self._pushed: deque[_Pushed] = deque(maxlen=2)

    @classmethod
    def from_weights(
        cls,
        path: Path | str | None = None,
        device: str = 'auto',
        config: PredictorConfig | None = None,
    ) -> DepthPredictor:
        """
        Load a weights file (None: the embedded one).

        :param device: 'auto' (CUDA where there is one), 'cpu', 'cuda', 'cuda:1', …
        :raises WeightsError: the file cannot be used
        :raises ValueError: there is no such device
        """
        chosen = _device(device)
        return cls(load_weights(Path(path or DEFAULT_WEIGHTS), chosen), config, chosen)

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._device)

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._window.reset()
        self._stream.reset()
        self._pushed.clear()

    def push(self, frame: Frame) -> Prediction | None:
        """
        Take the next frame.

        :return: the depth of this frame; with output 'centre' of the one before it, and None for
            the first
        :raises FrameRejected: the frame is a duplicate or late; nothing has changed
        :raises RuntimeError: the network failed (out of memory, …); the past is forgotten
        """
        continuity = self._window.push(frame)
        if continuity != 'continued':
            self._stream.reset()
            self._pushed.clear()
        size = network_size(frame.size, (self.info.input_height, self.info.input_width))
        try:
            with torch.inference_mode():
                seen = network_input(frame, size, self._device)
                answer = self._stream.push(*seen)
        except Exception:
            # What was lost on the way must not shift the frames against their answers
            self.reset()
            raise
        self._pushed.append(_Pushed(frame, seen))
        if answer is None:
            return None
        target = self._pushed[-1] if self._config.output == 'newest' else self._pushed[0]
        return Prediction(
            target.frame,
            self._depth(answer.disparity[0, 0].cpu().numpy(), target.frame.size),
            self.info.metric,
            answer.frames_used,
            continuity,
            self._view(target, answer.disparity),
        )

    def warm_up(self, height: int = 480, width: int = 640) -> None:
        """Run a few frames of this size and forget them, so that the first real one is fast."""
        blank = np.full((height, width, 3), 127, dtype=np.uint8)
        K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], dtype=np.float64)
        self.reset()
        for index in range(3):
            self.push(Frame(blank, K, index + 1, ''))
        self.reset()

    def _view(self, target: _Pushed, disparity: Tensor) -> View:
        network = self.info.network
        depth = depth_from_disparity(disparity, network.min_depth, network.max_depth)
        return View(*target.seen, depth * self.info.scale, target.frame.stamp_ns)

    def _depth(self, disparity: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Depth at the camera's size, within the range asked for."""
        metres = full_size_depth(disparity, size, self.info)
        metres[metres > self._config.max_range] = np.inf
        metres[~(metres >= self._config.min_range)] = np.nan
        return metres


def full_size_depth(
    disparity: NDArray[np.float32], size: tuple[int, int], info: WeightsInfo
) -> NDArray[np.float32]:
    """
    Depth at the camera's size; disparity is what is interpolated, for it is bounded.

    :param disparity: in (0, 1), at the network's size, (h, w)
    :param size: (height, width) of the camera
    :return: z in network units times the weights' scale, (H, W)
    """
    full = cv2.resize(disparity, size[::-1], interpolation=cv2.INTER_LINEAR)
    near, far = info.network.min_depth, info.network.max_depth
    return np.asarray(depth_from_disparity(torch.from_numpy(full), near, far) * info.scale)


def _device(name: str) -> torch.device:
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is '{name}'; use auto, cpu or cuda") from error
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f"device is '{name}' but torch sees no CUDA GPU; use auto or cpu")
    return device
