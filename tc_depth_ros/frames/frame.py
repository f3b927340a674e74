"""
A frame: one image with its intrinsics, stamp and frame id, out of any message-shaped objects.

Objects are read by attribute, as those of sensor_msgs have them, so messages of rclpy and of a
bag reader are decoded by the same lines, and training cannot see other pixels than the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


class Stamp(Protocol):
    """builtin_interfaces/Time."""

    sec: int
    nanosec: int


class Header(Protocol):
    """std_msgs/Header."""

    stamp: Any
    frame_id: str


class ImageMessage(Protocol):
    """sensor_msgs/Image."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """sensor_msgs/CompressedImage."""

    header: Any
    format: str
    data: Any


class CameraInfoMessage(Protocol):
    """sensor_msgs/CameraInfo; ``k`` and ``p`` are flat, row by row."""

    header: Any
    height: int
    width: int
    k: Any
    p: Any


@dataclass(frozen=True)
class Frame:
    """One rectified image of one camera."""

    image: NDArray[np.uint8]  # (H, W, 3), RGB
    K: NDArray[np.float64]  # (3, 3), in pixels of this image
    stamp_ns: int
    frame_id: str  # of the camera's optical frame

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def stamp_ns(header: Header) -> int:
    """Header stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def frame_from_messages(
    image: ImageMessage | CompressedImageMessage, camera_info: CameraInfoMessage
) -> Frame:
    """
    Decode an image and put its camera's intrinsics beside it.

    :raises ValueError: unknown encoding, truncated data, CameraInfo without K or of another size
    """
    pixels = decode_image(image)
    K = intrinsics_from_camera_info(camera_info)
    if (camera_info.height, camera_info.width) != pixels.shape[:2]:
        raise ValueError(
            f'image is {pixels.shape[1]}x{pixels.shape[0]} but its CameraInfo says '
            f'{camera_info.width}x{camera_info.height} (width x height): publish a CameraInfo '
            'that fits the image, scaled if the image was resized'
        )
    return Frame(pixels, K, stamp_ns(image.header), image.header.frame_id)


def intrinsics_from_camera_info(camera_info: CameraInfoMessage) -> NDArray[np.float64]:
    """
    K of the rectified image: the left 3x3 of ``p``, or ``k`` where ``p`` is not filled in.

    :return: (3, 3), in pixels
    :raises ValueError: neither holds a positive focal length
    """
    projection = np.asarray(camera_info.p, dtype=np.float64).reshape(3, 4)[:, :3]
    matrix = np.asarray(camera_info.k, dtype=np.float64).reshape(3, 3)
    for K in (projection, matrix):
        if np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0:
            return np.array(K)
    raise ValueError(
        f'CameraInfo has no intrinsics (k[0] is {matrix[0, 0]}, p[0] is {projection[0, 0]}): '
        'calibrate the camera, or set its camera_info_url'
    )


def decode_image(message: ImageMessage | CompressedImageMessage) -> NDArray[np.uint8]:
    """
    Decode a raw or compressed colour or grey image.

    :return: RGB, (H, W, 3)
    :raises ValueError: unknown encoding, or data that does not hold the image
    """
    if hasattr(message, 'encoding'):
        return _decode_raw(message)
    return _decode_compressed(message)


def decode_depth(message: ImageMessage) -> NDArray[np.float32]:
    """
    Decode a depth image: 32FC1 in metres or 16UC1 in millimetres, of which 0 is invalid.

    :return: z in metres, NaN where invalid, (H, W)
    :raises ValueError: another encoding, or data that does not hold the image
    """
    if message.encoding == '32FC1':
        return _rows(message, np.dtype(np.float32), 1)[..., 0].astype(np.float32)
    if message.encoding in ('16UC1', 'mono16'):
        millimetres = _rows(message, np.dtype(np.uint16), 1)[..., 0].astype(np.float32)
        return np.where(millimetres > 0, millimetres / 1000, np.float32(np.nan))
    raise ValueError(f"depth encoding is '{message.encoding}'; supported are 16UC1, 32FC1")


def _from_bgr(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(x[..., 2::-1])


def _from_rgb(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(x[..., :3])


def _from_grey(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(x, 3, axis=2)


# encoding -> bytes per pixel, and how to make it RGB
_RAW_DECODERS: dict[str, tuple[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    'rgb8': (3, _from_rgb),
    'bgr8': (3, _from_bgr),
    'rgba8': (4, _from_rgb),
    'bgra8': (4, _from_bgr),
    'mono8': (1, _from_grey),
}


def _decode_raw(message: Any) -> NDArray[np.uint8]:
    if message.encoding not in _RAW_DECODERS:
        raise ValueError(
            f"image encoding is '{message.encoding}'; supported are "
            f'{", ".join(_RAW_DECODERS)}: convert it (image_proc) or set the camera driver'
        )
    channels, to_rgb = _RAW_DECODERS[message.encoding]
    return to_rgb(_rows(message, np.dtype(np.uint8), channels))


def _rows(message: ImageMessage, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """View the message's data as (H, W, channels), honouring ``step`` and the byte order."""
    dtype = dtype.newbyteorder('>' if message.is_bigendian else '<')
    used = message.width * channels * dtype.itemsize
    data = np.frombuffer(message.data, dtype=np.uint8)
    if message.height * message.width == 0:
        raise ValueError(f'image is empty: {message.width}x{message.height} (width x height)')
    if message.step < used or data.size < message.height * message.step:
        raise ValueError(
            f'image data is truncated: {data.size} bytes with step {message.step} cannot hold '
            f'{message.width}x{message.height} {message.encoding} (width x height)'
        )
    rows = data[: message.height * message.step].reshape(message.height, message.step)
    pixels = np.ascontiguousarray(rows[:, :used]).view(dtype)
    return pixels.reshape(message.height, message.width, channels)


def _decode_compressed(message: Any) -> NDArray[np.uint8]:
    data = np.frombuffer(message.data, dtype=np.uint8)
    # OpenCV raises on empty data and answers None to data it does not know
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if bgr is None:
        raise ValueError(
            f"compressed image of format '{message.format}' and {data.size} bytes cannot be "
            'decoded; supported are JPEG and PNG, not compressedDepth'
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
