"""
Score weights on a bag: read -> predict, with and without the past -> compare -> table and JSON.

Every frame is used once, in the order of its stamps, so a second run gives the same numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tc_depth_ros.frames.preprocessing import network_input, network_size
from tc_depth_ros.frames.window import WindowConfig
from tc_depth_ros.network.checkpoint import Weights, WeightsError, load_weights
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor, PredictorConfig
from tc_depth_training.data.bag import BagError
from tc_depth_training.evaluation.depth_errors import (
    DepthErrors,
    ScaledErrors,
    depth_errors,
    mean_errors,
    median_scale,
)
from tc_depth_training.evaluation.scores import (
    Evaluation,
    FrameScore,
    PoseErrors,
    ScaleStatistics,
    Scores,
    TemporalErrors,
    TrivialScores,
)
from tc_depth_training.evaluation.sequence import Sequence as FrameSequence
from tc_depth_training.evaluation.sequence import Topics, read_sequence
from tc_depth_training.evaluation.temporal import (
    Camera,
    TCMErrors,
    fill_gaps,
    flow_warp_error,
    optical_flow,
    tcm_errors,
    temporal_alignment_error,
    true_motion,
)
from tc_depth_training.evaluation.trajectory_errors import snippet_errors, trajectory_rmse
from tc_depth_training.evaluation.trivial import fit_trivial_answers

Floats = NDArray[np.float64]
Depths = NDArray[np.float32]  # (N, H, W)

MAX_PAIR_GAP_S = WindowConfig().max_gap_s  # frames farther apart are no neighbours
LIDAR_CELL_PX = 16  # a pixel hardly ever has a lidar point twice
LIDAR_FILL_PX = 3.0  # between the points of a neighbouring frame


@dataclass(frozen=True)
class DepthRange:
    """Truth outside is left out; predictions are clamped to it after scaling."""

    minimum: float = 1e-3  # m
    maximum: float = 80.0


@dataclass(frozen=True)
class FrameScale:
    """The factor that brings one frame's depth to the truth's."""

    index: int  # within the sequence
    scale: float


def evaluate(
    bag: Path,
    weights: Path | None = None,
    topics: Topics | None = None,
    depth_range: DepthRange | None = None,
    report: Path | None = None,
    predictions: Path | None = None,
) -> Evaluation:
    """
    Score weights on a bag.

    :param weights: None is the embedded model
    :param report: a folder to write a page of pictures to
    :param predictions: a folder of ``STAMP.npy``, scored in place of what the weights predict
        with the past
    :raises BagError: the bag cannot be used as asked
    :raises WeightsError: the weights cannot be used
    """
    depth_range = depth_range or DepthRange()
    loaded = load_weights(weights or DEFAULT_WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sequence = read_sequence(bag, topics or Topics(), scratch)
        if sequence.truth is not None:
            _keep_range(sequence.truth, sequence.truth_topic, depth_range)
        predicted = [
            predict(sequence, loaded, scratch / 'window', alone=False)
            if predictions is None
            else read_predictions(sequence, predictions, scratch / 'window'),
            predict(sequence, loaded, scratch / 'single_frame', alone=True),
        ]
        scales = [find_scales(sequence, depths) for depths in predicted]
        temporal = score_temporal(sequence, predicted, scales)
        window, single_frame = (
            score_depths(sequence, *one, depth_range)
            for one in zip(predicted, scales, temporal, strict=True)
        )
        evaluation = Evaluation(
            bag.name,
            sequence.truth_topic,
            loaded.info.metric,
            window,
            single_frame,
            score_poses(sequence, loaded),
            None if sequence.truth is None else score_trivial(sequence, depth_range),
        )
        if report is not None:
            from tc_depth_training.evaluation.report import write_report

            write_report(report, evaluation, sequence, predicted[0])
    return evaluation


def predict(sequence: FrameSequence, weights: Weights, file: Path, *, alone: bool) -> Depths:
    """
    Predict all frames in order, as the node does.

    :param file: to keep the depths in
    :param alone: forget the past before every frame
    :return: z in the weights' unit, NaN where invalid, (N, H, W)
    """
    # No depth is out of range here: the factor is yet to come
    predictor = DepthPredictor(weights, PredictorConfig(min_range=0.0, max_range=1e9))
    depths = np.memmap(file, np.float32, 'w+', shape=sequence.images.shape[:3])
    label = 'predicting single frames' if alone else 'predicting'
    for index in tqdm(range(len(depths)), label, unit='frame'):
        if alone:
            predictor.reset()
        prediction = predictor.push(sequence.frame(index))
        assert prediction is not None  # output is newest: every frame is answered
        depths[index] = prediction.depth
    return depths


def read_predictions(sequence: FrameSequence, folder: Path, file: Path) -> Depths:
    """
    Read the depths that ``tc-depth predict`` or ``refine`` wrote; a frame without has none.

    :param folder: of ``STAMP.npy``, float32, z in m, (H, W)
    :param file: to keep the depths in
    :raises BagError: no file is of this bag, or one is of another size
    """
    depths = np.memmap(file, np.float32, 'w+', shape=sequence.images.shape[:3])
    depths[:] = np.nan
    found = 0
    for index, stamp in enumerate(sequence.stamps_ns):
        path = folder / f'{stamp}.npy'
        if not path.exists():
            continue
        depth = np.load(path)
        if depth.shape != depths.shape[1:]:
            raise BagError(f'{path} is {depth.shape}, but the images are {depths.shape[1:]}')
        depths[index] = depth
        found += 1
    if not found:
        raise BagError(
            f'{folder} holds no STAMP.npy of this bag, whose first stamp is '
            f'{sequence.stamps_ns[0]} ns: give the depth folder that predict or refine wrote'
        )
    return depths


def score_depths(
    sequence: FrameSequence,
    depths: Depths,
    frames: Sequence[FrameScale],
    temporal: TemporalErrors,
    depth_range: DepthRange,
) -> Scores:
    """Compare predicted depths with the truth, where there is one."""
    if sequence.truth is None:
        return Scores(len(depths), None, None, None, temporal, ())
    common = common_scale(frames)
    own, overall, as_is, compared = [], [], [], 0
    for frame in frames:
        pixels = _pixels(sequence.truth[frame.index], depths[frame.index])
        compared += pixels.truth.size
        own.append(_errors(pixels, frame.scale, depth_range))
        overall.append(_errors(pixels, common, depth_range))
        as_is.append(_errors(pixels, 1.0, depth_range))
    known = sum(int(np.isfinite(truth).sum()) for truth in sequence.truth)
    scales = np.array([frame.scale for frame in frames])
    return Scores(
        len(frames),
        compared / known,
        ScaledErrors(mean_errors(own), mean_errors(overall), mean_errors(as_is)),
        ScaleStatistics(float(scales.mean()), float(scales.std())),
        temporal,
        tuple(
            FrameScore(frame.index, frame.scale, errors.abs_rel)
            for frame, errors in zip(frames, overall, strict=True)
        ),
    )


def find_scales(sequence: FrameSequence, depths: Depths) -> list[FrameScale]:
    """Find each frame's own factor; frames without truth are left out; raises WeightsError."""
    if sequence.truth is None:
        return []
    # A generator: the pixels of all frames together may not fit into memory
    pairs = (_pixels(t, d) for t, d in zip(sequence.truth, depths, strict=True))
    found = [
        FrameScale(index, median_scale(pair.truth, pair.prediction))
        for index, pair in enumerate(pairs)
        if pair.truth.size
    ]
    if not found:
        raise WeightsError(
            'the weights predict no finite depth where there is truth: use others, or train anew'
        )
    return found


