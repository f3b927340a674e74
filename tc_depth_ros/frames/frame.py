"""
A frame: one image with its intrinsics, stamp and frame id; and images out of their messages.

Messages are any objects with the attributes of those of sensor_msgs, so messages of rclpy and of
a bag reader are decoded by the same lines, and training cannot see other pixels than the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.encodings import ENCODINGS, high_byte


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


@dataclass(frozen=True)
class Frame:
    """One rectified image of one camera."""

    image: NDArray[np.uint8]  # (H, W, 3), RGB
    K: NDArray[np.float64]  # (3, 3), in pixels of this image
    stamp_ns: int
    frame_id: str  # of the camera's optical frame
    # (H, W); False where rectification found nothing to show. None: all is seen
    seen: NDArray[np.bool_] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def stamp_ns(header: Header) -> int:
    """Header stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def decode_image(message: ImageMessage | CompressedImageMessage) -> NDArray[np.uint8]:
    """
    Decode a raw or compressed colour or grey image; of 16-bit pixels the high byte.

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


def _decode_raw(message: Any) -> NDArray[np.uint8]:
    if message.encoding not in ENCODINGS:
        raise ValueError(
            f"image encoding is '{message.encoding}'; supported are "
            f'{", ".join(ENCODINGS)}: convert it (image_proc) or set the camera driver'
        )
    encoding = ENCODINGS[message.encoding]
    return encoding.to_rgb(high_byte(_rows(message, encoding.dtype, encoding.channels)))


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
    if 'compressedDepth' in message.format:
        raise ValueError(
            f"compressed image is of format '{message.format}', which is depth and not a picture: "
            "remap to the colour camera's compressed topic"
        )
    pixels = _uncompressed(message)
    encoding = _encoding_of(message.format, channels=pixels.shape[2])
    return ENCODINGS[encoding].to_rgb(high_byte(pixels))


def _uncompressed(message: Any) -> NDArray[Any]:
    """
    Pixels as they were compressed, (H, W, 1, 3 or 4), 8 or 16 bits.

    Unchanged also means not turned by an orientation in the data, which K would not follow.
    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    pixels = None
    if data.size and not _is_cut_short(data.tobytes()):
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        except cv2.error:  # a size beyond all reason, for one
            pixels = None
    # OpenCV answers None to data that it does not know
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"compressed image of format '{message.format}' and {data.size} bytes cannot be "
            'decoded: cut short or damaged, or of another kind; supported are JPEG and PNG'
        )
    return np.asarray(pixels.reshape(*pixels.shape[:2], -1))


def _is_cut_short(data: bytes) -> bool:
    """Whether the end mark is missing; older OpenCV would fill what is lost with grey."""
    if data.startswith(b'\xff\xd8'):
        # A thumbnail within has an end mark too, but that stands before the scan
        return data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda')
    return data.startswith(b'\x89PNG') and b'IEND' not in data


def _encoding_of(image_format: str, channels: int) -> str:
    """Encoding of pixels that OpenCV uncompressed; a mosaic is compressed as if it were grey."""
    original = image_format.partition(';')[0].strip()
    if channels == 1 and original.startswith('bayer_') and original in ENCODINGS:
        return original
    return {1: 'mono8', 3: 'bgr8', 4: 'bgra8'}[channels]
