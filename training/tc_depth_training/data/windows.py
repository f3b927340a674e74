"""Windows of three frames, chosen by time, and what is wrong with those left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tc_depth_training.data.recording import Recording

FRAMES = 3
# Below this motion between neighbours, in pixels of a 160 px wide image, nothing can be learned
STATIC_FLOW_PX = 0.5
FLOW_WIDTH = 160


@dataclass(frozen=True)
class Windows:
    """Windows found in a recording, and why others were left out."""

    indices: NDArray[np.int64]  # (M, 3) into the recording, in time order
    static: int  # left out: the camera stood still
    without_pose: int  # left out: no odometry at one of the stamps


def median_flow_px(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Median length of the optical flow between two RGB images, in pixels of 160 px width."""
    size = (FLOW_WIDTH, max(16, round(FLOW_WIDTH * a.shape[0] / a.shape[1])))
    grey = [cv2.cvtColor(cv2.resize(x, size), cv2.COLOR_RGB2GRAY) for x in (a, b)]
    flow = np.zeros((*grey[0].shape, 2), dtype=np.float32)
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    method.calc(grey[0], grey[1], flow)
    return float(np.median(np.linalg.norm(flow, axis=2)))


def find_windows(recording: Recording, time_steps_s: Sequence[float]) -> Windows:
    """
    All windows of three frames that are a time step apart.

    Frames are paired by stamp, so a 30 Hz bag gives the same windows as a 10 Hz one. A window
    whose best frames miss their time by more than a quarter of the step has a gap and is left out.

    :param time_steps_s: between neighbouring frames; each gives windows of its own
    """
    candidates = [_spaced(recording.stamps_ns, step_s) for step_s in time_steps_s]
    indices = np.concatenate(candidates)
    posed: NDArray[np.bool_] = np.ones(len(indices), dtype=np.bool_)
    if recording.world_T_camera is not None:
        posed &= np.isfinite(recording.world_T_camera[indices]).all(axis=(1, 2, 3))
    flows = {pair: 0.0 for window in indices[posed] for pair in _pairs(window)}
    for first, second in flows:
        flows[first, second] = median_flow_px(recording.images[first], recording.images[second])
    moves = {pair: flow > STATIC_FLOW_PX for pair, flow in flows.items()}
    moving = posed.copy()
    moving[posed] = [all(moves[pair] for pair in _pairs(window)) for window in indices[posed]]
    return Windows(indices[moving], int((posed & ~moving).sum()), int((~posed).sum()))


def _pairs(window: NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(int(window[0]), int(window[1])), (int(window[1]), int(window[2]))]


def _spaced(stamps_ns: NDArray[np.int64], step_s: float) -> NDArray[np.int64]:
    offsets = np.arange(FRAMES) * round(step_s * 1e9)
    wanted = stamps_ns[:, None] + offsets  # (N, 3)
    after = np.searchsorted(stamps_ns, wanted).clip(1, len(stamps_ns) - 1)
    before = after - 1
    nearer = wanted - stamps_ns[before] < stamps_ns[after] - wanted
    found = np.where(nearer, before, after)
    punctual = np.abs(stamps_ns[found] - wanted) <= 0.25 * step_s * 1e9
    return found[punctual.all(axis=1)].astype(np.int64)


@dataclass(frozen=True)
class Batch:
    """Windows of frames as tensors; B windows of F frames."""

    images: Tensor  # (B, F, 3, H, W), RGB in [0, 1]
    K: Tensor  # (B, 3, 3)
    world_T_camera: Tensor | None  # (B, F, 4, 4)
    recording: Tensor  # (B,), which of the run's recordings each window is of

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        poses = self.world_T_camera
        return Batch(
            self.images.to(device),
            self.K.to(device),
            None if poses is None else poses.to(device),
            self.recording.to(device),
        )


class WindowDataset(Dataset[Batch]):
    """Windows of one recording; an item is a batch of one."""

    def __init__(self, recording: Recording, indices: NDArray[np.int64], number: int = 0) -> None:
        """
        Serve the windows at these indices.

        :param number: of the recording within the run
        """
        self._recording = recording
        self._indices = indices
        self._number = torch.tensor([number])

    def __len__(self) -> int:
        """Count the windows."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Batch:
        """Read a window."""
        window = self._indices[index]
        pixels = torch.from_numpy(self._recording.images[window])
        poses = self._recording.world_T_camera
        if poses is not None:
            # Relative to the first frame, in double precision: a map may be kilometres wide
            relative = np.linalg.inv(poses[window[0]]) @ poses[window]
            pose_tensor = torch.from_numpy(relative).float()[None]
        return Batch(
            pixels.permute(0, 3, 1, 2)[None].float() / 255,
            torch.from_numpy(self._recording.K[window[0]])[None],
            None if poses is None else pose_tensor,
            self._number,
        )


def join(batches: Sequence[Batch]) -> Batch:
    """Join batches of equal size into one."""
    poses = [b.world_T_camera for b in batches if b.world_T_camera is not None]
    return Batch(
        torch.cat([b.images for b in batches]),
        torch.cat([b.K for b in batches]),
        torch.cat(poses) if len(poses) == len(batches) else None,
        torch.cat([b.recording for b in batches]),
    )
