"""What CameraInfo messages say, and which of them belongs to an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tc_depth_ros.frames.frame import stamp_ns

REMEMBERED = 30  # CameraInfos: a second at 30 Hz, and an image is not late by more


class CameraInfoMessage(Protocol):
    """sensor_msgs/CameraInfo; ``k``, ``r`` and ``p`` are flat, row by row."""

    header: Any
    height: int
    width: int
    distortion_model: str
    d: Any
    k: Any
    r: Any
    p: Any
    binning_x: int
    binning_y: int
    roi: Any


@dataclass(frozen=True)
class RegionOfInterest:
    """The part of the full image that was captured, in pixels of the full image."""

    x_offset: int
    y_offset: int
    height: int
    width: int


@dataclass(frozen=True)
class Calibration:
    """A CameraInfo without its header: what two messages must share to mean the same camera."""

    height: int  # of the full image, in pixels
    width: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]  # (9,), row by row
    r: tuple[float, ...]  # (9,)
    p: tuple[float, ...]  # (12,)
    binning_x: int  # at least 1, full pixels per pixel of the image
    binning_y: int
    roi: RegionOfInterest

    @classmethod
    def from_message(cls, message: CameraInfoMessage) -> Calibration:
        """Read a CameraInfo; a ROI or binning that is not filled in becomes what it stands for."""
        roi = RegionOfInterest(
            message.roi.x_offset,
            message.roi.y_offset,
            message.roi.height or message.height,
            message.roi.width or message.width,
        )
        d, k, r, p = (
            tuple(map(float, values)) for values in (message.d, message.k, message.r, message.p)
        )
        binning_x, binning_y = message.binning_x or 1, message.binning_y or 1
        size = (message.height, message.width)
        return cls(*size, message.distortion_model, d, k, r, p, binning_x, binning_y, roi)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that ROI and binning leave."""
        return self.roi.height // self.binning_y, self.roi.width // self.binning_x

    @property
    def is_reduced(self) -> bool:
        """Whether the image is not the full one."""
        return self.image_size != (self.height, self.width)


class CameraInfoBuffer:
    """The CameraInfos of the last second or so, to be found by the stamp of their image."""

    def __init__(self) -> None:
        self._by_stamp: dict[int, CameraInfoMessage] = {}  # in the order added

    def add(self, message: CameraInfoMessage) -> None:
        """Remember a CameraInfo; of one stamp the last counts, and the oldest is forgotten."""
        stamp = stamp_ns(message.header)
        self._by_stamp.pop(stamp, None)
        self._by_stamp[stamp] = message
        if len(self._by_stamp) > REMEMBERED:
            del self._by_stamp[next(iter(self._by_stamp))]

    def match(self, stamp_ns: int) -> CameraInfoMessage | None:
        """Answer the CameraInfo of an image's stamp, else the last added, else None."""
        latest = next(reversed(self._by_stamp.values()), None)
        return self._by_stamp.get(stamp_ns, latest)
