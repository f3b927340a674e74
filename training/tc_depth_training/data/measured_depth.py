"""Measured depth brought to a camera's frames: which belongs to which, of what shape and size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_training.data.topics import BagError

# Depth this much off a frame's time, in periods of the camera and in s, still belongs to it
MAX_OFFSET_PERIODS, MAX_OFFSET_S = 0.5, 0.05
ASPECT_TOLERANCE = 0.01  # relative


def match_stamps(
    stamps_ns: NDArray[np.int64], measured_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """
    Give each frame the depth nearest in time, and each depth to one frame at most.

    :param stamps_ns: of the frames, increasing, at least one, (N,)
    :param measured_ns: of the depths, in any order, (M,)
    :return: index of the frame that each depth belongs to, -1: to none, (M,)
    """
    period_ns = np.median(np.diff(stamps_ns)) if len(stamps_ns) > 1 else np.inf
    after = np.searchsorted(stamps_ns, measured_ns).clip(max=len(stamps_ns) - 1)
    beside = np.stack([(after - 1).clip(min=0), after])  # (2, M)
    offsets_ns = np.abs(stamps_ns[beside] - measured_ns)
    nearest = np.where(offsets_ns[0] <= offsets_ns[1], *beside)
    offset_ns = offsets_ns.min(axis=0)
    closest_first = np.argsort(offset_ns, kind='stable')
    allowed_ns = min(MAX_OFFSET_PERIODS * period_ns, MAX_OFFSET_S * 1e9)
    candidates = closest_first[offset_ns[closest_first] <= allowed_ns]
    frames, closest = np.unique(nearest[candidates], return_index=True)
    belongs_to = np.full(len(measured_ns), -1)
    belongs_to[candidates[closest]] = frames
    return belongs_to


def check_shape(name: str, depth: tuple[int, int], image: tuple[int, int]) -> None:
    """Refuse depth of another shape than the image, (height, width) each; raises BagError."""
    (height, width), (rows, columns) = depth, image
    if abs(width * rows - height * columns) > ASPECT_TOLERANCE * height * columns:
        raise BagError(
            f'{name} is {width}x{height}, but the image is {columns}x{rows} (width x height), of '
            'another shape: record depth that is registered to the image, or go without by '
            '--depth none'
        )


def fit_depth(depth: NDArray[np.float32], camera: CameraModel) -> NDArray[np.float32]:
    """
    Bring depth that fits a camera's raw image to its rectified one.

    :param depth: z in m, NaN where unknown, of any size of the raw image's shape
    :return: (H, W) of the camera's size, NaN where the camera has not seen
    """
    return camera.rectify_depth(resize_depth(depth, camera.size))


def resize_depth(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring depth to (height, width); it stays the same array where that is its size already."""
    if depth.shape == size:
        return depth
    # Nearest, since the mean of two surfaces is on neither
    return np.asarray(cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
