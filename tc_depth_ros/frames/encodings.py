"""
Encodings of sensor_msgs/Image, and how their pixels become RGB.

A mosaic's name tells its top left corner: ``bayer_rggb8`` has red at pixel (0, 0). OpenCV names
the same mosaic ``BayerBG``, after the second and third pixel of the second row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_BYTE, _WORD = np.dtype(np.uint8), np.dtype(np.uint16)
SMALLEST_MOSAIC = 3  # OpenCV answers with black where a side is shorter


@dataclass(frozen=True)
class Encoding:
    """How a pixel lies in memory, and what makes RGB of it."""

    channels: int
    to_rgb: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # (H, W, channels) to (H, W, 3)
    dtype: np.dtype[Any] = _BYTE


def high_byte(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit pixels as they are, of 16-bit pixels the high byte."""
    if pixels.dtype.itemsize == 1:
        return pixels
    return (pixels >> 8).astype(np.uint8)


def _convert(pixels: NDArray[np.uint8], code: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


def _unchanged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


def _demosaic(mosaic: NDArray[np.uint8], code: int) -> NDArray[np.uint8]:
    height, width = mosaic.shape[:2]
    if min(height, width) < SMALLEST_MOSAIC:
        raise ValueError(
            f'bayer image is {width}x{height} (width x height): colours need a mosaic of at least '
            f'{SMALLEST_MOSAIC}x{SMALLEST_MOSAIC}'
        )
    return _convert(mosaic, code)


def _from_yuv422(pixels: NDArray[np.uint8], code: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if width % 2:
        raise ValueError(
            f'yuv422 image is {width}x{height} (width x height): its width must be even, for two '
            'pixels share their colour; set the camera to an even width'
        )
    return _convert(pixels, code)


_GREY = Encoding(1, partial(_convert, code=cv2.COLOR_GRAY2RGB))
_BGR = Encoding(3, partial(_convert, code=cv2.COLOR_BGR2RGB))
_UYVY = Encoding(2, partial(_from_yuv422, code=cv2.COLOR_YUV2RGB_UYVY))
_YUYV = Encoding(2, partial(_from_yuv422, code=cv2.COLOR_YUV2RGB_YUYV))
_MOSAICS = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}

ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding(3, _unchanged),
    'bgr8': _BGR,
    'rgba8': Encoding(4, partial(_convert, code=cv2.COLOR_RGBA2RGB)),
    'bgra8': Encoding(4, partial(_convert, code=cv2.COLOR_BGRA2RGB)),
    'mono8': _GREY,
    'mono16': Encoding(1, _GREY.to_rgb, _WORD),
    **{f'bayer_{m}8': Encoding(1, partial(_demosaic, code=c)) for m, c in _MOSAICS.items()},
    **{
        f'bayer_{m}16': Encoding(1, partial(_demosaic, code=c), _WORD) for m, c in _MOSAICS.items()
    },
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    '8UC1': _GREY,
    '8UC3': _BGR,
}
