"""Messages to frames: decoded, checked against their CameraInfo, rectified."""

from __future__ import annotations

import re

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.camera_info import Calibration, CameraInfoMessage
from tc_depth_ros.frames.frame import (
    CompressedImageMessage,
    Frame,
    ImageMessage,
    decode_image,
    stamp_ns,
)

TRANSPORTS = ('compressed', 'compressedDepth', 'theora')  # the last part of their topics
RECTIFIED = re.compile('(^|_)rect')  # image_rect, rectified; not direct, not unrectified


def is_rectified(topic: str) -> bool:
    """
    Whether a topic's name says that its images are rectified.

    One of its last two parts has a word that begins with "rect": ``/left/image_rect_color``,
    ``/rgb/rect/image``. A transport's name at the end (``/compressed``) is not counted.
    """
    parts = [part for part in topic.split('/') if part]
    if parts and parts[-1] in TRANSPORTS:
        parts.pop()
    return any(RECTIFIED.search(part) for part in parts[-2:])


class FrameDecoder:
    """Makes frames of one camera's messages; its geometry is worked out anew when it changes."""

    def __init__(self, rectify: bool) -> None:
        """
        Begin with no camera known.

        :param rectify: the images are raw; False: they come rectified (see :func:`is_rectified`)
        """
        self._rectify = rectify
        self._model: CameraModel | None = None

    def decode(
        self, image: ImageMessage | CompressedImageMessage, camera_info: CameraInfoMessage
    ) -> Frame:
        """
        Decode and rectify an image, and put its intrinsics beside it.

        :raises ValueError: unknown encoding, truncated data; a CameraInfo of another frame or
            size, or one that does not tell how to rectify
        """
        frame_id = _common_frame_id(image.header.frame_id, camera_info.header.frame_id)
        model = self._model_of(camera_info)
        pixels = decode_image(image)
        _check_size((pixels.shape[0], pixels.shape[1]), model.calibration)
        rectified = model.rectify(pixels)
        return Frame(rectified, model.K, stamp_ns(image.header), frame_id, model.seen)

    @property
    def camera(self) -> CameraModel:
        """The camera of the last frame; there must be one."""
        assert self._model is not None
        return self._model

    def _model_of(self, camera_info: CameraInfoMessage) -> CameraModel:
        """Keep the model while the CameraInfo says the same: every image has a new message."""
        model = self._model
        if model is None or model.calibration != Calibration.from_message(camera_info):
            model = self._model = CameraModel.from_message(camera_info, self._rectify)
        return model


def _common_frame_id(image: str, camera_info: str) -> str:
    """Frame id of both; a leading slash, as ROS 1 had it, makes no difference."""
    if image and camera_info and image.lstrip('/') != camera_info.lstrip('/'):
        raise ValueError(
            f"image is of frame '{image}' but its CameraInfo of frame '{camera_info}': remap "
            "camera_info to the camera's own, or give both one frame_id in the camera driver"
        )
    return image or camera_info


def _check_size(size: tuple[int, int], calibration: Calibration) -> None:
    height, width = calibration.image_size
    if size == (height, width):
        return
    full = f' of a full {calibration.width}x{calibration.height}, after ROI and binning'
    raise ValueError(
        f'image is {size[1]}x{size[0]} but its CameraInfo says {width}x{height} (width x height)'
        f'{full if calibration.is_reduced else ""}: publish a CameraInfo that fits the image, '
        'scaled if the image was resized'
    )
