"""Predicted depths against the truth: of weights, and of answers that look at no image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.network.checkpoint import WeightsError
from tc_depth_training.data.bag import BagError
from tc_depth_training.evaluation.depth_errors import (
    DepthErrors,
    ScaledErrors,
    depth_errors,
    mean_errors,
    median_scale,
)
from tc_depth_training.evaluation.predictions import Depths
from tc_depth_training.evaluation.scores import (
    FrameScore,
    ScaleStatistics,
    Scores,
    TemporalErrors,
    TrivialScores,
)
from tc_depth_training.evaluation.sequence import FrameSequence
from tc_depth_training.evaluation.trivial import fit_trivial_answers

Floats = NDArray[np.float64]
LIDAR_CELL_PX = 16  # a pixel hardly ever has a lidar point twice


@dataclass(frozen=True)
class DepthRange:
    """Truth outside is left out; predictions are clamped to it after scaling."""

    minimum: float = 1e-3  # m
    maximum: float = 80.0


@dataclass(frozen=True)
class FrameScale:
    """The factor that brings one frame's depth to the truth's."""

    index: int  # within the sequence
    scale: float


@dataclass(frozen=True)
class _Pixels:
    """Where one frame has both a truth and a prediction."""

    truth: Floats  # (N,)
    prediction: Floats  # (N,)


def _pixels(truth: NDArray[Any], prediction: NDArray[Any]) -> _Pixels:
    both = np.isfinite(truth) & np.isfinite(prediction)
    return _Pixels(truth[both].astype(np.float64), prediction[both].astype(np.float64))


def _errors(pixels: _Pixels, scale: float, depth_range: DepthRange) -> DepthErrors:
    clamped = np.clip(scale * pixels.prediction, depth_range.minimum, depth_range.maximum)
    return depth_errors(pixels.truth, clamped)


def keep_range(truth: Depths, topic: str, depth_range: DepthRange) -> None:
    """Make unknown what is outside the range, in place; raises BagError where nothing is left."""
    left = 0
    for depth in truth:
        with np.errstate(invalid='ignore'):
            known = (depth > depth_range.minimum) & (depth < depth_range.maximum)
        depth[~known] = np.nan
        left += int(known.sum())
    if not left:
        raise BagError(
            f'{topic} has no depth between {depth_range.minimum:g} and {depth_range.maximum:g} m: '
            'is the topic right, and is its unit (16UC1 is mm, 32FC1 is m)?'
        )


def find_scales(sequence: FrameSequence, depths: Depths) -> list[FrameScale]:
    """Find each frame's own factor; frames without truth are left out; raises WeightsError."""
    if sequence.truth is None:
        return []
    # A generator: the pixels of all frames together may not fit into memory
    pairs = (_pixels(t, d) for t, d in zip(sequence.truth, depths, strict=True))
    found = [
        FrameScale(index, median_scale(pair.truth, pair.prediction))
        for index, pair in enumerate(pairs)
        if pair.truth.size
    ]
    if not found:
        raise WeightsError(
            'the weights predict no finite depth where there is truth: use others, or train anew'
        )
    return found


def common_scale(frames: Sequence[FrameScale]) -> float:
    """One factor for all frames: the median of their own; 1 where there is no truth."""
    return float(np.median([frame.scale for frame in frames])) if frames else 1.0


def score_depths(
    sequence: FrameSequence,
    depths: Depths,
    frames: Sequence[FrameScale],
    temporal: TemporalErrors,
    depth_range: DepthRange,
) -> Scores:
    """Compare predicted depths with the truth, where there is one."""
    if sequence.truth is None:
        return Scores(len(depths), None, None, None, temporal, ())
    common = common_scale(frames)
    own, overall, as_is, compared = [], [], [], 0
    for frame in frames:
        pixels = _pixels(sequence.truth[frame.index], depths[frame.index])
        compared += pixels.truth.size
        own.append(_errors(pixels, frame.scale, depth_range))
        overall.append(_errors(pixels, common, depth_range))
        as_is.append(_errors(pixels, 1.0, depth_range))
    known = sum(int(np.isfinite(truth).sum()) for truth in sequence.truth)
    scales = np.array([frame.scale for frame in frames])
    return Scores(
        len(frames),
        compared / known,
        ScaledErrors(mean_errors(own), mean_errors(overall), mean_errors(as_is)),
        ScaleStatistics(float(scales.mean()), float(scales.std())),
        temporal,
        tuple(
            FrameScore(frame.index, frame.scale, errors.abs_rel)
            for frame, errors in zip(frames, overall, strict=True)
        ),
    )


def score_trivial(sequence: FrameSequence, depth_range: DepthRange) -> TrivialScores:
    """Fit the trivial answers to the truth, and score them."""
    assert sequence.truth is not None

    def truths() -> Iterator[Floats]:
        return (truth.astype(np.float64) for truth in sequence.truth)  # type: ignore[union-attr]

    def errors(answer: Floats) -> DepthErrors:
        pairs = (_pixels(truth, answer) for truth in truths())
        return mean_errors([_errors(p, 1.0, depth_range) for p in pairs if p.truth.size])

    cell = LIDAR_CELL_PX if sequence.sparse else 1
    answers = fit_trivial_answers(truths, sequence.size, cell)
    return TrivialScores(
        errors(answers.constant), errors(answers.plane), errors(answers.pixel_mean)
    )
