"""Which of a run's odometry is to be learned from; found out while it learns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.windows import FRAMES, WindowDataset
from tc_depth_training.odometry_check import check_odometry, join_errors, judge_odometry
from tc_depth_training.processes import Processes
from tc_depth_training.step import TrainingModel
from tc_depth_training.validation import read_batches, spread_windows

MIDDLE = FRAMES // 2


@dataclass(frozen=True)
class Distrusted:
    """A time whose odometry does not fit the images."""

    recording: int  # of the run
    segment: int  # of the recording: after a jump of the clock, stamps come again
    start_ns: int  # stamps of the middle frames of its first and last window
    end_ns: int


@dataclass(frozen=True)
class Findings:
    """What a check of the odometry brought."""

    distrusted: tuple[Distrusted, ...]
    told: tuple[str, ...]  # for people, a line each


def hold_against_images(
    model: TrainingModel, windows: WindowDataset, most: int, processes: Processes
) -> Findings:
    """
    Find the stretches where odometry does not explain the images; all processes call together.

    :param model: that has learned some depth; put into eval mode for a while
    :param most: windows to look at, evenly spread: far fewer than there are miss short stretches
    """
    numbers = spread_windows(len(windows), most)[processes.rank :: processes.count]
    bar = 'checking odometry' if processes.is_main else ''
    batches = read_batches(windows, numbers.tolist(), bar=bar, stop=processes.asked)
    errors = join_errors(processes.gather(check_odometry(model, batches, processes.device)))
    recording, segment = _places(windows)
    pairs, sequence = np.unique(np.stack([recording, segment]), axis=1, return_inverse=True)
    # Each segment is judged by itself: sorted by stamp, a bag that was looped would be mixed up
    of_sequences = replace(errors, recording=sequence.ravel()[errors.window])
    verdict = judge_odometry(of_sequences, windows.stamps_ns(MIDDLE))
    distrusted = tuple(
        Distrusted(
            int(pairs[0, bad.recording]), int(pairs[1, bad.recording]), bad.start_ns, bad.end_ns
        )
        for bad in verdict.stretches
    )
    unjudged = sorted({int(pairs[0, number]) for number in verdict.unjudged})
    told = [_stretch_line(windows, bad) for bad in distrusted]
    told += [_unjudged_line(windows, number) for number in unjudged]
    return Findings(distrusted, tuple(told))


def trusted_windows(
    windows: WindowDataset, distrusted: tuple[Distrusted, ...]
) -> NDArray[np.bool_]:
    """Which windows lie in no stretch that is distrusted, by number, (M,)."""
    recording, segment = _places(windows)
    middles_ns = windows.stamps_ns(MIDDLE)
    trusted: NDArray[np.bool_] = np.ones(len(windows), dtype=np.bool_)
    for bad in distrusted:
        within = (middles_ns >= bad.start_ns) & (middles_ns <= bad.end_ns)
        trusted &= ~(within & (recording == bad.recording) & (segment == bad.segment))
    return trusted


def _places(windows: WindowDataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Recording and segment of each window, both (M,)."""
    pairs = zip(windows.recordings, windows.windows, strict=True)
    segment = np.concatenate([r.segment[w.indices[:, MIDDLE]] for r, w in pairs])
    return windows.recording_of(np.arange(len(windows))), segment


def _stretch_line(windows: WindowDataset, bad: Distrusted) -> str:
    recording = windows.recordings[bad.recording]
    first_ns = recording.stamps_ns[recording.segment == bad.segment][0]
    start, end = ((stamp - first_ns) * 1e-9 for stamp in (bad.start_ns, bad.end_ns))
    return (
        f'{recording.odometry_topic} of {recording.name} does not fit the images from '
        f'{start:.1f} to {end:.1f} s: left out from here on'
    )


def _unjudged_line(windows: WindowDataset, number: int) -> str:
    recording = windows.recordings[number]
    return (
        f'{recording.odometry_topic} of {recording.name} hardly explains its images, or depth is '
        'not yet learned: if this stays, check its frame and clock'
    )
