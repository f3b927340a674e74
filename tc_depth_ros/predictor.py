"""
DepthPredictor, the ROS-free front door: push a frame, get its depth.

What it changes on the way in (size, K) it undoes on the way out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.frames.exposure import check_exposure
from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.preprocessing import NetworkInput, network_input, network_size
from tc_depth_ros.frames.window import Continuity, FrameRejected, FrameWindow, WindowConfig
from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo, load_weights
from tc_depth_ros.network.config import TCDepthConfig
from tc_depth_ros.network.stream import OutputFrame, StreamedDisparity, open_stream
from tc_depth_ros.precision import Precision, choose_precision
from tc_depth_ros.settings import check_choices, group, setting
from tc_depth_ros.temporal.view import View

WARM_UP_SIZE = (480, 640)
DEFAULT_WEIGHTS = Path(__file__).parent / 'weights' / 'small.safetensors'


@dataclass(frozen=True)
class PredictorConfig:
    """How to predict, beyond what the weights say."""

    output: OutputFrame = setting(
        'newest',
        'whose depth is given: the newest frame, or the one before it (one frame of delay)',
        choices=('newest', 'centre'),
    )
    min_range: float = setting(0.1, 'nearer depth is invalid (NaN), m', 0.0, 1e6, dynamic=True)
    max_range: float = setting(
        100.0, 'farther depth is out of range (+Inf), m', 0.0, 1e6, dynamic=True
    )
    max_invalid_share: float = setting(
        0.2, 'a frame is dropped if the network finds no number for more of its pixels', 0.0, 1.0
    )
    window: WindowConfig = group(WindowConfig)

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        check_choices(self)
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
    frames_used: int  # distinct frames that were attended to; 1 = single-frame mode
    keyframes_used: int  # matched with; 0 = none, but it may be fused with the frame before
    guess_ratio: float  # median of the single frame's depth over this one
    continuity: Continuity  # 'continued', or why the past was forgotten
    view: View  # the same frame at the network's size; every z, whatever the range asked for


@dataclass(frozen=True)
class PreparedFrame:
    """A frame that is accepted, at the network's size."""

    frame: Frame
    shown: NetworkInput
    continuity: Continuity  # 'continued', or why the past was forgotten

    @property
    def image(self) -> Tensor:
        """RGB in [0, 1], (1, 3, h, w)."""
        return self.shown.image

    @property
    def K(self) -> Tensor:
        """In pixels of h x w, (1, 3, 3)."""
        return self.shown.K