def common_scale(frames: Sequence[FrameScale]) -> float:
    """One factor for all frames: the median of their own; 1 where there is no truth."""
    return float(np.median([frame.scale for frame in frames])) if frames else 1.0


def score_temporal(
    sequence: FrameSequence, predictions: Sequence[Depths], frames: Sequence[Sequence[FrameScale]]
) -> list[TemporalErrors]:
    """
    Follow several predictions of one sequence over time together, for their motion is one.

    :param frames: per prediction, its factors; the common one makes its depths metres
    """
    tallies = [_TemporalTally([], [], []) for _ in predictions]
    common = [common_scale(scales) for scales in frames]
    follows = np.diff(sequence.stamps_ns) * 1e-9 <= MAX_PAIR_GAP_S
    size = (sequence.images.shape[1], sequence.images.shape[2])
    for index in tqdm(range(len(sequence.stamps_ns)), 'comparing over time', unit='frame'):
        if index == 0 or not np.array_equal(sequence.K[index], sequence.K[index - 1]):
            camera = Camera.build(sequence.K[index], size)
        _add_tcm(sequence, predictions, index, follows, camera, tallies)
        if index == 0 or not follows[index - 1]:
            continue
        flow = optical_flow(sequence.images[index - 1], sequence.images[index])
        motion = _motion(sequence, index - 1, index)
        for tally, depths, scale in zip(tallies, predictions, common, strict=True):
            before, now = (scale * _map(depths[i]) for i in (index - 1, index))
            tally.opw.append(flow_warp_error(before, now, flow))
            if motion is not None:
                tally.tae.append(temporal_alignment_error(before, now, motion, camera))
    return [t.summary(_ratio_std(f, follows)) for t, f in zip(tallies, frames, strict=True)]


