"""Metres per network unit of weights whose poses were learned; found at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_training.data.windows import Batch
from tc_depth_training.evaluation.depth_errors import KnownPixels
from tc_depth_training.step import TrainingModel, known_motion

Floats = NDArray[np.float64]

MIN_WINDOWS = 10
MAX_SPREAD = 0.5
LEAST_MOVED_M = 0.01  # of the camera, from one frame to the next; and
LEAST_MOVED = 0.3  # of what is usual in the recording: of shorter ways noise is too large a part


@dataclass(frozen=True)
class FittedScale:
    """How far one network unit is."""

    scale: float  # metres per network unit
    spread: float  # relative, of the single answers: 1.48 times the median absolute deviation
    source: str  # 'depth of TOPIC' or 'odometry of TOPIC'
    windows: int  # single answers behind it


@dataclass(frozen=True)
class NoScale:
    """Why there is none, in words."""

    reason: str


def depth_ratio(truth: NDArray[np.float32], prediction: NDArray[np.float32]) -> float:
    """
    Median of an image's measured depth over the median of its prediction, where both are known.

    :param truth: z in m; NaN where unknown, (H, W)
    :param prediction: z in network units, (H, W)
    :return: metres per network unit; NaN where nothing is known
    """
    known = KnownPixels.of(truth, prediction)
    return known.own_scale() if known.truth.size else float('nan')


def motion_ratios(odometry: Floats, network: Floats) -> Floats:
    """
    Length of the odometry's motions over the pose network's, of those that move enough.

    What is enough is told by the odometry alone: chosen by both, noise would favour one side.

    :param odometry: translations in m, (N, 3)
    :param network: translations in network units, (N, 3)
    :return: metres per network unit, (at most N,)
    """
    moved: Floats = np.linalg.norm(odometry, axis=1)
    learned: Floats = np.linalg.norm(network, axis=1)
    if not len(moved):
        return moved
    enough = moved > max(LEAST_MOVED_M, LEAST_MOVED * float(np.median(moved)))
    ratios: Floats = moved[enough] / np.maximum(learned[enough], 1e-12)
    return ratios


def fit_scale(ratios: Floats, source: str) -> FittedScale | NoScale:
    """
    Median of many answers, if they agree.

    :param ratios: metres per network unit, one of each window or image; NaN counts for nothing
    :param source: as FittedScale has it
    """
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < MIN_WINDOWS:
        return NoScale(f'{source}: {len(ratios)} windows to fit on; {MIN_WINDOWS} are needed')
    scale = float(np.median(ratios))
    spread = 1.4826 * float(np.median(np.abs(ratios - scale))) / scale
    if spread > MAX_SPREAD:
        return NoScale(
            f'{source}: the scales of {len(ratios)} windows spread by {100 * spread:.0f} % about '
            f'{scale:.3g}, more than {100 * MAX_SPREAD:.0f} %'
        )
    return FittedScale(scale, spread, source, len(ratios))


@torch.no_grad()
def measure_motion_ratios(
    model: TrainingModel, batches: Iterable[Batch], device: torch.device | str
) -> Floats:
    """
    Compare the pose network with the odometry on the windows that have one; see motion_ratios.

    :param batches: of any order; leave out windows whose odometry is not trusted
    :return: metres per network unit, of all pairs of neighbouring frames that move enough
    """
    was_training = model.training
    model.eval()
    known, learned = [np.empty((0, 3))], [np.empty((0, 3))]
    for batch in batches:
        batch = batch.to(device)
        for later in range(1, batch.images.shape[1]):
            pair = later - 1, later
            moved = known_motion(batch, *pair), model.learned_motion(batch.images, *pair)
            for found, motion in zip((known, learned), moved, strict=True):
                found.append(motion[batch.posed, :3, 3].double().cpu().numpy())
    model.train(was_training)
    return motion_ratios(np.concatenate(known), np.concatenate(learned))
