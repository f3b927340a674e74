"""
What the soak shows the node: a recording over and over, and what goes wrong with a camera.

A fault takes the next frames of the recording and says what goes out instead of each.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from tc_depth_ros.frames.frame import decode_image
from tc_depth_ros.ros.bag_player import read_messages
from tc_depth_training.data.bag import Bag

MAX_FRAMES = 200  # of a recording; they are held in memory, prepared
JPEG_QUALITY = 90
SMALLER = 2  # divisor of a resized image


@dataclass(frozen=True)
class Shot:
    """An image and its CameraInfo, as they go out; either may be missing."""

    image: Image | CompressedImage | None
    info: CameraInfo | None


Tick = tuple[Shot, ...]  # all that goes out at the time of one frame
Fault = Callable[['Recording', int, Random], list[Tick]]


@dataclass(frozen=True)
class Recording:
    """The frames of a bag, and the same frames made smaller; played in a loop."""

    frames: tuple[Shot, ...]
    small: tuple[Shot, ...]
    compressed: bool

    def frame(self, index: int) -> Shot:
        """Frame by a number that grows on through the loops."""
        return self.frames[index % len(self.frames)]


def load_recording(bag: Path, image_topic: str = '', camera_info_topic: str = '') -> Recording:
    """
    Read the first frames of a bag's camera, and prepare all that will be published.

    :raises BagError: the bag has no camera, or several and no topic was chosen
    """
    with Bag(bag) as opened:
        camera = opened.find_camera(image_topic, camera_info_topic)
    compressed = camera.image.endswith('/compressed')
    kind = CompressedImage if compressed else Image
    infos = read_messages(bag, [camera.camera_info])
    info = deserialize_message(next(infos).cdr, CameraInfo)
    images = islice(read_messages(bag, [camera.image]), MAX_FRAMES)
    frames = [
        Shot(image, _with_header_of(image, info))
        for image in (deserialize_message(message.cdr, kind) for message in images)
    ]
    return Recording(tuple(frames), tuple(map(_smaller, frames)), compressed)


def _with_header_of(image: Any, info: CameraInfo) -> CameraInfo:
    fitting = copy.copy(info)
    fitting.header = image.header
    return fitting


def _smaller(shot: Shot) -> Shot:
    """The same view with fewer pixels, and intrinsics that fit them."""
    assert shot.image is not None and shot.info is not None
    rgb = decode_image(shot.image)
    height, width = rgb.shape[0] // SMALLER, rgb.shape[1] // SMALLER
    image = _encoded(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), shot.image)
    info = copy.copy(shot.info)
    info.height, info.width = height, width
    info.k, info.p = _scaled(info.k, 3, 1 / SMALLER), _scaled(info.p, 4, 1 / SMALLER)
    return Shot(image, info)


def _scaled(matrix: Any, columns: int, factor: float) -> Any:
    """K or P of an image scaled by a factor; the centre of the first pixel is (0, 0)."""
    scaled = np.array(matrix, np.float64).reshape(3, columns)
    scaled[:2, 2] += 0.5
    scaled[:2] *= factor
    scaled[:2, 2] -= 0.5
    return scaled.ravel()


def _encoded(rgb: Any, like: Image | CompressedImage) -> Image | CompressedImage:
    """RGB (H, W, 3) as a message of the kind of another, with its header."""
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    if isinstance(like, CompressedImage):
        _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return CompressedImage(header=like.header, format='jpeg', data=array('B', data.tobytes()))
    height, width = bgr.shape[:2]
    data = array('B', bgr.tobytes())
    return Image(
        header=like.header, height=height, width=width, encoding='bgr8', step=3 * width, data=data
    )


# ---- faults --------------------------------------------------------------------------------


def dropped(recording: Recording, index: int, random: Random) -> list[Tick]:
    """The camera loses one frame."""
    return [()]


def paused(recording: Recording, index: int, random: Random) -> list[Tick]:
    """The camera says nothing for a while: longer than max_gap_s."""
    return [()] * random.randint(8, 15)


def duplicated(recording: Recording, index: int, random: Random) -> list[Tick]:
    """A frame comes twice."""
    return [(recording.frame(index),) * 2]


def reordered(recording: Recording, index: int, random: Random) -> list[Tick]:
    """A frame comes after the one that followed it."""
    return [(recording.frame(index + 1),), (recording.frame(index),)]


def resized(recording: Recording, index: int, random: Random) -> list[Tick]:
    """The camera changes its resolution for a while, and says so."""
    count, small = random.randint(1, 10), recording.small
    return [(small[(index + step) % len(small)],) for step in range(count)]


def resized_without_info(recording: Recording, index: int, random: Random) -> list[Tick]:
    """The camera changes its resolution, and its CameraInfo still tells the old one."""
    small = recording.small[index % len(recording.small)]
    return [(Shot(small.image, recording.frame(index).info),)]


def without_info(recording: Recording, index: int, random: Random) -> list[Tick]:
    """CameraInfo is missing for a while."""
    count = random.randint(5, 20)
    return [(Shot(recording.frame(index + step).image, None),) for step in range(count)]


def uncalibrated(recording: Recording, index: int, random: Random) -> list[Tick]:
    """CameraInfo holds nothing but the size."""
    shot = recording.frame(index)
    assert shot.info is not None
    info = CameraInfo(header=shot.info.header, height=shot.info.height, width=shot.info.width)
    return [(Shot(shot.image, info),)]


def truncated(recording: Recording, index: int, random: Random) -> list[Tick]:
    """The end of the image's data is missing: of JPEG, perhaps all of it."""
    image = copy.copy(recording.frame(index).image)
    assert image is not None
    image.data = image.data[: random.randrange(len(image.data))]
    return [(Shot(image, recording.frame(index).info),)]


def scrambled(recording: Recording, index: int, random: Random) -> list[Tick]:
    """Some bytes of the image's data are others."""
    image = copy.copy(recording.frame(index).image)
    assert image is not None
    data = array('B', image.data)
    for _ in range(20):
        data[random.randrange(len(data))] = random.randrange(256)
    image.data = data
    return [(Shot(image, recording.frame(index).info),)]


def of_unknown_encoding(recording: Recording, index: int, random: Random) -> list[Tick]:
    """The image is of an encoding that nobody knows, or, compressed, of bytes that are none."""
    image = copy.copy(recording.frame(index).image)
    if isinstance(image, Image):
        image.encoding = 'smoke8'
    else:
        assert image is not None
        image.format, image.data = 'smoke', array('B', random.randbytes(5000))
    return [(Shot(image, recording.frame(index).info),)]


FAULTS: tuple[Fault, ...] = (
    dropped,
    paused,
    duplicated,
    reordered,
    resized,
    resized_without_info,
    without_info,
    uncalibrated,
    truncated,
    scrambled,
    of_unknown_encoding,
)
