"""
What wrong motions do to depth: predict a bag with each, score it, and print one table.

``python -m tc_depth_training.harm BAG [--weights W] [--start S] [--end S]``. Depth that is matched
by a wrong motion should be no worse than that of single frames.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.network.checkpoint import Weights, load_weights
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.stretch import Stretch
from tc_depth_training.evaluation.depth_errors import DepthRange, ScaledErrors
from tc_depth_training.evaluation.depth_scores import find_scales, keep_range, score_depths
from tc_depth_training.evaluation.predictions import Predicted, predict
from tc_depth_training.evaluation.scores import TemporalErrors
from tc_depth_training.evaluation.sequence import FrameSequence, Topics, read_sequence

Poses = NDArray[np.float64]  # world_T_camera, (N, 4, 4)

NOISE_DEG = 3.0  # of each step, about each axis
NOISE_LEVELS = 2.0  # of 255, of a camera that stands
NOT_FOLLOWED = TemporalErrors(None, None, None, None, None)


def standing(poses: Poses) -> Poses:
    """Odometry that says that nothing moves."""
    return np.tile(poses[:1], (len(poses), 1, 1))


def turning_only(poses: Poses) -> Poses:
    """Odometry that knows the rotation and no translation."""
    turned = np.array(poses)
    turned[:, :3, 3] = poses[0, :3, 3]
    return turned


def reversed_steps(poses: Poses) -> Poses:
    """Odometry of which every step goes the other way."""
    return _chained([np.asarray(np.linalg.inv(step)) for step in _steps(poses)])


def ten_times(poses: Poses) -> Poses:
    """Odometry in another unit of length."""
    scaled = np.array(poses)
    scaled[:, :3, 3] *= 10
    return scaled


def noise(poses: Poses) -> Poses:
    """Steps in any direction, as long as the true ones, with turns at random."""
    rng = np.random.default_rng(0)
    steps = []
    for step in _steps(poses):
        length = np.linalg.norm(step[:3, 3])
        direction = rng.normal(size=3)
        wrong = np.eye(4)
        x, y, z = np.deg2rad(NOISE_DEG) * rng.normal(size=3)
        turn, _ = np.linalg.qr(np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]]))
        wrong[:3, :3] = turn * np.sign(np.diag(turn))
        wrong[:3, 3] = length * direction / np.linalg.norm(direction)
        steps.append(wrong)
    return _chained(steps)


MOTIONS: Mapping[str, Callable[[Poses], Poses]] = {
    'as recorded': lambda poses: poses,
    'standing still': standing,
    'turning only': turning_only,
    'every step reversed': reversed_steps,
    'ten times too long': ten_times,
    'noise': noise,
}


@dataclass(frozen=True)
class Row:
    """What one motion leads to."""

    name: str
    alone: float  # Abs Rel of the single frames, all scaled by one factor
    errors: ScaledErrors
    matched: str  # frames by the motion that they were matched by


def harm(bag: Path, weights: Weights, stretch: Stretch) -> list[Row]:
    """
    Score weights on a bag with right and with wrong motions.

    :raises BagError: the bag has no depth to compare with, or no odometry
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sequence = read_sequence(bag, Topics(), scratch, stretch)
        if sequence.truth is None or sequence.world_T_camera is None:
            raise BagError(f'{bag} needs measured depth and odometry: give a bag with both')
        keep_range(sequence.truth, sequence.truth_topic, DepthRange())
        return [
            *_wrong_motions(sequence, weights, scratch),
            *_standing(sequence, weights, scratch),
        ]


def _wrong_motions(sequence: FrameSequence, weights: Weights, scratch: Path) -> list[Row]:
    """Frames as they are, with every motion."""
    poses, file = sequence.world_T_camera, scratch / 'depth'
    assert poses is not None
    alone = _errors(sequence, predict(sequence, weights, file, alone=True))
    rows = [Row('single frame', alone.overall.abs_rel, alone, f'none {len(poses)}')]
    withheld = predict(sequence, weights, file, by_motion=False)
    rows.append(_row('withheld', alone, sequence, withheld))
    for name, change in MOTIONS.items():
        predicted = predict(sequence, weights, file, poses=change(poses))
        rows.append(_row(name, alone, sequence, predicted))
    return rows


def _standing(sequence: FrameSequence, weights: Weights, scratch: Path) -> list[Row]:
    """A camera that drives the first half of the way, and then stands; right motions."""
    stopped = _stopped(sequence, scratch)
    alone = _errors(stopped, predict(stopped, weights, scratch / 'depth', alone=True))
    predicted = predict(stopped, weights, scratch / 'depth')
    return [_row('the camera stops half-way', alone, stopped, predicted)]


def _stopped(sequence: FrameSequence, scratch: Path) -> FrameSequence:
    """Replace the second half of the frames by the middle one; each frame has its own noise."""
    count = len(sequence.images)
    shown = np.minimum(np.arange(count), count // 2)
    truth, poses = sequence.truth, sequence.world_T_camera
    assert truth is not None and poses is not None
    rng = np.random.default_rng(0)
    images = np.memmap(scratch / 'stopped', np.uint8, 'w+', shape=sequence.images.shape)
    for index, source in enumerate(shown):
        noise = rng.normal(0, NOISE_LEVELS, images.shape[1:])
        images[index] = np.clip(np.rint(sequence.images[source] + noise), 0, 255)
    return replace(sequence, images=images, truth=truth[shown], world_T_camera=poses[shown])


def table(rows: Sequence[Row]) -> str:
    """Lay out the errors in Markdown, beside those of single frames."""
    lines = ['| motion | Abs Rel, one factor | times single frame | not scaled | matched by |']
    lines.append('|---|---|---|---|---|')
    for row in rows:
        overall, unscaled = row.errors.overall.abs_rel, row.errors.none.abs_rel
        lines.append(
            f'| {row.name} | {overall:.4f} | {overall / row.alone:.2f} | {unscaled:.4f} '
            f'| {row.matched} |'
        )
    return '\n'.join(lines)


def _row(name: str, alone: ScaledErrors, sequence: FrameSequence, predicted: Predicted) -> Row:
    matched = ', '.join(f'{source} {count}' for source, count in predicted.motions.items())
    return Row(name, alone.overall.abs_rel, _errors(sequence, predicted), matched)


def _errors(sequence: FrameSequence, predicted: Predicted) -> ScaledErrors:
    scales = find_scales(sequence, predicted.depths)
    scores = score_depths(sequence, predicted.depths, scales, NOT_FOLLOWED, DepthRange())
    assert scores.depth is not None
    return scores.depth


def _steps(poses: Poses) -> list[Poses]:
    pairs = zip(poses, poses[1:], strict=False)
    return [np.asarray(np.linalg.inv(a) @ b, np.float64) for a, b in pairs]


def _chained(steps: Sequence[Poses]) -> Poses:
    chained = [np.eye(4)]
    for step in steps:
        chained.append(chained[-1] @ step)
    return np.stack(chained)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('bag', type=Path)
    parser.add_argument('--weights', type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument('--start', type=float, default=0.0, metavar='S')
    parser.add_argument('--end', type=float, default=None, metavar='S')
    arguments = parser.parse_args(argv)
    stretch = Stretch(arguments.start, arguments.end)
    print(table(harm(arguments.bag, load_weights(arguments.weights), stretch)))


if __name__ == '__main__':
    main()
