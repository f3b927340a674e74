"""What finished weights see in held-out windows, and how well that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_training.data.windows import WindowDataset
from tc_depth_training.evaluation.depth_errors import (
    DepthErrors,
    ScaledErrors,
    depth_errors,
    mean_errors,
    median_scale,
)
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
    for one in judge(model, windows, numbers, device):
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
    pairs = [(one.truth, scale * one.depth) for one in judged if one.truth is not None]
    known = [_known(truth, depth) for truth, depth in pairs if np.isfinite(truth).any()]
    depth = constant = None
    if known:
        scales = [median_scale(truth, depth) for truth, depth in known]
        common = float(np.median(scales))
        depth = ScaledErrors(
            _mean(known, scales),
            _mean(known, [common] * len(known)),
            _mean(known, [1.0] * len(known)),
        )
        middle = float(np.median(np.concatenate([truth for truth, _ in known])))
        constant = mean_errors(
            [depth_errors(truth, np.full_like(truth, middle)) for truth, _ in known]
        )
    return HeldOutScore(
        recording,
        len(judged),
        float(np.mean([one.photometric for one in judged])),
        float(np.mean([one.geometric for one in judged])),
        depth,
        constant,
    )


def _known(
    truth: NDArray[np.float32], depth: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = np.isfinite(truth)
    return truth[known].astype(np.float64), depth[known].astype(np.float64)


def _mean(
    known: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], scales: Sequence[float]
) -> DepthErrors:
    return mean_errors([depth_errors(t, s * d) for (t, d), s in zip(known, scales, strict=True)])
