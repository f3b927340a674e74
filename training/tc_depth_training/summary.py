"""What a run did, as records: what its report and its model card are written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_training.config import TrainingConfig
from tc_depth_training.data.stretch import WHOLE, Stretch
from tc_depth_training.evaluation.depth_errors import DepthErrors, ScaledErrors


@dataclass(frozen=True)
class RecordingSummary:
    """What one camera of one bag gave."""

    name: str  # of the bag, with the topic where it gives several, and its stretch
    image_topic: str
    frames: int
    windows: int  # learned from
    held_out: int  # windows that the weights are judged by
    left_out: Mapping[str, int]  # frames or windows not used, by cause; causes in words
    stretch: Stretch = WHOLE  # of the bag

    @property
    def left_out_text(self) -> str:
        """Causes and counts in one line; '' where nothing is left out."""
        return ', '.join(f'{cause} ({count})' for cause, count in self.left_out.items() if count)

    @property
    def line(self) -> str:
        """All of it in one line."""
        return (
            f'{self.name}: {self.frames} frames, {self.windows} windows to learn from, '
            f'{self.held_out} held out; left out: {self.left_out_text or "nothing"}'
        )


@dataclass(frozen=True)
class HeldOutScore:
    """How the best weights do on the held-out windows of one recording."""

    recording: str
    windows: int
    photometric: float  # mean reprojection error, of SSIM and L1
    geometric: float  # mean relative disagreement of the frames' depths
    depth: ScaledErrors | None  # None: the recording has no measured depth
    constant: DepthErrors | None  # of the best constant depth, for comparison
    scale: float | None  # of measured depth over theirs, common to all images


@dataclass(frozen=True)
class Sample:
    """A held-out frame, and what the best weights see in it."""

    recording: str
    image: NDArray[np.uint8]  # (H, W, 3), RGB
    depth: NDArray[np.float32]  # (H, W), z in the weights' unit
    truth: NDArray[np.float32] | None  # (H, W), z in m, NaN where unknown


@dataclass(frozen=True)
class RunSummary:
    """A finished run."""

    config: TrainingConfig
    info: WeightsInfo
    recordings: tuple[RecordingSummary, ...]
    steps: int  # done
    best_step: int  # whose weights were kept
    score_name: str  # what the best weights were chosen by; '': the last were kept
    held_out: tuple[HeldOutScore, ...]
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...]
    stopped: str  # why before its end; '' where it was not
    duration_s: float
