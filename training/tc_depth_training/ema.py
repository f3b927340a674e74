"""A running mean of the weights, which wanders less than the weights themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from tc_depth_training.step import TrainingModel


def average_weights(model: TrainingModel, decay: float) -> AveragedModel:
    """
    Follow a model: ``mean <- d mean + (1 - d) weights`` with every ``update_parameters``.

    The decay d grows as (1 + n) / (10 + n) to the one given, so that a short run does not end
    near its start; BatchNorm's running statistics are averaged too.
    """

    def follow(means: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
        count = int(updates)
        rate = 1 - min(decay, (1 + count) / (10 + count))
        for mean, weight in zip(means, weights, strict=True):
            if mean.is_floating_point():
                mean.lerp_(weight, rate)
            else:  # BatchNorm counts its batches
                mean.copy_(weight)

    averaged = AveragedModel(model, multi_avg_fn=torch.no_grad()(follow), use_buffers=True)
    averaged.eval().requires_grad_(False)
    return averaged