class DepthPredictor:
    """Temporally consistent depth of a stream of frames; one predictor per camera."""

    def __init__(
        self,
        weights: Weights,
        config: PredictorConfig | None = None,
        device: torch.device | str = 'cpu',
        precision: str = 'float32',
    ) -> None:
        """
        Make ready to take frames.

        :raises ValueError: weights, device and settings do not go together
        """
        self.info: WeightsInfo = weights.info
        self.pose_net = weights.pose_net
        self.config = config or PredictorConfig()
        self._device = torch.device(device)
        self.precision: Precision = choose_precision(
            weights.network.to(self._device).eval(), weights.info, self._device, precision
        )
        self._stream = open_stream(weights.network.to(self._device).eval(), self.config.output)
        self._window = FrameWindow(self.config.window)
        self._pushed: deque[PreparedFrame] = deque(maxlen=2)

    @classmethod
    def from_weights(
        cls,
        path: Path | str | None = None,
        device: str = 'auto',
        config: PredictorConfig | None = None,
        precision: str = 'auto',
    ) -> DepthPredictor:
        """
        Load a weights file (None: the embedded one).

        :param device: 'auto' (CUDA where there is one), 'cpu', 'cuda', 'cuda:1', …
        :param precision: 'auto', 'float32', 'float16' or 'bfloat16'; see precision.py
        :raises WeightsError: the file cannot be used
        :raises ValueError: there is no such device, or the precision fails its check
        """
        chosen = _device(device)
        weights = load_weights(Path(path or DEFAULT_WEIGHTS), chosen)
        return cls(weights, config, chosen, precision)

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._device)

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._window.reset()
        self._stream.reset()
        self._pushed.clear()

    @property
    def matches(self) -> bool:
        """Whether depth gains by the camera's pose."""
        return isinstance(self.info.network, TCDepthConfig) and bool(self.info.network.matching)

    def push(
        self, frame: Frame, factor: float = 1.0, pose: CameraPose | None = None
    ) -> Prediction | None:
        """
        Take the next frame: prepare it, and predict its depth.

        :param factor: of its depth, on top of the weights' own scale
        :param pose: where the frame that is answered for was taken, its unit in that of the depth
            without that factor; None: not known, so that it is not matched with the past
        :return: the depth of this frame; with output 'centre' of the one before it, and None for
            the first
        :raises FrameRejected: the frame is a duplicate, late, or black or white; nothing has
            changed. Or the network finds no numbers for it; the past is forgotten
        :raises RuntimeError: the network failed (out of memory twice, …); the past is forgotten
        """
        return self.predict(self.prepare(frame), factor, pose)

    def prepare(self, frame: Frame) -> PreparedFrame:
        """Accept the next frame, and bring it to the network's size; raises as push does."""
        check_exposure(frame.image, frame.seen)
        continuity = self._window.push(frame)
        if continuity != 'continued':
            self._forget()
        size = network_size(frame.size, (self.info.input_height, self.info.input_width))
        try:
            return PreparedFrame(frame, network_input(frame, size, self._device), continuity)
        except Exception:
            self.reset()
            raise

    def target(self, prepared: PreparedFrame) -> PreparedFrame | None:
        """The frame that will be answered for when this one is predicted; None: there is none."""
        if self.config.output == 'newest':
            return prepared
        return self._pushed[-1] if self._pushed else None

    def predict(
        self, prepared: PreparedFrame, factor: float = 1.0, pose: CameraPose | None = None
    ) -> Prediction | None:
        """Predict the depth of the frame that was prepared last; see push."""
        self._pushed.append(prepared)
        if pose is not None:
            pose = pose.in_units_of(self.info.scale)
        try:
            answer = self._infer(prepared.shown, pose)
        except Exception:
            # What was lost on the way must not shift the frames against their answers
            self.reset()
            raise
        if answer is None:
            return None
        target = self._pushed[-1 if self.config.output == 'newest' else -2]
        disparity = answer.disparity.float()
        self._check_finite(disparity)
        return Prediction(
            target.frame,
            self._depth(disparity[0, 0].cpu().numpy(), target.frame, factor),
            self.info.metric,
            answer.frames_used,
            answer.keyframes_used,
            answer.guess_ratio,
            target.continuity,
            self._view(target, disparity, answer.deviation),
        )

    def _forget(self) -> None:
        self._stream.reset()
        self._pushed.clear()

    def _infer(self, shown: NetworkInput, pose: CameraPose | None) -> StreamedDisparity | None:
        """Ask the network; where memory runs out, once more without the past."""
        try:
            return self._forward(shown, pose)
        except torch.cuda.OutOfMemoryError:
            newest = self._pushed[-1]
            self._forget()
            self._pushed.append(newest)
        # Not within the except clause, whose error would still hold the tensors that it met
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()
        return self._forward(shown, pose)

    def _forward(self, shown: NetworkInput, pose: CameraPose | None) -> StreamedDisparity | None:
        reduced = self.precision.name != 'float32'
        autocast = torch.autocast(self._device.type, self.precision.dtype, enabled=reduced)
        with torch.inference_mode(), autocast:
            return self._stream.push(*shown, pose)

    def _check_finite(self, disparity: Tensor) -> None:
        """Forget what holds no numbers, or it would spoil every frame to come."""
        invalid = 1 - float(disparity.isfinite().float().mean())
        if invalid > 0:
            self._forget()
            self._window.reset()
        if invalid > self.config.max_invalid_share:
            raise FrameRejected(
                'not finite',
                f'the network finds no number for {100 * invalid:.0f} % of the pixels: if it '
                'goes on, try precision float32 or other weights',
            )

    def _view(self, target: PreparedFrame, disparity: Tensor, deviation: Tensor | None) -> View:
        network = self.info.network
        depth = depth_from_disparity(disparity, network.min_depth, network.max_depth)
        return View(*target.shown, depth * self.info.scale, target.frame.stamp_ns, deviation)

    def _depth(
        self, disparity: NDArray[np.float32], target: Frame, factor: float
    ) -> NDArray[np.float32]:
        """Depth at the camera's size, within the range asked for."""
        metres = full_size_depth(disparity, target.size, self.info)
        if factor != 1.0:
            metres *= np.float32(factor)
        metres[metres > self.config.max_range] = np.inf
        metres[~(metres >= self.config.min_range)] = np.nan
        if target.seen is not None:
            metres[~target.seen] = np.nan
        return metres


def warm_up_frames() -> list[Frame]:
    """A few frames of something to see, for those who need to have run once."""
    height, width = WARM_UP_SIZE
    coarse = np.random.default_rng(0).integers(32, 224, (height // 16, width // 16, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], dtype=np.float64)
    return [
        Frame(np.roll(image, 2 * index, axis=1), K, (index + 1) * 100_000_000, '')
        for index in range(3)
    ]


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
