"""What finished weights see in held-out windows, and how well that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import torch

from tc_depth_training.data.windows import WindowDataset
from tc_depth_training.evaluation.depth_errors import (
    ANY_DEPTH,
    KnownPixels,
    ScaledErrors,
    common_scale,
    depth_errors,
    mean_errors,
    scaled_errors,
)
from tc_depth_training.evaluation.trivial import best_factor
from tc_depth_training.step import TrainingModel
from tc_depth_training.summary import HeldOutScore, Sample
from tc_depth_training.validation import NEWEST, Judgement, judge, spread_windows

SAMPLES = 6  # frames shown in the report


@dataclass(frozen=True)
class Examination:
    """What the best weights show on held-out windows."""

    scores: tuple[HeldOutScore, ...]
    samples: tuple[Sample, ...]


def examine(
    model: TrainingModel, scale: float, windows: WindowDataset, most: int, device: torch.device
) -> Examination:
    """
    Judge finished weights on the held-out windows of each recording.

    :param scale: metres per network unit, 1 where it is not known
    :param most: windows to look at, evenly spread
    """
    if not len(windows):
        return Examination((), ())
    numbers = spread_windows(len(windows), most).tolist()
    judged: dict[int, list[Judgement]] = {}
    for one in judge(model, windows, numbers, device, 'examining'):
        judged.setdefault(one.recording, []).append(one)
    scores = [_score(windows.recordings[key].name, found, scale) for key, found in judged.items()]
    shown = [one for found in judged.values() for one in found]
    samples = [_sample(shown[i], windows) for i in spread_windows(len(shown), SAMPLES)]
    return Examination(tuple(scores), tuple(samples))


def _sample(one: Judgement, windows: WindowDataset) -> Sample:
    recording = windows.recordings[one.recording]
    image = windows[one.window].images[0, NEWEST].permute(1, 2, 0).numpy()
    return Sample(recording.name, np.ascontiguousarray(image), one.depth, one.truth)


def _score(recording: str, judged: Sequence[Judgement], scale: float) -> HeldOutScore:
    pairs = ((one.truth, scale * one.depth) for one in judged if one.truth is not None)
    known = [pixels for pixels in starmap(KnownPixels.of, pairs) if pixels.truth.size]
    depth = constant = scale_left = None
    if known:
        scales = [pixels.own_scale() for pixels in known]
        scale_left = common_scale(scales)
        depth = ScaledErrors.mean(scaled_errors(known, scales, ANY_DEPTH))
        truths = [pixels.truth for pixels in known]
        best = best_factor(truths)
        constant = mean_errors([depth_errors(t, np.full_like(t, best)) for t in truths])
    return HeldOutScore(
        recording,
        len(judged),
        float(np.mean([one.photometric for one in judged])),
        float(np.mean([one.geometric for one in judged])),
        depth,
        constant,
        scale_left,
    )