def score_poses(sequence: FrameSequence, weights: Weights) -> PoseErrors:
    """Chain the pose network's motions and compare them with the odometry."""
    truth = sequence.world_T_camera
    if truth is None or weights.pose_net is None:
        return PoseErrors(None, None, None)
    size = network_size(
        (sequence.images.shape[1], sequence.images.shape[2]),
        (weights.info.input_height, weights.info.input_width),
    )
    poses = [np.eye(4)]
    earlier = network_input(sequence.frame(0), size).image
    for index in tqdm(range(1, len(truth)), 'following', unit='frame'):
        later = network_input(sequence.frame(index), size).image
        with torch.inference_mode():
            later_T_earlier = weights.pose_net(earlier, later)[0].double().numpy()
        poses.append(poses[-1] @ np.linalg.inv(later_T_earlier))
        earlier = later
    prediction = np.stack(poses)
    snippets = snippet_errors(truth, prediction)
    return PoseErrors(
        snippets.mean if snippets else None,
        snippets.std if snippets else None,
        trajectory_rmse(truth, prediction),
    )


def score_trivial(sequence: FrameSequence, depth_range: DepthRange) -> TrivialScores:
    """Fit the trivial answers to the truth, and score them."""
    assert sequence.truth is not None

    def truths() -> Iterator[Floats]:
        return (truth.astype(np.float64) for truth in sequence.truth)  # type: ignore[union-attr]

    def errors(answer: Floats) -> DepthErrors:
        pairs = (_pixels(truth, answer) for truth in truths())
        return mean_errors([_errors(p, 1.0, depth_range) for p in pairs if p.truth.size])

    cell = LIDAR_CELL_PX if sequence.sparse else 1
    size = (sequence.images.shape[1], sequence.images.shape[2])
    answers = fit_trivial_answers(truths, size, cell)
    return TrivialScores(
        errors(answers.constant), errors(answers.plane), errors(answers.pixel_mean)
    )


@dataclass(frozen=True)
class _Pixels:
    """Where one frame has both a truth and a prediction."""

    truth: Floats  # (N,)
    prediction: Floats  # (N,)


def _pixels(truth: NDArray[Any], prediction: NDArray[Any]) -> _Pixels:
    both = np.isfinite(truth) & np.isfinite(prediction)
    return _Pixels(truth[both].astype(np.float64), prediction[both].astype(np.float64))


def _errors(pixels: _Pixels, scale: float, depth_range: DepthRange) -> DepthErrors:
    clamped = np.clip(scale * pixels.prediction, depth_range.minimum, depth_range.maximum)
    return depth_errors(pixels.truth, clamped)


def _keep_range(truth: Depths, topic: str, depth_range: DepthRange) -> None:
    """Make unknown what is outside the range, in place; raises BagError where nothing is left."""
    left = 0
    for depth in truth:
        with np.errstate(invalid='ignore'):
            known = (depth > depth_range.minimum) & (depth < depth_range.maximum)
        depth[~known] = np.nan
        left += int(known.sum())
    if not left:
        raise BagError(
            f'{topic} has no depth between {depth_range.minimum:g} and {depth_range.maximum:g} m: '
            'is the topic right, and is its unit (16UC1 is mm, 32FC1 is m)?'
        )


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
    tallies: Sequence[_TemporalTally],
) -> None:
    """TCM of a frame with the frames before and after it."""
    truth = sequence.truth
    if truth is None:
        return
    linked = {target - 1: target - 1, target + 1: target}  # neighbour: the step between
    neighbours, motions = [], []
    for index, step in linked.items():
        if 0 <= step < len(follows) and follows[step]:
            motion = _motion(sequence, target, index)
            if motion is not None:
                neighbours.append(index)
                there = truth[index]
                filled = fill_gaps(there, LIDAR_FILL_PX) if sequence.sparse else there
                motions.append(true_motion(_map(truth[target]), _map(filled), motion, camera))
    for tally, depths in zip(tallies, predictions, strict=True):
        predicted = [_map(depths[index]) for index in neighbours]
        tally.tcm.extend(
            tcm_errors(_map(truth[target]), motions, _map(depths[target]), predicted, camera)
        )


def _map(depth: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(depth))


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
