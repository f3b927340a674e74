"""How well odometry explains the images, beside optical flow and a camera that stands still."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.geometry.reprojection import warp
from tc_depth_ros.temporal.motion import FlowMotion
from tc_depth_ros.temporal.view import View
from tc_depth_training.data.windows import Batch
from tc_depth_training.losses.photometric import photometric_error
from tc_depth_training.step import TrainingModel, known_motion

Values = NDArray[np.float64]

LEAST_CHANGE = 0.01  # photometric, between frames; where less changes, no motion can be told


@dataclass(frozen=True)
class OdometryErrors:
    """How well the odometry explains N windows, in any order."""

    window: NDArray[np.int64]  # (N,), number within the dataset
    recording: NDArray[np.int64]  # (N,), of the run
    rebuilt: Values  # (N,), mean photometric error of the sources, warped
    scaled: Values  # (N,), of the sources, warped likewise, but as far as the flow says
    still: Values  # (N,), of the sources as they are
    flow: Values  # (N,), of the sources, warped by the flow's motion or as they are

    @property
    def moving(self) -> NDArray[np.bool_]:
        """Of which windows a motion can be told, (N,)."""
        return self.still > LEAST_CHANGE

    def only(self, chosen: NDArray[np.int64]) -> OdometryErrors:
        """Those of some windows."""
        return OdometryErrors(*(column[chosen] for column in vars(self).values()))


@torch.no_grad()
def check_odometry(
    model: TrainingModel, batches: Iterable[Batch], device: torch.device | str
) -> OdometryErrors:
    """
    Measure how well the odometry explains windows; those without odometry are passed over.

    :param batches: this process's share of the windows, as the dataset gives them
    """
    was_training, errors = model.training, []
    model.eval()
    for batch in batches:
        batch = batch.to(device)
        target = batch.images.shape[1] // 2
        disparity = model.predict(batch.images, batch.K).disparities[0][:, target]
        config = model.network.config
        depth = depth_from_disparity(disparity, config.min_depth, config.max_depth)
        K = batch.K if model.focal_factor is None else model.focal_factor(batch.K, batch.recording)
        measured = odometry_errors(batch, depth, K, target)
        posed = batch.posed.cpu().numpy()
        errors.append(OdometryErrors(*(x[posed] for x in vars(measured).values())))
    model.train(was_training)
    return join_errors(errors)


def odometry_errors(batch: Batch, depth: Tensor, K: Tensor, target: int) -> OdometryErrors:
    """
    Compare each window's target with its sources, warped by the odometry and as they are.

    :param depth: of the target, in m, (B, 1, H, W)
    :param K: that the losses use, (B, 3, 3)
    """
    frame, seen = batch.images[:, target], batch.seen.to(batch.images.dtype)
    rebuilt: list[Tensor] = []
    scaled: list[Tensor] = []
    still: list[Tensor] = []
    flow: list[Tensor] = []
    for index in range(batch.images.shape[1]):
        if index == target:
            continue
        source = batch.images[:, index]
        known, by_flow = known_motion(batch, target, index), _flow_motion(frame, source, depth, K)
        motions = known, _as_long_as(by_flow, known), by_flow
        for errors, motion in zip((rebuilt, scaled, flow), motions, strict=True):
            warped = warp(source, depth, K, motion)
            errors.append(mean_where_seen(photometric_error(warped, frame), seen))
        still.append(mean_where_seen(photometric_error(source, frame), seen))
    # The mean over the sources, not the minimum: each of the two motions may be wrong
    means = [torch.stack(errors).mean(dim=0).double() for errors in (rebuilt, scaled, still, flow)]
    means[3] = torch.minimum(means[2], means[3])
    return OdometryErrors(*(x.cpu().numpy() for x in (batch.window, batch.recording, *means)))


def join_errors(parts: Iterable[OdometryErrors]) -> OdometryErrors:
    """What several batches, or several processes, have measured."""
    # Of none at all there are still columns
    whole, real = np.empty(0, np.int64), np.empty(0, np.float64)
    every = [OdometryErrors(whole, whole, real, real, real, real), *parts]
    names = [field.name for field in fields(OdometryErrors)]
    return OdometryErrors(*(np.concatenate([getattr(x, n) for x in every]) for n in names))


def _flow_motion(frame: Tensor, source: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """``source_T_target`` by optical flow; the identity where it tells none, (B, 4, 4)."""
    motions = []
    for image, other, z, matrix in zip(frame, source, depth, K, strict=True):
        target, view = (View(x[None], matrix[None], z[None], 0) for x in (image, other))
        found = FlowMotion().between(target, view)
        motions.append(np.eye(4) if found is None else found.later_T_earlier)
    return torch.from_numpy(np.stack(motions)).to(depth)


def _as_long_as(other: Tensor, motion: Tensor) -> Tensor:
    """A motion with another's length of way; its own where the other, or it, goes none."""
    length, own = (x[:, :3, 3].norm(dim=1, keepdim=True) for x in (other, motion))
    factor = torch.where((length > 0) & (own > 0), length / own.clamp(min=1e-12), 1)
    scaled = motion.clone()
    scaled[:, :3, 3] *= factor
    return scaled


def mean_where_seen(error: Tensor, seen: Tensor) -> Tensor:
    """Mean over the pixels seen of each window, (B,)."""
    count = seen.flatten(1).sum(dim=1).clamp(min=1)
    return (error * seen).flatten(1).sum(dim=1) / count
