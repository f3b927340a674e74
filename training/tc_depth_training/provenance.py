"""What weights say of themselves: of what they were learned, how, and what their depth means."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace

import torch

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_training import __version__
from tc_depth_training.config import TrainingConfig
from tc_depth_training.data.recording import Recording
from tc_depth_training.step import PoseSource, TrainingModel

# Of the windows: with it, most batches of 4 (59 %) hold one that tells the length of a metre; with
# far less, the unit is that of the learned motion between them
LEAST_ODOMETRY = 0.2


def weights_info(
    config: TrainingConfig,
    model: TrainingModel,
    recordings: Sequence[Recording],
    steps: int,
    odometry_share: float,
) -> WeightsInfo:
    """
    Describe weights on the way; the scale of learned poses is found when they are finished.

    :param steps: that they have learned
    :param odometry_share: see with_odometry
    """
    info = WeightsInfo(
        network=model.network.config,
        input_height=config.data.height,
        input_width=config.data.width,
        metric=False,
        pose=model.pose_net.config if model.pose_net else None,
        training_data=', '.join(recording.name for recording in recordings),
        code_version=__version__,
        notes={
            'steps': steps,
            'batch_size': config.batch_size,
            'seed': config.seed,
            'init': config.init,
            'torch': torch.__version__,
            'machine': platform.machine(),
            **focal_factors(model, recordings),
        },
    )
    return with_odometry(info, config.pose, odometry_share)


def with_odometry(info: WeightsInfo, pose: PoseSource, share: float) -> WeightsInfo:
    """
    Say whether odometry has told the weights what a metre is.

    :param share: of the windows learned from, that have odometry which is trusted
    """
    if pose == 'learned':
        return info
    metric = pose == 'odometry' or share >= LEAST_ODOMETRY  # by odometry alone: no other is used
    part = '' if share == 1 else f' of {_percent(share)} of the windows'
    source = f'odometry, which gave the motion in training{part}'
    if not metric:
        source = f'unknown: {source}, too few to set the unit'
    notes = {**info.notes, 'odometry_share': round(share, 4)}
    return replace(info, metric=metric, scale_source=source, notes=notes)


def _percent(share: float) -> str:
    return f'{100 * share:.2g} %' if share < 0.95 else f'{min(100 * share, 99.9):.1f} %'


def focal_factors(
    model: TrainingModel, recordings: Sequence[Recording]
) -> dict[str, dict[str, float]]:
    """Focal length found over the one given, by recording; empty where none is sought."""
    if model.focal_factor is None:
        return {}
    names = [recording.name for recording in recordings]
    return {'focal_factors': dict(zip(names, model.focal_factor.factors(), strict=True))}
