"""Where a camera was, as somebody tells it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CameraPose:
    """Where a frame was taken."""

    track_T_camera: NDArray[np.float64]  # (4, 4), of the optical frame
    track: str  # who tells it, and since when; poses of two tracks cannot be compared
    unit: float = 1.0  # length of the track's unit, in that of the depth that is asked for
    # Takes points of this frame to the one before, (4, 4), in the unit of the depth; None: unknown
    last_T_this: NDArray[np.float64] | None = None

    def in_units_of(self, length: float) -> CameraPose:
        """The same where depth is counted in units of this length."""
        motion = self.last_T_this
        if motion is not None:
            motion = motion.copy()
            motion[:3, 3] /= length
        return replace(self, unit=self.unit / length, last_T_this=motion)

    def past_T_this(self, past: NDArray[np.float64]) -> NDArray[np.float64]:
        """Motion (4, 4) in the unit of depth, to an older pose ``track_T_camera`` of the track."""
        motion = np.asarray(np.linalg.inv(past) @ self.track_T_camera, np.float64)
        motion[:3, 3] *= self.unit
        return motion
