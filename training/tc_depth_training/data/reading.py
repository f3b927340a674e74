"""The one pass over a bag: every image decoded, checked, brought to size and handed on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.frames.camera_info import Calibration
from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.exposure import check_exposure
from tc_depth_ros.frames.frame import Frame, decode_depth, decode_image, stamp_ns
from tc_depth_ros.frames.preprocessing import resize_image, scaled_intrinsics
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_training.data.bag import Bag, BagDamaged, BagError
from tc_depth_training.data.depth_source import DepthSource
from tc_depth_training.data.measured_depth import fit_depth, resize_depth
from tc_depth_training.data.pairing import Pair
from tc_depth_training.data.point_cloud import decode_points, depth_of_points
from tc_depth_training.data.source import Source, cut_to_stretch
from tc_depth_training.data.stretch import EVERYTHING
from tc_depth_training.data.trajectory import CameraTracks

UNDECODED, UNFIT = 'not decoded', 'CameraInfo unusable'
UNDECODED_DEPTH, LOST = 'depth not decoded', 'lost where the bag is damaged'


class Sink(Protocol):
    """Takes images one after the other."""

    def append(self, image: NDArray[Any]) -> None:
        """Take the next."""
        ...


@dataclass
class Readings:
    """What a pass found, in the order recorded; pixels went to the sinks."""

    stamps_ns: list[int] = field(default_factory=list)
    log_ns: list[int] = field(default_factory=list)
    camera: list[int] = field(default_factory=list)  # into what follows
    calibrations: list[Calibration] = field(default_factory=list)
    K: list[NDArray[np.float32]] = field(default_factory=list)  # (3, 3), at training size
    seen: list[NDArray[np.bool_] | None] = field(default_factory=list)  # (H, W); None: all
    tracks: CameraTracks | None = None  # None: no odometry
    # Of measured depth; and how many frames came before
    depth_stamps_ns: list[int] = field(default_factory=list)
    frames_before_depth: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)  # the first of each cause

    def leave_out(self, cause: str, error: Exception) -> None:
        """Count something that cannot be used."""
        self.left_out[cause] += 1
        self.errors.setdefault(cause, str(error))


def read_bag(source: Source, frames: Sink, depths: Sink | None, quiet: bool) -> Readings:
    """
    Read a bag once, from its beginning to its end or to where it is damaged.

    Of images and of measured depth, what is stamped outside the source's stretch is not looked at.
    Odometry is read from all of the bag.

    :param frames: gets (H, W, 3) uint8, RGB
    :param depths: gets (H, W) float16, z in m, NaN where unknown; None: depth is not read
    :raises BagError: no image can be used
    """
    source = cut_to_stretch(source, quiet)
    reader = _Reader(source, frames, depths)
    tracks = reader.readings.tracks
    motion = tracks.topics if tracks else set()
    measured = {source.depth.topic} if source.depth and depths else set()
    progress = tqdm(total=source.count, desc=f'reading {source.name}', unit='frame', disable=quiet)
    with Bag(source.bag) as bag, progress:
        try:
            for item in bag.read(source.camera, motion | measured):
                if isinstance(item, Pair):
                    reader.take_image(item)
                    progress.update(reader.images - progress.n)
                elif item.topic in measured:
                    reader.take_depth(item.message)
                elif tracks:
                    tracks.add(item.topic, item.message, len(reader.readings.stamps_ns))
        except BagDamaged as error:
            reader.readings.errors[LOST] = str(error)
    readings = reader.readings
    # A damaged file may also just end early
    if reader.images < source.count:
        readings.left_out[LOST] = source.count - reader.images
    if not readings.stamps_ns:
        raise _nothing_left(source, readings)
    return readings


def _nothing_left(source: Source, readings: Readings) -> BagError:
    counted = ', '.join(f'{count} {cause}' for cause, count in readings.left_out.items())
    why = next(iter(readings.errors.values()), 'they are not there')
    return BagError(
        f'{source.bag}{source.stretch.suffix} gives no usable image of {source.camera.image}, '
        f'which has {source.count} ({counted or "none read"}): {why}'
    )


class _Reader:
    """Takes the messages of a pass and keeps what they say."""

    def __init__(self, source: Source, frames: Sink, depths: Sink | None) -> None:
        odometry = source.odometry
        self.readings = Readings()
        if odometry is not None:
            self.readings.tracks = CameraTracks(odometry.topic, odometry.child_T_camera)
        self.images = 0  # taken so far, usable or not
        self._source, self._within = source, source.interval or EVERYTHING
        self._frames, self._depths = frames, depths
        self._decoder = FrameDecoder(rectify=not is_rectified(source.camera.image))
        self._cameras: dict[Calibration, int] = {}

    def take_image(self, pair: Pair) -> None:
        if not self._within.holds(stamp_ns(pair.image.header)):
            return None
        readings = self.readings
        self.images += 1
        try:
            frame = self._decoder.decode(pair.image, pair.camera_info)
            check_exposure(frame.image, frame.seen)
        except FrameRejected as error:
            return readings.leave_out(error.cause, error)
        except ValueError as error:
            return readings.leave_out(_cause(pair.image), error)
        self._frames.append(resize_image(frame.image, self._source.size))
        readings.stamps_ns.append(frame.stamp_ns)
        readings.log_ns.append(pair.log_ns)
        readings.camera.append(self._camera_of(frame, pair.camera_info))
        return None

    def _camera_of(self, frame: Frame, camera_info: Any) -> int:
        calibration = Calibration.from_message(camera_info)
        if calibration not in self._cameras:
            self._cameras[calibration] = len(self._cameras)
            size, readings = self._source.size, self.readings
            K = scaled_intrinsics(frame.K, frame.size, size).numpy().astype(np.float32)
            readings.calibrations.append(calibration)
            readings.K.append(K)
            readings.seen.append(None if frame.seen is None else shrink_mask(frame.seen, size))
        return self._cameras[calibration]

    def take_depth(self, message: Any) -> None:
        readings, source = self.readings, self._source.depth
        # Before the first image nothing says where it would fall
        if source is None or self._depths is None or not readings.K:
            return
        if not self._within.holds(stamp_ns(message.header)):
            return
        try:
            depth = self._depth_at_size(message, source)
        except ValueError as error:
            return readings.leave_out(UNDECODED_DEPTH, error)
        self._depths.append(depth.astype(np.float16))
        readings.depth_stamps_ns.append(stamp_ns(message.header))
        readings.frames_before_depth.append(len(readings.stamps_ns))

    def _depth_at_size(self, message: Any, source: DepthSource) -> NDArray[np.float32]:
        size = self._source.size
        if source.camera_T_points is not None:
            K = self.readings.K[self.readings.camera[-1]].astype(np.float64)
            return depth_of_points(decode_points(message), source.camera_T_points, K, size)
        depth = decode_depth(message)
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
        if source.is_raw:
            depth = fit_depth(depth, self._decoder.camera)
        return resize_depth(depth, size)


def _cause(image: Any) -> str:
    """Whose fault it is that an image and a CameraInfo give no frame."""
    try:
        decode_image(image)
    except ValueError:
        return UNDECODED
    return UNFIT


def shrink_mask(seen: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Bring a mask to (height, width): only what was made of seen pixels alone is seen."""
    as_image = np.repeat(np.where(seen, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    shrunk = resize_image(as_image, size)[..., 0] == 255
    return None if shrunk.all() else shrunk
