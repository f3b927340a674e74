"""What a finished run comes to, in words and tables: for its report and its model card alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import torch

from tc_depth_ros.network.build import build_network
from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_ros.network.pose import PoseNet
from tc_depth_training.evaluation.table import SCALINGS
from tc_depth_training.page import Cell, Table
from tc_depth_training.summary import HeldOutScore, RunSummary

CONSTANT = 'the best constant depth'
ERROR_TITLES = (  # of the fields of DepthErrors
    'Abs Rel',
    'Sq Rel [m]',
    'RMSE [m]',
    'RMSE log',
    'delta < 1.25',
    'delta < 1.25²',
    'delta < 1.25³',
)


def parameter_counts(info: WeightsInfo) -> tuple[int, int]:
    """Parameters of the depth network, and of the pose network; 0 without one."""
    with torch.device('meta'):  # counted, not made
        network = build_network(info.network)
        pose_net = PoseNet(info.pose) if info.pose else None
    counts = [sum(p.numel() for p in m.parameters()) if m else 0 for m in (network, pose_net)]
    return counts[0], counts[1]


def network_sentence(summary: RunSummary) -> str:
    """Which network, how large, at which size."""
    info = summary.info
    depth, pose = parameter_counts(info)
    poses = f'; a pose network, {pose / 1e6:.1f} million' if pose else '; no pose network'
    return (
        f'The {summary.config.network.name} network, encoder {info.network.encoder}, '
        f'{depth / 1e6:.1f} million parameters{poses}; trained at '
        f'{info.input_height}x{info.input_width} (height x width).'
    )


def length_sentence(summary: RunSummary) -> str:
    """How long it ran, and why it ended if not at its end."""
    stopped = f'; stopped early: {summary.stopped}' if summary.stopped else ''
    return (
        f'{summary.steps} steps of {summary.config.batch_size} windows in '
        f'{duration(summary.duration_s)}{stopped}.'
    )


def scale_sentence(info: WeightsInfo) -> str:
    """Whether depth is in metres, and how that is known."""
    if not info.metric:
        why = info.scale_source or 'nothing told the network how large the world is'
        return f'Depth is up to an unknown factor: {why.removeprefix("unknown: ")}.'
    factor = '' if info.scale == 1 else f' once multiplied by {info.scale:.4g}, as the node does'
    return f'Depth is in metres{factor}; known from: {info.scale_source or "not recorded"}.'


def choice_sentence(summary: RunSummary) -> str:
    """Which weights were kept, and by what."""
    if not summary.score_name:
        return (
            f'The weights of the last step, {summary.best_step}: nothing was held out to choose '
            'better ones by.'
        )
    held_out = sum(score.windows for score in summary.held_out)
    if summary.best_step == 0:
        return (
            f'The weights that it started from: by {summary.score_name} on {held_out} held-out '
            'windows, nothing better was found.'
        )
    return (
        f'The weights of step {summary.best_step}, the best of those looked at by '
        f'{summary.score_name} on {held_out} held-out windows.'
    )


def against_constant(scores: Sequence[HeldOutScore]) -> tuple[float, float] | None:
    """Abs Rel with one factor for all images, and that of the best constant; mean over windows."""
    pairs = [
        (score.windows, score.depth.overall.abs_rel, score.constant.abs_rel)
        for score in scores
        if score.depth is not None and score.constant is not None and score.windows > 0
    ]
    if not pairs:
        return None
    windows, ours, constant = np.array(pairs).T
    return float(np.average(ours, weights=windows)), float(np.average(constant, weights=windows))


def recordings_table(summary: RunSummary) -> Table:
    """What each recording gave."""
    rows = [
        (
            recording.name,
            recording.image_topic,
            recording.frames,
            recording.windows,
            recording.held_out,
            recording.left_out_text,
        )
        for recording in summary.recordings
    ]
    titles = ('recording', 'images', 'frames', 'windows learned from', 'held out', 'left out')
    return Table(titles, tuple(rows))


def held_out_table(scores: Sequence[HeldOutScore]) -> Table:
    """Errors of appearance and of agreement on held-out windows, by recording."""
    rows = [(s.recording, s.windows, s.photometric, s.geometric) for s in scores]
    titles = ('recording', 'windows', 'reprojection error', 'disagreement of depths')
    return Table(titles, tuple(rows))


def depth_table(scores: Sequence[HeldOutScore]) -> Table:
    """Errors of depth under each scaling, and of the best constant depth, by recording."""
    rows: list[tuple[Cell, ...]] = []
    for score in scores:
        if score.depth is not None:
            rows += [(score.recording, label, *astuple(of(score.depth))) for label, of in SCALINGS]
        if score.constant is not None:
            rows.append((score.recording, CONSTANT, *astuple(score.constant)))
    return Table(('recording', 'depth', *ERROR_TITLES), tuple(rows))


def duration(seconds: float) -> str:
    """A time as people say it."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f'{seconds:.0f} s'
    return f'{minutes} min' if minutes < 120 else f'{minutes // 60} h {minutes % 60:02d} min'
