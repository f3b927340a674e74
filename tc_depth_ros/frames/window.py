"""Which frames belong together: consecutive, of one camera, without a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.settings import setting

Continuity = Literal['first', 'continued', 'gap', 'clock', 'size', 'intrinsics', 'frame_id']


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
        self._last: Frame | None = None

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._last = None

    def push(self, frame: Frame) -> Continuity:
        """
        Take the next frame.

        :return: 'continued', or why the past does not count any more
        :raises FrameRejected: the frame repeats the last stamp, or is late by less than a gap
        """
        continuity = self._continuity(frame)
        self._last = frame
        return continuity

    def _continuity(self, frame: Frame) -> Continuity:
        last = self._last
        if last is None:
            return 'first'
        step_s = (frame.stamp_ns - last.stamp_ns) * 1e-9
        if step_s < -self._config.max_gap_s:
            return 'clock'
        if step_s == 0:
            raise FrameRejected('duplicate', f'a frame of stamp {frame.stamp_ns} ns came twice')
        if step_s < 0:
            raise FrameRejected('late', f'the frame is {-step_s:.3f} s older than the last one')
        if frame.size != last.size:
            return 'size'
        if not np.array_equal(frame.K, last.K):
            return 'intrinsics'
        if frame.frame_id != last.frame_id:
            return 'frame_id'
        return 'gap' if step_s > self._config.max_gap_s else 'continued'
