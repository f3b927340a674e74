"""
Reduced precision where it is as good, which is checked before the first frame, on a stored one.

Drivers, GPUs and compilers differ: a network in half precision that is right on one machine has
been seen to let the scale of depth wander on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_ros.frames.preprocessing import NetworkInput, resize_image
from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_ros.network.stream import open_stream

CHECK_IMAGE = Path(__file__).parent / 'weights' / 'self_check.png'  # rendered, 256x192
FRAMES, STEP_PX = 3, 6  # of a camera that moves sideways
MAX_DIFFERENCE = 0.05  # relative, of depth
DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """In what the network computes; geometry is in float32 always."""

    name: str  # float32, float16 or bfloat16
    difference: float = 0.0  # of 99 % of the depths to float32's at most, relative
    note: str = ''  # why it is not the one that was to be tried

    @property
    def dtype(self) -> torch.dtype:
        """As torch calls it."""
        return DTYPES[self.name]


def choose_precision(
    network: DepthNetwork, info: WeightsInfo, device: torch.device, wanted: str
) -> Precision:
    """
    Check the precision that is wanted against float32.

    :param wanted: 'auto' (float16 on CUDA if it passes, else float32), or one to insist on
    :raises ValueError: the one insisted on fails the check
    """
    tried = _first_choice(device) if wanted == 'auto' else wanted
    if tried == 'float32':
        return Precision('float32')
    frames = _check_frames(network, info, device)
    exact, reduced = (_check_depth(network, info, frames, DTYPES[p]) for p in ('float32', tried))
    difference = np.abs(reduced / exact - 1)
    ranked = np.sort(np.nan_to_num(difference, nan=np.inf), axis=None)
    worst = float(ranked[round(0.99 * (ranked.size - 1))])
    if worst <= MAX_DIFFERENCE:
        return Precision(tried, worst)
    finding = (
        f'{tried} on {device} changes depth by {100 * worst:.1f} % from float32 on the stored '
        f'frame, more than {100 * MAX_DIFFERENCE:.0f} %'
    )
    if wanted != 'auto':
        raise ValueError(f'precision: {finding}; use precision auto or float32')
    return Precision('float32', worst, f'{finding}: float32 is used')


def _first_choice(device: torch.device) -> str:
    # bfloat16 is many times slower than float32 on a CPU without its instructions
    return 'float16' if device.type == 'cuda' else 'float32'


@dataclass(frozen=True)
class _CheckFrame:
    """The stored image, moved sideways as a camera before a wall would show it."""

    shown: NetworkInput
    pose: CameraPose | None  # for networks with matching; None: not to be matched


def _check_depth(
    network: DepthNetwork, info: WeightsInfo, frames: Sequence[_CheckFrame], dtype: torch.dtype
) -> NDArray[np.float64]:
    """Depth of the last of the frames, streamed, in network units, (h, w)."""
    stream = open_stream(network)
    for frame in frames:
        device = frame.shown.image.device.type
        with torch.inference_mode(), torch.autocast(device, dtype, dtype != torch.float32):
            answer = stream.push(*frame.shown, frame.pose)
    assert answer is not None  # the stream answers for the newest frame
    disparity = answer.disparity[0, 0].double().cpu()
    depth = depth_from_disparity(disparity, info.network.min_depth, info.network.max_depth)
    return np.asarray(depth)


def _check_frames(
    network: DepthNetwork, info: WeightsInfo, device: torch.device
) -> list[_CheckFrame]:
    bgr = cv2.imread(str(CHECK_IMAGE))
    if bgr is None:
        raise ValueError(f'{CHECK_IMAGE} is missing: install the package again')
    height, width = size = (info.input_height, info.input_width)
    K = torch.tensor([[[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]], device=device)
    images = []
    for index in range(FRAMES):
        moved = np.roll(bgr[..., ::-1], index * STEP_PX, axis=1)
        pixels = torch.from_numpy(resize_image(np.ascontiguousarray(moved), size)).to(device)
        images.append(NetworkInput(pixels.permute(2, 0, 1)[None].float() / 255, K))
    unmatched = [_CheckFrame(image, None) for image in images]
    # The distance at which the network sees the wall
    depth = float(np.median(_check_depth(network, info, unmatched, torch.float32)))
    step = np.eye(4)
    step[0, 3] = -depth * STEP_PX / bgr.shape[1]
    pose = CameraPose(np.eye(4), 'self check')
    frames = [_CheckFrame(images[0], pose)]
    for image in images[1:]:
        pose = CameraPose(pose.track_T_camera @ step, pose.track, last_T_this=step)
        frames.append(_CheckFrame(image, pose))
    return frames
