"""What weights say of themselves: of what they were learned, how, and what their depth means."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_training import __version__
from tc_depth_training.config import TrainingConfig
from tc_depth_training.data.recording import Recording
from tc_depth_training.step import TrainingModel


def weights_info(
    config: TrainingConfig, model: TrainingModel, recordings: Sequence[Recording], steps: int
) -> WeightsInfo:
    """
    Describe weights on the way; the scale of learned poses is found when they are finished.

    :param steps: that they have learned
    """
    metric = config.pose != 'learned'
    return WeightsInfo(
        network=model.network.config,
        input_height=config.data.height,
        input_width=config.data.width,
        metric=metric,
        scale_source='odometry, which gave the motion in training' if metric else '',
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


def focal_factors(
    model: TrainingModel, recordings: Sequence[Recording]
) -> dict[str, dict[str, float]]:
    """Focal length found over the one given, by recording; empty where none is sought."""
    if model.focal_factor is None:
        return {}
    names = [recording.name for recording in recordings]
    return {'focal_factors': dict(zip(names, model.focal_factor.factors(), strict=True))}
