"""Which of a run's odometry is to be learned from; found out while it learns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.windows import FRAMES, WindowDataset
from tc_depth_training.odometry_check import check_odometry, join_errors
from tc_depth_training.odometry_verdict import BadStretch, judge_odometry
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
    stamps_ns = windows.stamps_ns(MIDDLE)
    verdict = judge_odometry(of_sequences, stamps_ns)
    looked_at = errors.window[errors.moving]
    distrusted = []
    for bad in verdict.stretches:
        start_ns, end_ns = _up_to_good(bad, stamps_ns, sequence.ravel(), looked_at)
        of_recording, of_segment = pairs[:, bad.recording].tolist()
        distrusted.append(Distrusted(of_recording, of_segment, start_ns, end_ns))
    unjudged = sorted({int(pairs[0, number]) for number in verdict.unjudged})
    told = [_stretch_line(windows, bad) for bad in distrusted]
    told += [_unjudged_line(windows, number) for number in unjudged]
    return Findings(tuple(distrusted), tuple(told))


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


def _up_to_good(
    bad: BadStretch,
    stamps_ns: NDArray[np.int64],
    sequence: NDArray[np.int64],
    looked_at: NDArray[np.int64],
) -> tuple[int, int]:
    """
    First and last stamp of a bad stretch; those of its sequence where nothing good was seen there.

    :param stamps_ns: of all windows, (M,)
    :param sequence: of all windows, (M,)
    :param looked_at: numbers of windows
    """
    every = stamps_ns[sequence == bad.recording]
    seen = stamps_ns[looked_at[sequence[looked_at] == bad.recording]]
    start = every.min() if bad.start_ns == seen.min() else bad.start_ns
    end = every.max() if bad.end_ns == seen.max() else bad.end_ns
    return int(start), int(end)


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
        f'whether {recording.odometry_topic} of {recording.name} fits its images cannot be told: '
        'depth, or its unit, is not yet learned; if this stays, check its frame, axes and clock'
    )
