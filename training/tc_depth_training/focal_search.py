"""
The focal length that fits images, odometry and the depth of trained weights, before learning.

A focal length that is off shows in every turn of the camera, and would spoil trained weights while
the factor is being learned; and weights that are compared with the start must not be better by the
factor alone. Of kitchen_train, whose CameraInfo has a focal length 13 % too long (the true one is
0.887 of it), the embedded weights find 0.88 at their own image size: the photometric error is 0.77
of what it is with the focal length given. Driving straight on hardly tells: within 2 % over all
factors. Depth that is off, as of images of another size, goes into the factor too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.geometry.reprojection import warp
from tc_depth_training.data.windows import FRAMES, Batch, WindowDataset
from tc_depth_training.losses.photometric import photometric_error
from tc_depth_training.odometry_check import mean_where_seen
from tc_depth_training.processes import Processes
from tc_depth_training.step import TrainingModel, known_motion, scale_focal_length
from tc_depth_training.validation import read_batches, spread_windows

FACTORS = np.geomspace(0.7, 1 / 0.7, 15)  # that are tried; the middle one is 1
GIVEN = len(FACTORS) // 2
WINDOWS = 16  # of each recording that are looked at
LEAST_GAIN = 0.02  # of the error with the focal length given; else that stays
MIDDLE = FRAMES // 2


@torch.no_grad()
def find_focal_factors(
    model: TrainingModel, windows: WindowDataset, processes: Processes
) -> list[float]:
    """
    Find each recording's focal length over the one given; 1 where the images do not tell.

    :param model: that has learned depth in metres; left in eval mode
    :param windows: those without odometry are passed over; all processes call together
    """
    model.eval()
    recording = windows.recording_of(np.arange(len(windows)))
    bar = 'finding focal lengths' if processes.is_main else ''
    factors = []
    for number in range(len(windows.recordings)):
        posed = np.flatnonzero((recording == number) & windows.posed)
        chosen = posed[spread_windows(len(posed), WINDOWS)] if len(posed) else posed
        mine = chosen[processes.rank :: processes.count].tolist()
        errors = [
            errors_by_factor(model, batch.to(processes.device), FACTORS)
            for batch in read_batches(windows, mine, bar=bar, stop=processes.asked)
        ]
        every = [row for part in processes.gather(errors) for rows in part for row in rows]
        factors.append(best_factor(np.stack(every)) if every else 1.0)
    return factors


def errors_by_factor(
    model: TrainingModel, batch: Batch, factors: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """
    Rebuild each window's middle frame by odometry with other focal lengths.

    :param factors: of the focal length, (F,)
    :return: photometric error, the lesser of the sources', mean over pixels, (B, F)
    """
    config = model.network.config
    disparity = model.predict(batch.images, batch.K).disparities[0][:, MIDDLE]
    depth = depth_from_disparity(disparity, config.min_depth, config.max_depth)
    columns = [_error(batch, depth, scale_focal_length(batch.K, factor)) for factor in factors]
    return torch.stack(columns, dim=1).double().cpu().numpy()


def best_factor(errors: NDArray[np.float64]) -> float:
    """
    Find the factor of least error, between those tried.

    :param errors: of N windows with each of FACTORS, (N, F)
    :return: 1 where the least lies at an end, or is no less than is usual by chance
    """
    # The geometric mean: windows that match badly anyhow do not outweigh the others
    curve = np.exp(np.log(errors).mean(axis=0))
    least = int(curve.argmin())
    if least in (0, len(curve) - 1) or curve[least] > (1 - LEAST_GAIN) * curve[GIVEN]:
        return 1.0
    # The vertex of the parabola through three points, in steps of FACTORS
    before, at, after = curve[least - 1 : least + 2]
    offset = 0.5 * (before - after) / (before - 2 * at + after)
    return float(FACTORS[least] * (FACTORS[1] / FACTORS[0]) ** offset)


def _error(batch: Batch, depth: Tensor, K: Tensor) -> Tensor:
    target, seen = batch.images[:, MIDDLE], batch.seen.to(depth.dtype)
    errors = [
        photometric_error(
            warp(batch.images[:, source], depth, K, known_motion(batch, MIDDLE, source)), target
        )
        for source in range(FRAMES)
        if source != MIDDLE
    ]
    # The least, as in the loss: what a turn moves out of one source's view is in the other's.
    # Else a short focal length, which moves less, would seem the better one
    return mean_where_seen(torch.stack(errors).amin(dim=0), seen)
