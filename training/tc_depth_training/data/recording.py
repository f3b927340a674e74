"""One camera of one bag at training size, and all that is known of its frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.arrange import Arrangement
from tc_depth_training.data.frame_store import FrameStore, ReorderedFrames
from tc_depth_training.data.source import Source
from tc_depth_training.data.stretch import WHOLE, Stretch


@dataclass(frozen=True)
class Recording:
    """N frames in the order recorded; within a segment stamps increase."""

    name: str
    bag: Path
    image_topic: str
    size: tuple[int, int]  # (height, width) of its frames
    frames: FrameStore  # (N, H, W, 3) uint8, RGB
    K: NDArray[np.float32]  # (N, 3, 3), in pixels of H x W
    stamps_ns: NDArray[np.int64]  # (N,)
    # (N,), a new one where the clock jumps back, or the CameraInfo or the images' size changes
    segment: NDArray[np.int64]
    camera: NDArray[np.int64]  # (N,) into seen: which of the calibrations
    seen: NDArray[np.bool_] | None  # (C, H, W), False where rectification left black; None: all is
    world_T_camera: NDArray[np.float64] | None  # (N, 4, 4), NaN where unknown; None: no odometry
    depth_rows: NDArray[np.int64]  # (N,) into depth, -1 where a frame has none
    depth: FrameStore | None  # (M, H, W) float16, z in m, NaN where unknown
    left_out: Mapping[str, int]  # images, by cause
    sorted_in: int = 0  # frames that came late, and stand in their place
    key: str = ''  # what it is known by: content, topics, size
    odometry_topic: str = ''
    depth_topic: str = ''
    folder: Path | None = None  # of its cache, where what is worked out of it may be kept
    stretch: Stretch = WHOLE  # of the bag

    @classmethod
    def of(
        cls,
        source: Source,
        key: str,
        arrangement: Arrangement,
        frames: FrameStore,
        depth: FrameStore | None,
        folder: Path | None = None,
    ) -> Recording:
        """
        Put together what a pass found.

        :param frames: in the order in which they were read
        """
        order = arrangement.order
        in_order = len(order) == len(frames) and bool((np.diff(order) == 1).all())
        return cls(
            source.name,
            source.bag,
            source.camera.image,
            source.size,
            frames if in_order else ReorderedFrames(frames, order),
            arrangement.K[arrangement.camera],
            arrangement.stamps_ns,
            arrangement.segment,
            arrangement.camera,
            arrangement.seen,
            arrangement.world_T_camera,
            arrangement.depth_rows,
            depth,
            arrangement.left_out,
            int((np.diff(order) < 0).sum()),
            key,
            source.odometry.topic if source.odometry else '',
            source.depth.topic if source.depth else '',
            folder,
            source.stretch,
        )

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.stamps_ns)

    @property
    def period_ns(self) -> int:
        """Median time between neighbouring frames; 0 of a single frame."""
        steps = np.diff(self.stamps_ns)[np.diff(self.segment) == 0]
        return int(np.median(steps)) if steps.size else 0
