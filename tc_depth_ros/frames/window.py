"""Which frames belong together: consecutive, of one camera, without a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.settings import setting

Continuity = Literal['first', 'continued', 'gap', 'clock', 'size', 'intrinsics', 'frame_id']
MAX_LATE = 2  # frames in a row; swapped on the way are single ones


class FrameRejected(ValueError):
    """A frame that cannot be used; ``cause`` is one word for counting."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class WindowConfig:
    """When frames belong together."""

    max_gap_s: float = setting(
        0.5, 'a longer gap between two frames starts a new window, s', 0.001, 3600.0
    )

    def __post_init__(self) -> None:
        """Refuse a gap that no frame could keep."""
        if not self.max_gap_s > 0:
            raise ValueError(f'max_gap_s is {self.max_gap_s}; it must be positive')


class FrameWindow:
    """Follows a stream of frames and says when the past no longer counts."""

    def __init__(self, config: WindowConfig | None = None) -> None:
        self._config = config or WindowConfig()
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._last: Frame | None = None
        self._late = 0  # frames in a row that were

    def push(self, frame: Frame) -> Continuity:
        """
        Take the next frame.

        A step back by more than a gap is the clock's. So is a shorter one that goes on: a frame
        stamped ahead of its time, or a bag that loops within a gap, would else make all frames
        late.

        :return: 'continued', or why the past does not count any more
        :raises FrameRejected: the frame has no stamp, repeats the last one, or is late; the past
            is kept
        """
        continuity = self._continuity(frame)
        self._last = frame
        self._late = 0
        return continuity

    def _continuity(self, frame: Frame) -> Continuity:
        last = self._last
        if frame.stamp_ns == 0:
            raise FrameRejected(
                'unstamped',
                "the image's stamp is 0: set header.stamp to the time of capture in the camera "
                'driver; what is older or newer cannot be told without',
            )
        if last is None:
            return 'first'
        step_s = (frame.stamp_ns - last.stamp_ns) * 1e-9
        if step_s == 0:
            raise FrameRejected('duplicate', f'a frame of stamp {frame.stamp_ns} ns came twice')
        if step_s < 0:
            if -step_s > self._config.max_gap_s or self._late == MAX_LATE:
                return 'clock'
            self._late += 1
            raise FrameRejected('late', f'the frame is {-step_s:.3f} s older than the last one')
        if frame.size != last.size:
            return 'size'
        if not np.array_equal(frame.K, last.K):
            return 'intrinsics'
        if frame.frame_id != last.frame_id:
            return 'frame_id'
        return 'gap' if step_s > self._config.max_gap_s else 'continued'
