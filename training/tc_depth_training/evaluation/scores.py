"""What an evaluation finds, as records; and as the JSON that users read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tc_depth_ros.localisation import MotionName
from tc_depth_training.evaluation.confidence_bins import ConfidenceScores
from tc_depth_training.evaluation.depth_errors import DepthErrors, ScaledErrors


@dataclass(frozen=True)
class ScaleStatistics:
    """The factor that each image would need; its spread is what cannot be calibrated away."""

    mean: float
    std: float


@dataclass(frozen=True)
class TemporalErrors:
    """Steadiness over time; None where the bag lacks what a figure needs."""

    tcm_abs: float | None  # m; needs truth and odometry
    tcm_rmse: float | None  # m
    tae: float | None  # share; needs odometry
    opw: float | None  # share; needs images only
    scale_ratio_std: float | None  # of s_t / s_t-1, the images' scales; needs truth


@dataclass(frozen=True)
class FrameScore:
    """How one frame did."""

    index: int  # within the sequence
    scale: float  # its own factor
    abs_rel: float  # with the common factor


@dataclass(frozen=True)
class Scores:
    """What one way of predicting reaches."""

    frames: int  # predicted; with a truth to compare with, where there is any
    coverage: float | None  # share of the truth's pixels with a prediction
    depth: ScaledErrors | None
    scale: ScaleStatistics | None
    temporal: TemporalErrors
    of_frames: tuple[FrameScore, ...]


@dataclass(frozen=True)
class PoseErrors:
    """How well the pose network follows the odometry, in m."""

    ate5_mean: float | None
    ate5_std: float | None
    ate_rmse: float | None


@dataclass(frozen=True)
class TrivialScores:
    """Errors of answers that look at no image, fitted to the truth and so not scaled."""

    constant: DepthErrors
    plane: DepthErrors
    pixel_mean: DepthErrors


@dataclass(frozen=True)
class Evaluation:
    """All numbers of one run."""

    bag: str
    truth_topic: str  # '': the bag has none
    metric: bool  # what the weights say of their depth
    window: Scores  # with the past, as the node predicts
    single_frame: Scores  # every frame by itself
    pose: PoseErrors
    trivial: TrivialScores | None
    confidence: ConfidenceScores | None = None  # None: not asked for
    # Frames by whose motion they were matched with the past; empty: none was matched
    motions: Mapping[MotionName, int] = field(default_factory=dict)
    without_motion: Scores | None = None  # as the window, but not matched; None: it is not either

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null where the bag lacks what a number needs."""
        asked = {'confidence': self.confidence.to_dict()} if self.confidence else {}
        matched = self.without_motion and _scores_to_dict(self.without_motion)
        return {
            **_scores_to_dict(self.window),
            'pose': asdict(self.pose),
            'single_frame': _scores_to_dict(self.single_frame),
            'motions': dict(self.motions),
            'without_motion': matched,
            'trivial': asdict(self.trivial) if self.trivial else None,
            **asked,
        }


def _scores_to_dict(scores: Scores) -> dict[str, Any]:
    depth = scores.depth
    return {
        'frames': scores.frames,
        'coverage': scores.coverage,
        'depth': depth
        and {
            'median': asdict(depth.median),
            'global': asdict(depth.overall),
            'none': asdict(depth.none),
        },
        'scale': asdict(scores.scale) if scores.scale else None,
        'temporal': asdict(scores.temporal),
    }
