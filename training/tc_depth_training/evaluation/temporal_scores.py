"""Predicted depths against each other over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tc_depth_ros.frames.window import WindowConfig
from tc_depth_training.evaluation.depth_errors import common_scale
from tc_depth_training.evaluation.depth_scores import FrameScale
from tc_depth_training.evaluation.predictions import Depths
from tc_depth_training.evaluation.scores import TemporalErrors
from tc_depth_training.evaluation.sequence import FrameSequence
from tc_depth_training.evaluation.temporal import (
    Camera,
    Flow,
    TCMErrors,
    fill_gaps,
    flow_warp_error,
    optical_flow,
    tcm_errors,
    temporal_alignment_error,
    true_motion,
)

MAX_PAIR_GAP_S = WindowConfig().max_gap_s  # frames farther apart are no neighbours
LIDAR_FILL_PX = 3.0  # between the points of a neighbouring frame


def score_temporal(
    sequence: FrameSequence,
    predictions: Sequence[Depths],
    frames: Sequence[Sequence[FrameScale]],
    *,
    metric: bool,
) -> list[TemporalErrors]:
    """
    Follow several predictions of one sequence over time together, for their motion is one.

    :param frames: per prediction, its factors; the common one makes its depths metres
    :param metric: they are metres where there is no truth. If not, the odometry's motion is of
        another unit, and TAE means nothing
    """
    tallies = [_TemporalTally([], [], []) for _ in predictions]
    common = [common_scale([frame.scale for frame in scales]) for scales in frames]
    scales_known = sequence.truth is not None
    follows = np.diff(sequence.stamps_ns) * 1e-9 <= MAX_PAIR_GAP_S
    flows = _flows(sequence.images, np.flatnonzero(follows))
    surfaces = lru_cache(3)(partial(_surfaces, sequence))  # each is the neighbour of two frames
    for index in tqdm(range(len(sequence.stamps_ns)), 'comparing over time', unit='frame'):
        if index == 0 or not np.array_equal(sequence.K[index], sequence.K[index - 1]):
            camera = Camera.build(sequence.K[index], sequence.size)
        _add_tcm(sequence, predictions, index, follows, camera, surfaces, tallies)
        if index == 0 or not follows[index - 1]:
            continue
        flow = next(flows)
        motion = _motion(sequence, index - 1, index)
        for tally, depths, scale in zip(tallies, predictions, common, strict=True):
            before, now = (scale * _map(depths[i]) for i in (index - 1, index))
            tally.opw.append(flow_warp_error(before, now, flow))
            if motion is not None and (scales_known or metric):
                tally.tae.append(temporal_alignment_error(before, now, motion, camera))
    return [t.summary(_ratio_std(f, follows)) for t, f in zip(tallies, frames, strict=True)]


@dataclass(frozen=True)
class _TemporalTally:
    tcm: list[TCMErrors]
    tae: list[float]
    opw: list[float]

    def summary(self, scale_ratio_std: float | None) -> TemporalErrors:
        return TemporalErrors(
            _mean([errors.absolute for errors in self.tcm]),
            _mean([errors.rmse for errors in self.tcm]),
            _mean(self.tae),
            _mean(self.opw),
            scale_ratio_std,
        )


def _add_tcm(
    sequence: FrameSequence,
    predictions: Sequence[Depths],
    target: int,
    follows: NDArray[np.bool_],
    camera: Camera,
    surfaces: Callable[[int], Tensor],
    tallies: Sequence[_TemporalTally],
) -> None:
    """
    TCM of a frame with the frames before and after it.

    :param surfaces: gives the truth of a neighbour, (H, W)
    """
    if sequence.truth is None:
        return
    steps = {target - 1: target - 1, target + 1: target}  # neighbour: the step between
    linked = [i for i, step in steps.items() if 0 <= step < len(follows) and follows[step]]
    moves = {i: move for i in linked if (move := _motion(sequence, target, i)) is not None}
    if not moves:
        return
    # Only pixels of known truth count, and with a lidar they are few
    known = np.isfinite(sequence.truth[target])
    seen, truth = camera.at(known), _at(sequence.truth[target], known)
    motions = [true_motion(truth, surfaces(index), move, seen) for index, move in moves.items()]
    for tally, depths in zip(tallies, predictions, strict=True):
        there = [_map(depths[index]) for index in moves]
        tally.tcm.extend(tcm_errors(truth, motions, _at(depths[target], known), there, seen))


def _surfaces(sequence: FrameSequence, index: int) -> Tensor:
    """Truth of a frame that others are compared with, (H, W); gaps between lidar points filled."""
    assert sequence.truth is not None
    truth = sequence.truth[index]
    return _map(fill_gaps(truth, LIDAR_FILL_PX) if sequence.sparse else truth)


def _flows(images: NDArray[np.uint8], earlier: NDArray[np.intp]) -> Iterator[Flow]:
    """Flow from some frames to the next ones; a thread finds the next while one is used."""
    with ThreadPoolExecutor(1) as beside:
        found = deque[Future[Flow]]()
        for index in earlier:
            found.append(beside.submit(optical_flow, images[index], images[index + 1]))
            if len(found) > 1:
                yield found.popleft().result()
        while found:
            yield found.popleft().result()


def _map(depth: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(depth)


def _at(depth: NDArray[np.float32], mask: NDArray[np.bool_]) -> Tensor:
    """Some pixels of a map, as one row."""
    return torch.from_numpy(depth[mask])[None]


def _ratio_std(frames: Sequence[FrameScale], follows: NDArray[np.bool_]) -> float | None:
    """Standard deviation of s_t / s_t-1 over neighbouring frames."""
    ratios = [
        now.scale / before.scale
        for before, now in zip(frames, frames[1:], strict=False)
        if now.index == before.index + 1 and follows[before.index]
    ]
    return float(np.std(ratios)) if ratios else None


def _motion(sequence: FrameSequence, source: int, target: int) -> Tensor | None:
    """``target_T_source`` of two frames, (4, 4); None where the odometry is silent."""
    poses = sequence.world_T_camera
    if poses is None:
        return None
    motion = np.linalg.inv(poses[target]) @ poses[source]
    return torch.from_numpy(motion).float() if np.isfinite(motion).all() else None


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
