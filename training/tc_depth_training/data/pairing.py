"""Which CameraInfo belongs to an image, while both come in the order recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tc_depth_ros.frames.camera_info import REMEMBERED
from tc_depth_ros.frames.frame import stamp_ns

LOOK_AHEAD = 8  # images that wait for a CameraInfo recorded after them; they may be large


@dataclass(frozen=True)
class Pair:
    """An image and its CameraInfo, as messages."""

    image: Any
    camera_info: Any
    log_ns: int  # when the image was recorded


@dataclass
class _Waiting:
    image: Any
    log_ns: int
    stamp_ns: int
    passed: bool  # a CameraInfo of its stamp or later has come


class CameraInfoPairing:
    """
    Gives each image the CameraInfo of its stamp, else the one nearest in time.

    An image waits until its own CameraInfo or a later one has come, since drivers may publish it
    after the image; but not for more than a few images, for it may be published once.
    """

    def __init__(self, first: Any) -> None:
        """
        Begin.

        :param first: the first CameraInfo of the bag, for images recorded before it
        """
        self._infos = deque([(stamp_ns(first.header), first)], maxlen=REMEMBERED)
        self._waiting: deque[_Waiting] = deque()

    def add_image(self, message: Any, log_ns: int) -> None:
        """Take the next image."""
        stamp = stamp_ns(message.header)
        known = any(info_stamp == stamp for info_stamp, _ in self._infos)
        self._waiting.append(_Waiting(message, log_ns, stamp, known))

    def add_info(self, message: Any) -> None:
        """Take the next CameraInfo."""
        stamp = stamp_ns(message.header)
        self._infos.append((stamp, message))
        for waiting in self._waiting:
            waiting.passed |= stamp >= waiting.stamp_ns

    def settled(self) -> Iterator[Pair]:
        """Hand out the images that need not wait any longer, in the order recorded."""
        while self._waiting and (self._waiting[0].passed or len(self._waiting) > LOOK_AHEAD):
            yield self._next()

    def rest(self) -> Iterator[Pair]:
        """Hand out all that are left, when nothing more will come."""
        while self._waiting:
            yield self._next()

    def _next(self) -> Pair:
        waiting = self._waiting.popleft()
        # Of equally near ones the last: after a clock jump back, the earlier are of another time
        _, nearest = min(reversed(self._infos), key=lambda info: abs(info[0] - waiting.stamp_ns))
        return Pair(waiting.image, nearest, waiting.log_ns)
