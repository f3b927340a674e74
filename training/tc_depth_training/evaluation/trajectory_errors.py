"""Absolute trajectory error of predicted motions, over short snippets and over all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.evaluation.scores import PoseErrors

Floats = NDArray[np.float64]
SNIPPET = 5  # frames


class SnippetErrors(NamedTuple):
    """Trajectory error over snippets of five frames."""

    mean: float  # m
    std: float  # m


def snippet_errors(truth: Floats, prediction: Floats) -> SnippetErrors | None:
    """
    ATE over all snippets of five frames, as Zhou et al. (SfMLearner, CVPR 2017) publish it.

    Each snippet starts at its first pose and is scaled to fit. The published figure is
    ``sqrt(sum of squares) / N``, not a root of a mean; it is kept, for comparison.

    :param truth: world_T_camera, (N, 4, 4); NaN where unknown
    :param prediction: the same in any unit
    :return: None where no snippet has all its poses
    """
    errors = []
    for start in range(len(truth) - SNIPPET + 1):
        chosen = slice(start, start + SNIPPET)
        true, predicted = _from_first(truth[chosen]), _from_first(prediction[chosen])
        if np.isfinite(true).all() and np.isfinite(predicted).all():
            squares = float((predicted**2).sum())
            scale = float((true * predicted).sum()) / squares if squares > 0 else 0.0
            errors.append(np.sqrt(((scale * predicted - true) ** 2).sum()) / SNIPPET)
    return SnippetErrors(float(np.mean(errors)), float(np.std(errors))) if errors else None


def trajectory_rmse(truth: Floats, prediction: Floats) -> float | None:
    """
    RMSE of the positions in m, after the similarity that fits best (Umeyama, PAMI 1991).

    :param truth: world_T_camera, (N, 4, 4); NaN where unknown
    :param prediction: the same in any unit and any frame
    :return: None where fewer than three poses are known
    """
    known = np.isfinite(truth[:, 0, 3]) & np.isfinite(prediction[:, 0, 3])
    if known.sum() < 3:
        return None
    true, predicted = truth[known, :3, 3], prediction[known, :3, 3]
    residual = true - align(predicted, true)
    return float(np.sqrt((residual**2).sum(axis=1).mean()))


def align(points: Floats, onto: Floats) -> Floats:
    """Points (N, 3) after the rotation, scale and shift that bring them nearest to others."""
    centre, target_centre = points.mean(axis=0), onto.mean(axis=0)
    centred, target = points - centre, onto - target_centre
    left, singular, right = np.linalg.svd(target.T @ centred)
    # A reflection fits some trajectories better, but no camera moves by one
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    rotation = (left * sign) @ right
    spread = float((centred**2).sum())
    scale = float((singular * sign).sum()) / spread if spread > 0 else 0.0
    return np.asarray(scale * centred @ rotation.T + target_centre)


def _from_first(poses: Floats) -> Floats:
    """Positions (N, 3) in the frame of the first pose."""
    if not np.isfinite(poses).all():
        return np.full((len(poses), 3), np.nan)
    return np.asarray((np.linalg.inv(poses[0]) @ poses)[:, :3, 3])


def score_poses(truth: Floats | None, prediction: Floats | None) -> PoseErrors:
    """
    Compare a trajectory with the odometry, where there are both.

    :param truth: world_T_camera, (N, 4, 4); NaN where unknown
    :param prediction: the same in any unit and any frame
    """
    if truth is None or prediction is None:
        return PoseErrors(None, None, None)
    snippets = snippet_errors(truth, prediction)
    return PoseErrors(
        snippets.mean if snippets else None,
        snippets.std if snippets else None,
        trajectory_rmse(truth, prediction),
    )
