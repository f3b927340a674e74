"""Bags to the windows that are learned from, and those that are held out to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tc_depth_training.config import TrainingConfig
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.held_out import Split, split
from tc_depth_training.data.load import load_recordings
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.stretch import BagPart
from tc_depth_training.data.windows import (
    FEW_WINDOWS,
    WindowDataset,
    Windows,
    find_windows,
    fitting_time_step,
)
from tc_depth_training.summary import RecordingSummary


@dataclass(frozen=True)
class TrainingData:
    """All that a run sees."""

    learned: WindowDataset
    held_out: WindowDataset
    summaries: tuple[RecordingSummary, ...]

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """What both are windows of."""
        return self.learned.recordings

    def all_windows(self) -> WindowDataset:
        """Both parts, recording by recording; numbered anew."""
        pairs = zip(self.learned.windows, self.held_out.windows, strict=True)
        return WindowDataset(self.recordings, [a.joined(b) for a, b in pairs])

    @property
    def keys(self) -> tuple[str, ...]:
        """What the run's data is known by: each recording's content, not its name; and windows."""
        pairs = zip(self.recordings, self.summaries, strict=True)
        return tuple(f'{r.key}: {s.windows} + {s.held_out} windows' for r, s in pairs)


def load_training_data(
    bags: Sequence[Path | BagPart], config: TrainingConfig, quiet: bool = False
) -> TrainingData:
    """
    Read all bags, or find them in the cache, and say what each gives.

    :param quiet: say nothing
    :raises BagError: a bag cannot be used, or all together give less than a batch
    """
    pose_required = config.pose == 'odometry'
    recordings = load_recordings(bags, config.data, pose_required, quiet)
    splits, summaries, advice = [], [], []
    for recording in recordings:
        found = find_windows(recording, config.data.time_steps_s, pose_required, quiet)
        validation = config.validation
        parts = split(recording, found, validation.share, validation.block_s)
        splits.append(parts)
        summaries.append(_summary(recording, found, parts))
        advice.append(fitting_time_step(recording, found, config.data.time_steps_s))
        if not quiet:
            print(summaries[-1].line, *filter(None, advice[-1:]), sep='\n', flush=True)
    learned = config.data.learned_depth_topics
    data = TrainingData(
        WindowDataset(recordings, [parts.learned for parts in splits], learned),
        WindowDataset(recordings, [parts.held_out for parts in splits], learned),
        tuple(summaries),
    )
    count = len(data.learned)
    if config.pose == 'both' and not data.learned.posed.any():
        raise BagError(
            'pose is both, but no window has odometry: record nav_msgs/Odometry of the camera, or '
            'of a frame that /tf_static and /tf link to it, or train with pose: learned'
        )
    if count < config.batch_size:
        remedy = '; '.join(filter(None, advice)) or (
            'run tc-depth inspect BAG to see why they are few, and give more bags'
        )
        smaller = 'lower batch_size, or ' if count else ''
        raise BagError(
            f'the bags give {count} windows, fewer than one batch of {config.batch_size}: '
            f'{smaller}{remedy}'
        )
    if count < FEW_WINDOWS and not quiet:
        print(
            f'{count} windows are few: start from trained weights (--init default), and expect '
            'depth that holds for these recordings only',
            flush=True,
        )
    return data


def _summary(recording: Recording, found: Windows, parts: Split) -> RecordingSummary:
    left_out = {
        **{f'images {cause}': count for cause, count in recording.left_out.items()},
        'static windows': found.static,
        'windows without pose': found.without_pose,
        'windows without a frame in time': found.without_frame,
        'windows at the edge of a block held out': parts.dropped,
    }
    return RecordingSummary(
        recording.name,
        recording.image_topic,
        len(recording),
        len(parts.learned),
        len(parts.held_out),
        left_out,
        recording.stretch,
    )
