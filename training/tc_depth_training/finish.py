"""The end of a run: its best weights judged, their scale found, and all of it told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights, save_weights
from tc_depth_training.data.windows import WindowDataset
from tc_depth_training.examination import examine
from tc_depth_training.provenance import with_odometry
from tc_depth_training.run import Run
from tc_depth_training.run_folder import LOG_NAME, WEIGHTS_NAME
from tc_depth_training.scale_fit import (
    FittedScale,
    depth_ratio,
    fit_scale,
    measure_motion_ratios,
)
from tc_depth_training.step import FocalFactor, TrainingModel
from tc_depth_training.summary import HeldOutScore, RunSummary
from tc_depth_training.validation import NEWEST, judge, read_batches, spread_windows
from tc_depth_training.watch.log import read_log
from tc_depth_training.watch.model_card import write_model_card
from tc_depth_training.watch.report import write_run_report

FITTING = 'fitting the scale'
MOST_BETWEEN_METRES = 1.5  # times, of measured depth and of weights, without a word
WINDOWS = 256  # at most, that a scale is fitted to, evenly spread


def finish(run: Run, out: Path, stopped: str) -> None:
    """
    Judge the best weights, find their scale, and write weights, model card and report.

    :param stopped: why before the last step; '' if not
    """
    file = out / WEIGHTS_NAME
    weights = load_weights(file, run.processes.device)
    focal = weights.info.notes.get('focal_factors', {}).values()
    model = TrainingModel(
        weights.network,
        weights.pose_net,
        run.config.loss,
        run.config.pose,
        FocalFactor.of(list(focal)).to(run.processes.device) if focal else None,
    )
    # Odometry found wrong after these weights were saved has not told them what a metre is
    share = float(run.with_odometry.mean())
    info, doubts = with_scale(model, with_odometry(weights.info, run.config.pose, share), run)
    save_weights(file, weights.network, info, weights.pose_net)
    most = run.config.validation.max_windows
    examination = examine(model, info.scale, run.held_out, most, run.processes.device)
    doubts += metres_in_doubt(info, examination.scores)
    for doubt in doubts:
        print(f'warning: {doubt}')
    history = read_log(out / LOG_NAME)
    summary = RunSummary(
        run.config,
        info,
        run.data.summaries,
        run.steps_done,
        run.best.step or 0,
        run.best.name,
        examination.scores,
        examination.samples,
        (*(warning.text for warning in history.warnings), *doubts),
        stopped,
        run.duration_s,
    )
    write_run_report(out, summary, history)
    write_model_card(out, summary, file.name, run.start)


def with_scale(
    model: TrainingModel, info: WeightsInfo, run: Run
) -> tuple[WeightsInfo, tuple[str, ...]]:
    """
    Add a scale that is not known, where the bags have measured depth, or odometry, to fit it to.

    :return: and why there is none, in words
    """
    if info.metric:
        return info, ()
    windows, device = run.data.learned, run.processes.device
    reasons = []
    for measure, usable in (
        (_depth_ratios, np.arange(len(windows))),
        (_odometry_ratios, np.flatnonzero(run.with_odometry)),
    ):
        numbers = usable[spread_windows(len(usable), WINDOWS)].tolist()
        ratios, source = measure(model, windows, numbers, device)
        if not source:
            continue
        fitted = fit_scale(ratios, source)
        if isinstance(fitted, FittedScale):
            return _scaled(info, fitted), ()
        reasons.append(f'the scale is not known: {fitted.reason}')
    return info, tuple(reasons)


def metres_in_doubt(info: WeightsInfo, scores: Sequence[HeldOutScore]) -> tuple[str, ...]:
    """Where measured depth has other metres than the weights, as of odometry in another unit."""
    return tuple(
        f'{score.recording}: measured depth is {score.scale:.3g} times that of the weights, whose '
        f'metres are from {info.scale_source}: one of the two has another unit, or depth is not '
        'learned yet'
        for score in scores
        if info.metric
        and score.scale is not None
        and not 1 / MOST_BETWEEN_METRES < score.scale < MOST_BETWEEN_METRES
    )


def _depth_ratios(
    model: TrainingModel, windows: WindowDataset, numbers: list[int], device: torch.device
) -> tuple[NDArray[np.float64], str]:
    """Measured depth over the network's, by image; and its topics, '' where there are none."""
    topics = {r.depth_topic for r in windows.recordings} - {''}
    known = [n for n in numbers if windows.truth(n, NEWEST) is not None]
    judged = judge(model, windows, known, device, FITTING)
    ratios = [depth_ratio(one.truth, one.depth) for one in judged if one.truth is not None]
    return np.array(ratios), _source('depth of', topics) if known else ''


def _odometry_ratios(
    model: TrainingModel, windows: WindowDataset, numbers: list[int], device: torch.device
) -> tuple[NDArray[np.float64], str]:
    """Way by odometry over the network's, by pair of frames; and likewise."""
    topics = {r.odometry_topic for r in windows.recordings} - {''}
    ratios = measure_motion_ratios(model, read_batches(windows, numbers, bar=FITTING), device)
    return ratios, _source('odometry of', topics) if topics else ''


def _source(kind: str, topics: set[str]) -> str:
    return f'{kind} {", ".join(sorted(topics))}'


def _scaled(info: WeightsInfo, fitted: FittedScale) -> WeightsInfo:
    spread = f'{fitted.windows} answers that spread by {100 * fitted.spread:.0f} %'
    source = f'{fitted.source}, fitted at the end of training: {spread}'
    return replace(info, metric=True, scale=fitted.scale, scale_source=source)
