"""
Score weights on a bag: read -> predict, with and without the past -> compare -> table and JSON.

Every frame is used once, in the order of its stamps, so a second run gives the same numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tc_depth_ros.network.checkpoint import Weights, load_weights
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.pipeline import Estimate
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training.data.stretch import WHOLE, Stretch
from tc_depth_training.evaluation.confidence_bins import ConfidenceTally
from tc_depth_training.evaluation.depth_errors import DepthRange
from tc_depth_training.evaluation.depth_scores import (
    find_scales,
    keep_range,
    score_depths,
    score_trivial,
)
from tc_depth_training.evaluation.predictions import (
    Predicted,
    Way,
    predict_trajectory,
    predict_ways,
    read_predictions,
)
from tc_depth_training.evaluation.scores import Evaluation
from tc_depth_training.evaluation.sequence import FrameSequence, Topics, read_sequence
from tc_depth_training.evaluation.temporal_scores import score_temporal
from tc_depth_training.evaluation.trajectory_errors import score_poses


def evaluate(
    bag: Path,
    weights: Path | None = None,
    topics: Topics | None = None,
    depth_range: DepthRange | None = None,
    report: Path | None = None,
    predictions: Path | None = None,
    *,
    confidence: bool = False,
    stretch: Stretch = WHOLE,
) -> Evaluation:
    """
    Score weights on a bag.

    :param weights: None is the embedded model
    :param report: a folder to write a page of pictures to
    :param predictions: a folder of ``STAMP.npy``, scored in place of what the weights predict
        with the past
    :param confidence: follow the weights' predictions as the node does, and score confidence
    :param stretch: of the bag; nothing outside it is looked at
    :raises BagError: the bag cannot be used as asked
    :raises ValueError: confidence is asked for of predictions that are files
    :raises WeightsError: the weights cannot be used
    """
    if confidence and predictions is not None:
        raise ValueError(
            'confidence is of what the weights predict, not of files: leave out --predictions or '
            '--confidence'
        )
    depth_range = depth_range or DepthRange()
    loaded = load_weights(weights or DEFAULT_WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sequence = read_sequence(bag, topics or Topics(), scratch, stretch)
        if sequence.truth is not None:
            keep_range(sequence.truth, sequence.truth_topic, depth_range)
        tally = ConfidenceTally(sequence, loaded) if confidence else None
        watch = tally.add if tally else None
        ours, *without, alone = _predict(sequence, loaded, scratch, predictions, watch)
        matched = any(count for source, count in ours.motions.items() if source != 'none')
        columns = [ours, alone, *(without if matched else [])]
        predicted = [column.depths for column in columns]
        scales = [find_scales(sequence, depths) for depths in predicted]
        temporal = score_temporal(sequence, predicted, scales, metric=loaded.info.metric)
        window, single_frame, *without_motion = (
            score_depths(sequence, *one, depth_range)
            for one in zip(predicted, scales, temporal, strict=True)
        )
        evaluation = Evaluation(
            f'{bag.name}{stretch.suffix}',
            sequence.truth_topic,
            loaded.info.metric,
            window,
            single_frame,
            score_poses(sequence.world_T_camera, predict_trajectory(sequence, loaded)),
            None if sequence.truth is None else score_trivial(sequence, depth_range),
            tally.scores() if tally else None,
            ours.motions if matched else {},
            without_motion[0] if without_motion else None,
        )
        if report is not None:
            from tc_depth_training.evaluation.report import write_report

            write_report(report, evaluation, sequence, predicted[0])
    return evaluation


def _predict(
    sequence: FrameSequence,
    weights: Weights,
    scratch: Path,
    predictions: Path | None,
    watch: Callable[[int, Estimate], None] | None,
) -> list[Predicted]:
    """
    Predict with the past (or read it from files), without motion, and single frames alone.

    The column without motion is there only for weights that match.
    """
    alone = Way(scratch / 'single_frame', alone=True)
    if predictions is not None:
        of_files = Predicted(read_predictions(sequence, predictions, scratch / 'window'), {})
        return [of_files, *predict_ways(sequence, weights, [alone])]
    ways = [Way(scratch / 'window')]
    if isinstance(weights.network, TCDepth) and weights.network.matcher is not None:
        ways.append(Way(scratch / 'without_motion', by_motion=False))
    return predict_ways(sequence, weights, [*ways, alone], watch=watch)
