"""From the order recorded to sequences: segments, poses and depth at each frame's stamp."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.clock import clock_epochs
from tc_depth_training.data.measured_depth import match_stamps
from tc_depth_training.data.reading import Readings
from tc_depth_training.data.source import Source
from tc_depth_training.data.trajectory import CameraTracks, CameraTrajectory, Track, Trajectory

REPEATED = 'stamp repeated'


@dataclass(frozen=True)
class Arrangement:
    """The N frames of a recording that are kept, in order; C calibrations."""

    order: NDArray[np.int64]  # (N,) into the frames as they were read
    stamps_ns: NDArray[np.int64]  # (N,)
    log_ns: NDArray[np.int64]  # (N,), when they were recorded
    segment: NDArray[np.int64]  # (N,)
    camera: NDArray[np.int64]  # (N,) into K and seen
    K: NDArray[np.float32]  # (C, 3, 3)
    seen: NDArray[np.bool_] | None  # (C, H, W); None: all is seen
    world_T_camera: NDArray[np.float64] | None  # (N, 4, 4), NaN where unknown; None: no odometry
    depth_rows: NDArray[np.int64]  # (N,) into the depths as they were read, -1: none
    left_out: Mapping[str, int]  # images, by cause


def arrange(readings: Readings, source: Source) -> Arrangement:
    """Put what a pass found in order; of frames whose stamps repeat, the first is kept."""
    stamps_ns, camera = np.array(readings.stamps_ns), np.array(readings.camera)
    epoch = clock_epochs(stamps_ns)
    broken = (np.diff(epoch) != 0) | (np.diff(camera) != 0)
    segment = np.concatenate([[0], np.cumsum(broken)])
    order = np.lexsort((stamps_ns, segment))
    repeated = (np.diff(stamps_ns[order]) == 0) & (np.diff(segment[order]) == 0)
    left_out = readings.left_out + Counter({REPEATED: int(repeated.sum())})
    order = order[np.concatenate([[True], ~repeated])]
    tracks = readings.tracks
    poses = None if tracks is None else _poses(readings.stamps_ns, epoch, tracks)
    return Arrangement(
        order,
        stamps_ns[order],
        np.array(readings.log_ns)[order],
        segment[order],
        camera[order],
        np.stack(readings.K),
        _masks(readings, source.size),
        None if poses is None else poses[order],
        _depth_rows(readings, epoch)[order],
        left_out,
    )


def _masks(readings: Readings, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    if all(mask is None for mask in readings.seen):
        return None
    everything = np.ones(size, dtype=np.bool_)
    return np.stack([everything if mask is None else mask for mask in readings.seen])


def _beside(
    epoch: NDArray[np.int64], frames_before: list[int], stamps_ns: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """
    Which messages of another topic are of the same time as which frames.

    Stamps alone do not tell once the clock jumped: what was recorded in the middle of an epoch of
    the frames shows which epoch of the other topic goes with it.

    :param frames_before: of each message, the frames recorded before it
    :return: per epoch, the indices of its frames and of those messages
    """
    others, pairs = clock_epochs(stamps_ns), []
    for number in range(int(epoch[-1]) + 1):
        frames = np.flatnonzero(epoch == number)
        middle = np.searchsorted(frames_before, frames[len(frames) // 2] + 1)
        same = others == others[min(int(middle), len(others) - 1)]
        pairs.append((frames, np.flatnonzero(same)))
    return pairs


def _trajectories(epoch: NDArray[np.int64], track: Track) -> list[Trajectory]:
    """What a track says in each epoch of the frames."""
    stamps_ns, poses = np.array(track.stamps_ns), np.array(track.poses)
    return [
        Trajectory.of(stamps_ns[rows], poses[rows])
        for _, rows in _beside(epoch, track.frames_before, stamps_ns)
    ]


def _poses(
    stamps_ns: list[int], epoch: NDArray[np.int64], tracks: CameraTracks
) -> NDArray[np.float64]:
    poses = np.full((len(epoch), 4, 4), np.nan)
    if not all(track.stamps_ns for track in (tracks.odometry, *tracks.links)):
        return poses
    odometry = _trajectories(epoch, tracks.odometry)
    links = [_trajectories(epoch, track) for track in tracks.links]
    camera = [
        CameraTrajectory(o, tracks.child_T_camera, tuple(x))
        for o, *x in zip(odometry, *links, strict=True)
    ]
    for frame, number in enumerate(epoch):
        pose = camera[number].at(stamps_ns[frame])
        if pose is not None:
            poses[frame] = pose
    return poses


def _depth_rows(readings: Readings, epoch: NDArray[np.int64]) -> NDArray[np.int64]:
    nearest = np.full(len(epoch), -1)
    if not readings.depth_stamps_ns:
        return nearest
    stamps_ns, measured_ns = np.array(readings.stamps_ns), np.array(readings.depth_stamps_ns)
    for frames, rows in _beside(epoch, readings.frames_before_depth, measured_ns):
        in_order, first = np.unique(stamps_ns[frames], return_index=True)
        belongs_to = match_stamps(in_order, measured_ns[rows])
        matched = belongs_to >= 0
        nearest[frames[first[belongs_to[matched]]]] = rows[matched]
    return nearest
