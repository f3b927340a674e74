"""Which windows are kept aside to judge by: blocks of time, never single frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.recording import Recording
from tc_depth_training.data.windows import FRAMES, GAP, Windows


@dataclass(frozen=True)
class Split:
    """A recording's windows in two parts that share no frame."""

    learned: Windows
    held_out: Windows
    dropped: int  # windows with frames of both


def split(recording: Recording, windows: Windows, share: float, block_s: float) -> Split:
    """
    Hold out a share of a recording's time.

    The time is that of its frames, in the order recorded: a gap or a jump of the clock counts as
    one period. It is cut into equal parts, and the middle of each is held out. Of a recording so
    short that no window fits into a block, all is learned from.

    :param share: of the time, 0 to 1
    :param block_s: longest stretch held out
    """
    held = held_out_frames(recording, share, block_s)[windows.indices]
    of_each = held.sum(axis=1)
    inside, outside = of_each == FRAMES, of_each == 0
    if not inside.any():
        return Split(windows, windows.only(inside), 0)
    dropped = len(windows) - int(inside.sum()) - int(outside.sum())
    return Split(windows.only(outside), windows.only(inside), dropped)


def held_out_frames(recording: Recording, share: float, block_s: float) -> NDArray[np.bool_]:
    """Which frames are held out, (N,)."""
    shares, duration_s = _frames_time(recording)
    if share == 0 or duration_s == 0:
        return np.zeros(len(shares), dtype=np.bool_)
    # Stamps are not exact: a block that just fills block_s must not become two
    count = max(1, math.ceil(share * duration_s / block_s - 1e-3))
    return np.asarray(np.abs(shares * count % 1 - 0.5) < share / 2)


def _frames_time(recording: Recording) -> tuple[NDArray[np.float64], float]:
    """
    When each frame is in the middle of its period, if all were recorded without a break.

    :return: as a share of the whole, (N,); and how long that is, in s
    """
    period_ns = recording.period_ns
    steps = np.diff(recording.stamps_ns)
    broken = (np.diff(recording.segment) != 0) | (steps > GAP * period_ns)
    starts = np.concatenate([[0], np.cumsum(np.where(broken, period_ns, steps))])
    duration_ns = max(1, int(starts[-1]) + period_ns)
    return (starts + period_ns / 2) / duration_ns, (starts[-1] + period_ns) * 1e-9
