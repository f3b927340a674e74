"""Predicted depths against the truth: of weights, and of answers that look at no image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tc_depth_ros.network.checkpoint import WeightsError
from tc_depth_training.data.bag import BagError
from tc_depth_training.evaluation.depth_errors import (
    DepthRange,
    Floats,
    KnownPixels,
    ScaledErrors,
    mean_errors,
    scaled_errors,
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

LIDAR_CELL_PX = 16  # a pixel hardly ever has a lidar point twice


@dataclass(frozen=True)
class FrameScale:
    """The factor that brings one frame's depth to the truth's."""

    index: int  # within the sequence
    scale: float
    pixels: int  # with both a truth and a depth


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
    known = (KnownPixels.of(t, d) for t, d in zip(sequence.truth, depths, strict=True))
    found = [
        FrameScale(index, pixels.own_scale(), pixels.truth.size)
        for index, pixels in enumerate(known)
        if pixels.truth.size
    ]
    if not found:
        raise WeightsError(
            'the weights predict no finite depth where there is truth: use others, or train anew'
        )
    return found


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
    scales = [frame.scale for frame in frames]
    pixels = (KnownPixels.of(sequence.truth[f.index], depths[f.index]) for f in frames)
    errors = scaled_errors(pixels, scales, depth_range)
    known = sum(int(np.isfinite(truth).sum()) for truth in sequence.truth)
    return Scores(
        len(frames),
        sum(frame.pixels for frame in frames) / known,
        ScaledErrors.mean(errors),
        ScaleStatistics(float(np.mean(scales)), float(np.std(scales))),
        temporal,
        tuple(
            FrameScore(frame.index, frame.scale, one.overall.abs_rel)
            for frame, one in zip(frames, errors, strict=True)
        ),
    )


def score_trivial(sequence: FrameSequence, depth_range: DepthRange) -> TrivialScores:
    """Fit the trivial answers to the truth, and score them."""
    assert sequence.truth is not None

    def truths() -> Iterator[Floats]:
        return (truth.astype(np.float64) for truth in sequence.truth)  # type: ignore[union-attr]

    cell = LIDAR_CELL_PX if sequence.sparse else 1
    fitted = fit_trivial_answers(truths, sequence.size, cell)
    answers = fitted.constant, fitted.plane, fitted.pixel_mean
    found = [
        [KnownPixels.of(truth, answer).errors(1.0, depth_range) for answer in answers]
        for truth in truths()
        if np.isfinite(truth).any()
    ]
    return TrivialScores(*map(mean_errors, zip(*found, strict=True)))
